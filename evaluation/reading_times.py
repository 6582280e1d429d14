"""Tables for studies of reading times: what is known of each word of an item to predict how long it was looked at.

N words.
"""
import sys

from evaluation.formats import columns_of, in_unit, with_columns
from evaluation.text import by_line
from runtime.log import counted

SPILLED = ("surprisal", "entropy", "length", "log_freq")       # of earlier words: reading them goes on at this one
BEFORE = ("prev", "prev2")


def predictor_rows(text, scores, unit=None, counts=None, tokenizer=None, spillover=0):
    """Of each word of a `Text` of whole words with `Scores`, lists (N,), but of no <eos>: item, condition, word_nr,
    word, surprisal, entropy, length, log_freq, unknown.

    item, condition: those of the table that the text comes from; without an item the number of the line. word_nr: from
    1 on within a line. length: in characters, punctuation included. counts, tokenizer: `WordCounts` of the model's
    training text and what cut it, for log_freq, which is None where it is not known, as for unknown words. spillover:
    the same of how many earlier words of the line follow (0 to 2), None at its beginning; then the table's other
    columns.
    """
    for number, places in by_line(text.ends):
        given, earlier = dict(columns_of(text, number)), []
        of_line = {"item": given.pop("item", number),
                   **({"condition": given.pop("condition")} if "condition" in given else {})}
        for i in (place for place in places if not text.ends[place]):
            word = text.words[i]
            predictors = {
                **of_line, "word_nr": len(earlier) + 1, "word": word,
                "surprisal": in_unit(-scores.logprobs[i], unit or "bits"),
                "entropy": in_unit(scores.entropies[i], unit or "bits"), "length": len(word),
                "log_freq": None if text.unknown[i] or counts is None else counts.log_frequency(word, tokenizer),
                "unknown": int(text.unknown[i])}
            row = dict(predictors)
            for back, prefix in enumerate(BEFORE[:spillover], start=1):
                row |= {f"{prefix}_{name}": earlier[-back][name] if len(earlier) >= back else None for name in SPILLED}
            yield with_columns(row, given)
            earlier.append(predictors)


def warn_of_frequencies(rows, counts):
    """Say on stderr where log_freq is empty."""
    if counts is None:
        print("| log_freq is not known, its column is empty: the model's file has no counts of its training text, as "
              "those of earlier versions and of other programs", file=sys.stderr)
        return
    missing = sum(row["log_freq"] is None for row in rows)
    if missing:
        print(f"| log_freq is empty for {missing:,} of {counted(len(rows), 'words')}: they are unknown, or split in "
              "several", file=sys.stderr)
