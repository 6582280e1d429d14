"""n-best lists of a speech recogniser or a translator, scored anew: score + weight · log-probability."""
import math

from corpus.reading import lines
from evaluation.formats import sentence_rows
from evaluation.tables import write_rows
from runtime import values
from runtime.errors import InputError
from runtime.options import Flag

TEXT = "hypothesis"          # the column that the model reads
FLAGS = (
    Flag("nbest", None, "lists to score instead, one hypothesis a line: the id of its list, its score and its "
         "words, separated by spaces or tabs; - is standard input", metavar="FILE"),
    Flag("weight", 1.0, "weight of the model's log-probability in nats, <eos> included, in a combined score",
         values.real, "X"),
    Flag("rescored", None, "file for every hypothesis with its scores; standard output if neither this nor --best is "
         "given", metavar="FILE"),
    Flag("best", None, "file for the hypothesis of each list with the highest combined score", metavar="FILE"),
)


def read_lists(file, name, column):
    """The hypotheses of a file -> dicts with id, score and, as `column`, the words. Empty lines are passed over.

    Raises InputError, which names the line, where one has no score.
    """
    rows = []
    for number, line in enumerate(lines(file, name), start=1):
        words = line.split()
        if not words:
            continue
        try:
            score = float(words[1])
        except (IndexError, ValueError):
            score = math.nan
        if math.isnan(score) or score == math.inf:                 # -inf: what a recogniser has ruled out
            raise InputError(f"{name}: line {number} is not an id, a score and a hypothesis: {line.strip()[:60]!r}")
        rows.append({"id": words[0], "score": score, column: " ".join(words[2:])})
    return rows


def rescored(text, logprobs, weight):
    """A `Text` of hypotheses with the log-probabilities (N,) of its words -> a dict for each hypothesis."""
    for given, row in zip(text.columns, sentence_rows(text._replace(columns=None), logprobs)):
        yield {"id": given["id"], "score": given["score"], "logprob": row["logprob"],
               "combined": given["score"] + weight * row["logprob"], TEXT: given[TEXT]}


def best(rows):
    """Of each list the hypothesis with the highest combined score, of equal ones the first -> dicts.

    The lists come in the order in which they appeared.
    """
    best_by_list = {}
    for row in rows:
        if row["id"] not in best_by_list or row["combined"] > best_by_list[row["id"]]["combined"]:
            best_by_list[row["id"]] = row
    return list(best_by_list.values())


def write(args, text, logprobs):
    """Write what was asked for of a `Text` of hypotheses."""
    rows = list(rescored(text, logprobs, args.weight))
    for path, chosen_rows in (args.rescored, rows), (args.best, best(rows)):
        if path:
            write_rows(path, chosen_rows, args.format)
