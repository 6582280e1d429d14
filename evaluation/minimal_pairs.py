"""Minimal pairs: how often a model finds the good one of two texts likelier, and SyntaxGym's predictions about regions.

Every text is read on its own, from a zero state and after <eos>, each once. n tokens of a text, its <eos> included.
"""
import math
from collections import Counter
from itertools import chain
from typing import NamedTuple

from corpus.tokenizers import Words
from corpus.tokens import EOS
from evaluation import scoring, syntaxgym
from evaluation.formats import PLAIN
from evaluation.pieces import word_index
from evaluation.tables import write_rows
from evaluation.text import checked_text
from runtime.errors import InputError
from runtime.log import counted, log
from runtime.options import Flag

FLAGS = (
    Flag("minimal_pairs", None, "pairs to score instead: files, or folders of files, of BLiMP (JSON lines), Gulordava "
         "et al. (generated.tab), Linzen et al. (.text with .gold), SyntaxGym (JSON), or tables (TSV, CSV)",
         metavar="FILE", nargs="+"),
    Flag("good", None, "column of a table with the sentence that ought to be likelier; sentence_good or good if not "
         "given", metavar="NAME"),
    Flag("bad", None, "column with the other sentence; sentence_bad or bad if not given", metavar="NAME"),
    Flag("normalise", False, "comparison of log-probabilities per token", bool, only_true=True),
    Flag("without_eos", False, "log-probabilities without the <eos> that ends a sentence", bool,
         only_true=True),
    Flag("per_pair", None, "file for every pair, its log-probabilities and its outcome, in the given --format",
         metavar="FILE"),
)
NAMES = {1.0: "good", 0.0: "bad", 0.5: "tie", None: "unknown"}      # of outcomes: which text is the likelier


class Reading(NamedTuple):
    """A text as a model read it: lists (n,). numbers: of the word between white space that each token is of."""
    tokens: list
    logprobs: list
    unknown: list
    numbers: list


class Verdict(NamedTuple):
    """What came out of an item: 1 for good, 0 for bad, 0.5 for a tie, None where the difference is unknown.

    rows: what is written of it, dicts.
    """
    item: object
    outcome: float | None
    rows: list


def lines_of(items):
    """The texts that items are read in, each of them an item's condition or side."""
    return [part.text for item in items for part in (
        item.conditions.values() if isinstance(item, syntaxgym.Item) else (item.good, item.bad))]


class Texts(NamedTuple):
    """What is read: different texts, the tokens of each with its <eos>, and all of these as a `Text`."""
    lines: list
    tokens: list
    text: object


def cut(lines, vocabulary, device, unknown="unk", untrained_unk=False, name="the pairs"):
    """Cut texts, each once, with <eos> for a newline -> Texts. Unknown words as of `evaluation.text.read_text`."""
    lines = list(dict.fromkeys(lines))
    parts = vocabulary.tokenizer.cut(part for line in lines for part in line.split("\n"))
    tokens = [[token for _ in line.split("\n") for token in (*next(parts), EOS)] for line in lines]
    words, ends = list(chain(*tokens)), [i + 1 == len(line) for line in tokens for i in range(len(line))]
    return Texts(lines, tokens, checked_text(name, words, ends, vocabulary, unknown, untrained_unk, "reset", device))


def read(texts, model, bptt, temperature=1.0, check=lambda: None):
    """Read all `Texts` -> {line: Reading}."""
    logprobs = scoring.score(model, texts.text.streams, bptt, temperature, check=check).logprobs.tolist()
    readings, start, tokenizer = {}, 0, texts.text.tokenizer
    for line, tokens in zip(texts.lines, texts.tokens):
        stop = start + len(tokens)
        numbers = (tokenizer.word_numbers(line.split("\n")) if isinstance(tokenizer, Words) else word_index(tokens))
        readings[line] = Reading(tokens, logprobs[start:stop], texts.text.unknown[start:stop], numbers)
        start = stop
    return readings


def scored(reading, start, stop, with_eos):
    """The log-probabilities of a part of a text, of words from `start` to `stop` -> list. stop: None for all."""
    logprobs = reading.logprobs if stop is None and with_eos else reading.logprobs[:-1]
    stop = math.inf if stop is None else stop
    return [logprob for logprob, number in zip(logprobs, reading.numbers) if start <= number < stop]


def differ_unknown(readings):
    """Whether some token that is not in all of the readings alike is unknown."""
    common = Counter(readings[0].tokens)
    for reading in readings[1:]:
        common &= Counter(reading.tokens)
    return any(not unknown_tokens.isdisjoint(Counter(reading.tokens) - common) for reading in readings
               if (unknown_tokens := {token for token, unknown in zip(reading.tokens, reading.unknown) if unknown}))


def outcome(good, bad):
    """1 where the first of two numbers is the greater, 0 where the other is, 0.5 for a tie."""
    return 0.5 if good == bad else float(good > bad)


