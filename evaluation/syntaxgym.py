"""Test suites of SyntaxGym (Gauthier et al. 2020): conditions of an item in regions, and predictions about surprisals.

A prediction compares sums of surprisals: `(5;%match%) < (5;%mismatch%)`, where (R;%C%) is the surprisal of region R in
condition C, and `*` is the whole sentence. + and - add up, & and | join comparisons, ( ) and [ ] group.
"""
import math
import re
import statistics
from typing import NamedTuple

from runtime.errors import InputError

METRICS = {"sum": math.fsum, "mean": statistics.fmean, "median": statistics.median, "max": max, "min": min,
           "range": lambda values: max(values) - min(values)}
TOKENS = re.compile(r"\s*(?:[(\[]\s*(\d+|\*)\s*;\s*%([^%]+)%\s*[)\]]|(\d+(?:\.\d+)?)|([-+<>=&|()\[\]]))")
LEVELS = ("|", "&", "<>=", "+-")                   # from what binds least to what binds most
CLOSING = {"(": ")", "[": "]"}


class Region(NamedTuple):
    """A region of a condition in a formula; number: None for the whole sentence."""
    number: int | None
    condition: str


class Condition(NamedTuple):
    """text: the regions' contents with spaces between them; regions: {number: (start, stop)} in words of the text."""
    text: str
    regions: dict


class Item(NamedTuple):
    """paradigm: the suite's name; conditions: {name: Condition}; predictions: {formula: parsed}; metric: in METRICS."""
    paradigm: str
    field: str
    item: str
    conditions: dict
    predictions: dict
    metric: str


def read(suite, name):
    """The items of a suite, what its JSON says -> list of Item."""
    try:
        meta = suite.get("meta") or {}
        name, metric = meta.get("name") or name, meta.get("metric") or "sum"
        formulas = [prediction["formula"] for prediction in suite["predictions"]]
        items = [(str(item["item_number"]), {each["condition_name"]: _condition(each["regions"])
                                             for each in item["conditions"]}) for item in suite["items"]]
        if not all(isinstance(each, str) for each in (name, metric, *formulas)):
            raise TypeError("a name, a metric or a formula is no string")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"is no suite of SyntaxGym ({type(error).__name__}: {error})") from None
    if metric not in METRICS:
        raise InputError(f"the metric {metric!r} of surprisals is none of {', '.join(METRICS)}")
    if not items or not formulas:
        raise InputError("the suite has no items, or no predictions")
    predictions = {formula: parse(formula) for formula in formulas}
    for number, conditions in items:
        for formula, tree in predictions.items():
            _check(tree, conditions, formula, number)
    return [Item(name, "", number, conditions, predictions, metric) for number, conditions in items]


def _condition(regions):
    words, spans = [], {}
    for region in sorted(regions, key=lambda region: int(region["region_number"])):
        start = len(words)
        words += region["content"].split()
        spans[int(region["region_number"])] = (start, len(words))
    return Condition(" ".join(words), spans)


def parse(formula):
    """A formula -> nested tuples (operator, left, right), with `Region`s and numbers as leaves."""
    tokens, end = [], 0
    for match in TOKENS.finditer(formula):
        if match.start() != end:
            break
        region, condition, number, symbol = match.groups()
        tokens.append(Region(None if region == "*" else int(region), condition) if region else
                      float(number) if number else symbol)
        end = match.end()
    try:
        if formula[end:].strip():
            raise ValueError
        tree = _expression(tokens, 0)
        if tokens or not _is_comparison(tree):
            raise ValueError
    except (ValueError, IndexError, RecursionError):
        raise InputError(f"the formula {formula[:80]!r} is none: (region;%condition%), + - < > = & | and brackets"
                         ) from None
    return tree


def _expression(tokens, level):
    """Take an expression of a level off the front of `tokens`."""
    if level == len(LEVELS):
        return _operand(tokens)
    left = _expression(tokens, level + 1)
    while tokens and isinstance(tokens[0], str) and tokens[0] in LEVELS[level]:
        operator = tokens.pop(0)
        left = (operator, left, _expression(tokens, level + 1))
    return left


def _operand(tokens):
    token = tokens.pop(0)
    if token == "-":
        return ("-", 0.0, _operand(tokens))
    if not isinstance(token, str):
        return token
    inside = _expression(tokens, 0) if token in CLOSING else None
    if inside is None or tokens.pop(0) != CLOSING[token]:
        raise ValueError
    return inside


def _is_comparison(tree):
    """Whether a tree says yes or no; ValueError where it takes a number for that, or the other way round."""
    if isinstance(tree, (Region, float)):
        return False
    operator, *sides = tree
    joins = operator in "&|"
    if any(_is_comparison(side) != joins for side in sides):
        raise ValueError
    return joins or operator in "<>="


def _check(tree, conditions, formula, item):
    def look_up(region):
        condition = conditions.get(region.condition)
        if condition is None or region.number not in (None, *condition.regions):
            shown = "*" if region.number is None else region.number
            raise InputError(f"item {item} has no ({shown};%{region.condition}%), which {formula[:80]!r} asks for")
        return 0.0
    outcome(tree, look_up)


def outcome(tree, surprisal):
    """How a prediction comes out: 1 for true, 0 for false, 0.5 where what is compared by < or > is equal.

    surprisal: Region -> number. & is the least of its sides, | the greatest.
    """
    if isinstance(tree, float):
        return tree
    if isinstance(tree, Region):
        return surprisal(tree)
    operator, left, right = tree[0], outcome(tree[1], surprisal), outcome(tree[2], surprisal)
    if operator in "+-":
        return left + right if operator == "+" else left - right
    if operator in "&|":
        return min(left, right) if operator == "&" else max(left, right)
    if operator == "=":
        return float(left == right)
    return 0.5 if left == right else float((left < right) == (operator == "<"))
