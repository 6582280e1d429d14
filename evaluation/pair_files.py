"""Files of sentences that a model is to tell apart -> items: minimal pairs of several formats, and SyntaxGym's suites.

Which format a file has is seen from its contents; Linzen et al.'s is two files, FILE.text and FILE.gold.
"""
import os
from typing import NamedTuple

from corpus.reading import files_in, from_json, naming
from corpus.reading import lines as lines_of
from evaluation import syntaxgym
from evaluation.tables import by_name, delimiter_of, rows_of
from runtime.errors import InputError
from runtime.log import counted

COLUMNS = ("sentence_good", "sentence_bad"), ("good", "bad")      # of a table, where none are named
AGREEMENT = {"pattern", "constr_id", "sent_id", "form", "class", "prefix"}        # columns of generated.tab
PARADIGM, FIELD = ("UID", "paradigm"), ("field", "linguistics_term")


class Span(NamedTuple):
    """A text that is read, and which of its words between white space are scored.

    stop: of the last word, exclusive; None for all from `start` on and <eos>.
    """
    text: str
    start: int = 0
    stop: int | None = None


class Pair(NamedTuple):
    """Two texts of which the first ought to be the likelier. field: of grammar, "" where the file names none."""
    paradigm: str
    field: str
    item: str
    good: Span
    bad: Span


def read(paths, good=None, bad=None):
    """All items of files and of the files in folders -> list of `Pair` and `syntaxgym.Item`, in the order given.

    good, bad: names of a table's two columns. Raises InputError, which names file and line, for what has no format
    known.
    """
    items, files = [], dict.fromkeys(files_in(paths))
    for path in files:
        if path in paths or not (path.endswith(".gold") and f"{path[:-4]}text" in files):    # a .text reads its .gold
            with naming(path):
                items += read_file(path, (good, bad))
    return items


def read_file(path, columns):
    """The items of one file. columns: as of `read`."""
    name, ending = os.path.splitext(os.path.basename(path))
    if ending in (".text", ".gold"):
        return list(agreement_by_position(f"{path[:-5]}.text", f"{path[:-5]}.gold", name))
    lines = list(lines_of(path))
    first = next((line.lstrip() for line in lines if line.strip()), "")
    if not first:
        raise InputError("holds no pairs: it is empty")
    if first.startswith("{"):
        try:
            rows = [from_json("\n".join(lines))]
        except (ValueError, RecursionError):
            rows = [json_object(line, number) for number, line in enumerate(lines, 1) if line.strip()]
        if len(rows) == 1 and "items" in rows[0]:
            return syntaxgym.read(rows[0], name)
        return list(pairs(rows, columns, name, "object"))
    rows = table(lines)
    if rows[0].keys() >= AGREEMENT and not any(columns):
        return list(agreement_by_prefix(rows, name))
    return list(pairs(rows, columns, name, "row"))


def json_object(line, number):
    try:
        value = from_json(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"line {number} is not a JSON object: {line.strip()[:60]!r}")
    return value


def table(lines):
    """The rows of a TSV or CSV file with a heading, empty lines left out -> list of dicts."""
    if not lines:
        raise InputError("is empty")
    delimiter = delimiter_of(lines[0])
    (_, heading), *rows = rows_of("\n".join(lines), delimiter)
    rows = [(number, row) for number, row in rows if row != [""]]
    if not rows:
        raise InputError("holds no pairs: it has no row below its heading")
    return by_name(heading, rows, delimiter)


def pairs(rows, columns, paradigm, what):
    """Rows with a good and a bad sentence each: BLiMP's, its supplement's, tables."""
    names = columns if all(columns) else next((pair for pair in COLUMNS if set(pair) <= rows[0].keys()), None)
    if not names:
        raise InputError("has no columns sentence_good and sentence_bad, nor good and bad; name them with --good and "
                         f"--bad: {', '.join(map(str, list(rows[0])[:8]))}")
    for number, row in enumerate(rows, 1):
        for name in names:
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise InputError(f"{what} {number} has no sentence {name!r}")
        yield Pair(_first(row, PARADIGM) or paradigm, _first(row, FIELD), str(row.get("pairID", number)),
                   Span(row[names[0]]), Span(row[names[1]]))


def _first(row, names):
    """The first of some attributes that a row has, or ""."""
    return next((str(row[name]) for name in names if row.get(name)), "")


def agreement_by_prefix(rows, field):
    """Two rows an item, a form after a prefix each, the correct one and the wrong one (Gulordava et al. 2018)."""
    items = {}
    for number, row in enumerate(rows, 1):
        item = items.setdefault((row["pattern"], row["constr_id"], row["sent_id"]), {})
        if row["class"] not in ("correct", "wrong") or row["class"] in item or not row["form"].strip():
            raise InputError(f"row {number}: an item has one form of class correct and one of class wrong")
        item[row["class"]] = after(row["prefix"], row["form"])
    for (pattern, *numbers), forms in items.items():
        if len(forms) != 2:
            raise InputError(f"item {pattern} {' '.join(numbers)} has no form of class "
                             + ("wrong" if "correct" in forms else "correct"))
        yield Pair(pattern, field, "-".join(numbers), forms["correct"], forms["wrong"])


def after(prefix, form):
    """A form that is scored after a prefix -> Span."""
    words, form = prefix.split(), form.split()
    return Span(" ".join([*words, *form]), len(words), len(words) + len(form))


def agreement_by_position(text, gold, field):
    """Sentences, and of each the position of a verb, from 0 on, its right and its wrong form and how many nouns of the
    other number (attractors) stand before it (Linzen et al. 2016).
    """
    for path in text, gold:
        if not os.path.exists(path):
            raise InputError(f"goes with {path}, which is not there")
    texts = [line.split() for line in lines_of(text)]
    golds = [line.split("\t") for line in lines_of(gold)]
    texts, golds = ([line for line in lines if any(line)] for lines in (texts, golds))
    if len(texts) != len(golds) or not texts:
        raise InputError(f"{text} has {counted(len(texts), 'lines')}, {gold} {len(golds)}: one line each belongs to "
                         "a sentence")
    for number, (words, row) in enumerate(zip(texts, golds), 1):
        position = int(row[0]) if len(row) == 4 and row[0].strip().isdecimal() else -1
        if not 0 <= position < len(words) or words[position] != row[1]:
            raise InputError(f"{gold}: line {number} is not a position, the word there, a wrong one and a number of "
                             f"attractors: {' '.join(row)[:60]!r}")
        prefix = " ".join(words[:position])
        yield Pair(f"{row[3].strip()} attractors", field, str(number), after(prefix, row[1]), after(prefix, row[2]))