def compare(pair, readings, normalise, with_eos):
    """A `pair_files.Pair` -> Verdict."""
    sides = [readings[span.text] for span in (pair.good, pair.bad)]
    parts = [scored(side, span.start, span.stop, with_eos) for side, span in zip(sides, (pair.good, pair.bad))]
    sums = [math.fsum(part) for part in parts]
    good, bad = (total / max(1, len(part)) for total, part in zip(sums, parts)) if normalise else sums
    result = None if differ_unknown(sides) else outcome(good, bad)
    row = {"paradigm": pair.paradigm, "field": pair.field, "item": pair.item, "good": pair.good.text,
           "bad": pair.bad.text, "logprob_good": sums[0], "logprob_bad": sums[1], "tokens_good": len(parts[0]),
           "tokens_bad": len(parts[1]), "outcome": NAMES[result]}
    return Verdict(pair, result, [row])


def predict(item, readings):
    """A `syntaxgym.Item` -> Verdict: 1 where all of its predictions hold."""
    def surprisal(region):
        condition = item.conditions[region.condition]
        start, stop = (0, math.inf) if region.number is None else condition.regions[region.number]
        part = [-logprob for logprob in scored(readings[condition.text], start, stop, False)]
        return syntaxgym.METRICS[item.metric](part) if part else 0.0

    unknown = differ_unknown([readings[condition.text] for condition in item.conditions.values()])
    outcomes = {formula: None if unknown else syntaxgym.outcome(tree, surprisal)
                for formula, tree in item.predictions.items()}
    rows = [{"paradigm": item.paradigm, "field": item.field, "item": item.item, "prediction": formula,
             "outcome": {"good": "true", "bad": "false"}.get(NAMES[result], NAMES[result])}
            for formula, result in outcomes.items()]
    return Verdict(item, None if unknown else min(outcomes.values()), rows)


# ---- accuracy

def interval(share, n, z=1.959964):
    """The 95% interval of a share of n independent items (Wilson 1927) -> two numbers."""
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return tuple((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))


def figures(outcomes):
    """The accuracy of a list of outcomes, as of a `Verdict` -> dict. Ties count as half; None is left out."""
    known = [each for each in outcomes if each is not None]
    accuracy = math.fsum(known) / len(known) if known else None
    return {"accuracy": accuracy, "interval": interval(accuracy, len(known)) if known else None, "items": len(known),
            "ties": known.count(0.5), "unknown": len(outcomes) - len(known)}


def by(verdicts, attribute):
    """{name: figures} of the verdicts by an attribute of their items; those without one are left out."""
    groups = {}
    for verdict in verdicts:
        groups.setdefault(getattr(verdict.item, attribute), []).append(verdict.outcome)
    return {name: figures(outcomes) for name, outcomes in groups.items() if name}


def log_figures(name, group):
    if group["accuracy"] is None:
        log(f"| {name} | no item whose difference the model knows, of {group['unknown']:,}")
        return
    low, high = group["interval"]
    log(f"| {name} | accuracy {group['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%}) | "
        + counted(group["items"], "items")
        + (f" | {counted(group['ties'], 'ties')}, counted as half" if group["ties"] else "")
        + (f" | {group['unknown']:,} more not scored: their difference is unknown to the model"
           if group["unknown"] else ""))


# ---- the script

def check_flags(args, items):
    """Raise InputError for flags that do not go together, or have no effect on these items."""
    if (args.good is None) != (args.bad is None):
        raise InputError("--good and --bad name two columns of a table: give both")
    if args.normalise and items and all(isinstance(item, syntaxgym.Item) for item in items):
        raise InputError("--normalise does nothing for suites of SyntaxGym, which say themselves what is compared")
    if items and args.format not in PLAIN:
        raise InputError(f"--format {args.format} is of words; --per-pair is written as {' or '.join(PLAIN)}")


def evaluate(args, items, texts, model, check):
    """Judge all items, log accuracies and write --per-pair -> dict for a result. texts: those that `cut` gives."""
    readings = read(texts, model, args.bptt, args.temperature, check)
    verdicts = [predict(item, readings) if isinstance(item, syntaxgym.Item) else
                compare(item, readings, args.normalise, not args.without_eos) for item in items]
    summary = {"all": figures([verdict.outcome for verdict in verdicts]), "fields": by(verdicts, "field"),
               "paradigms": by(verdicts, "paradigm")}
    accuracies = [each["accuracy"] for each in summary["paradigms"].values() if each["accuracy"] is not None]
    summary["mean_of_paradigms"] = math.fsum(accuracies) / len(accuracies) if accuracies else None
    for kind in ("paradigms", "fields"):
        for name, each in summary[kind].items():
            log_figures(f"{kind[:-1]} {name}", each)
    log_figures("all", summary["all"])
    if len(accuracies) > 1:
        log(f"| mean of the paradigms' accuracies {summary['mean_of_paradigms']:.1%}")
    if args.per_pair:
        rows = list(chain.from_iterable(verdict.rows for verdict in verdicts))
        names = dict.fromkeys(name for row in rows for name in row)
        write_rows(args.per_pair, [{name: row.get(name, "") for name in names} for row in rows], args.format)
    return {"minimal_pairs": summary}
