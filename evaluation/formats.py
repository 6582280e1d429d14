"""What is written of a scored text, as rows: of each word, in our own format or another tool's, or of each line.

Surprisal is minus the log-probability of a word given what comes before it. Entropy is that of the distribution which
predicts the word, before it is read; its reduction is max(0, H of the word before - H), 0 for the first word of a line
(as neural-complexity has it, van Schijndel & Linzen 2018).
"""
import math

from evaluation.text import by_line, sentences
from runtime.log import perplexity

NATS = {"bits": math.log(2), "nats": 1.0}      # in one of each unit


def in_unit(nats, unit):
    return nats / NATS[unit] + 0.0             # + 0.0: none is written as -0.0


def reductions(entropies, ends):
    """By how much each entropy (N,) is below the one before it in its line. ends (N,): whether each word ends one."""
    before = [entropies[max(i - 1, places[0])] for _, places in by_line(ends) for i in places]
    return [max(0.0, one - two) for one, two in zip(before, entropies)]


def token_rows(text, scores, unit=None):
    """Of each word of a `Text` with `Scores`, lists (N,). unit: that of surprisals, bits if entropies are there."""
    numbers, unit = sentences(text.ends), unit or ("bits" if scores.entropies else None)
    reduced = reductions(scores.entropies, text.ends) if scores.entropies else None
    for i, (word, logprob) in enumerate(zip(text.words, scores.logprobs)):
        row = {"position": i + 1, "sentence": numbers[i], "word": word, "logprob": logprob}
        if scores.ranks:
            row["rank"] = scores.ranks[i]
        if unit:
            row["surprisal"] = in_unit(-logprob, unit)
        if reduced:
            row["entropy"] = in_unit(scores.entropies[i], unit)
            row["entropy_reduction"] = in_unit(reduced[i], unit)
        yield with_columns({**row, "unknown": int(text.unknown[i])}, columns_of(text, numbers[i]))


def neural_complexity_rows(text, scores, unit=None):
    """As neural-complexity writes them, but for the separator: numbers from 0 on, and the <eos> that ends a line counts
    but has no row."""
    reduced, unit = reductions(scores.entropies, text.ends), unit or "bits"
    for number, places in by_line(text.ends):
        for place, i in enumerate(places):
            if not text.ends[i]:
                yield {"word": text.words[i], "sentid": number - 1, "sentpos": place, "wlen": len(text.words[i]),
                       "surp": in_unit(-scores.logprobs[i], unit), "entropy": in_unit(scores.entropies[i], unit),
                       "entred": in_unit(reduced[i], unit)}


def lm_zoo_rows(text, scores, unit=None):
    """As lm-zoo writes them, but that the first word has a score, too: numbers from 1 on, <eos> is a token."""
    for number, places in by_line(text.ends):
        for place, i in enumerate(places, start=1):
            yield {"sentence_id": number, "token_id": place, "token": text.words[i],
                   "surprisal": in_unit(-scores.logprobs[i], unit or "bits")}


FORMATS = {"tsv": token_rows, "csv": token_rows, "json": token_rows,
           "neural-complexity": neural_complexity_rows, "lm-zoo": lm_zoo_rows}
PLAIN = ("tsv", "csv", "json")                        # all others are those of other tools
WITH_ENTROPY = {"neural-complexity"}


def sentence_rows(text, logprobs, unit=None):
    """Of each line of a `Text` with its words' log-probabilities (N,); its text without the <eos> that ends it. unit:
    that of its surprisal, if asked for."""
    for number, places in by_line(text.ends):
        total, tokens = math.fsum(logprobs[i] for i in places), len(places)
        yield with_columns({"sentence": number, "tokens": tokens, "logprob": total,
                            **({"surprisal": in_unit(-total, unit)} if unit else {}),
                            "perplexity": perplexity(-total / tokens),
                            "text": text.tokenizer.show([text.words[i] for i in places if not text.ends[i]]),
                            "unknown": sum(text.unknown[i] for i in places)}, columns_of(text, number))


def columns_of(text, sentence):
    """What the file itself says of a line -> dict."""
    return text.columns[sentence - 1] if text.columns else {}


def with_columns(row, given):
    """A row with the columns of its line in the file; a name that is taken gets _given behind it, until it is not."""
    row = dict(row)
    for name, value in given.items():
        while name in row:
            name += "_given"
        row[name] = value
    return row
