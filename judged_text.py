"""A text that is judged: its words read, and what was found about them written, as rows.

N tokens.
"""
import json
import math
import os
import sys
from collections import Counter
from contextlib import contextmanager
from typing import NamedTuple

import torch

from corpora import columns
from data import EOS, UNK
from engine import perplexity
from errors import InputError


class Text(NamedTuple):
    """Words to be scored and the column (N + 1, 1) of ids that they are in, all but its first."""
    name: str
    words: list
    column: torch.Tensor


def read_text(path, vocabulary, unknown, device):
    """The words of a file, or of standard input for `-`, with <eos> after each line -> Text.

    vocabulary: the model's words; unknown: "unk" reads others as <unk>, and says so on stderr, "error" refuses them.
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    if EOS not in ids:
        raise InputError(f"the model does not know {EOS}, which ends the lines of a text; it can judge its splits only")
    try:
        with open(0 if path == "-" else path, encoding="utf-8", closefd=path != "-") as file:
            words = [word for line in file for word in (*line.split(), EOS)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it first") from None
    if not words:
        raise InputError(f"{path}: the text is empty")
    strange = Counter(word for word in words if word not in ids)
    if strange:
        shown = ", ".join(word for word, _ in strange.most_common(5)) + (", …" if len(strange) > 5 else "")
        if unknown == "error" or UNK not in ids:
            raise InputError(f"{path}: the model does not know {len(strange)} of the words: {shown}"
                             + ("; --unknown unk reads them as <unk>" if UNK in ids else ", and has no <unk>"))
        print(f"| {strange.total()} of {len(words)} tokens are unknown and read as {UNK}: {shown}", file=sys.stderr)
    column = torch.tensor([ids[EOS], *(ids.get(word, ids.get(UNK)) for word in words)], device=device)
    return Text("text", words, column[:, None])


def read_split(split, corpus, args):
    column = columns(f"{split}.txt", getattr(corpus, split), 1, args)
    return Text(split, [corpus.dictionary.idx2word[i] for i in column[1:, 0].tolist()], column)


def sentences(words):
    """Number of the sentence that each word is in, from 1 on; <eos> ends one."""
    number, found = 1, []
    for word in words:
        found.append(number)
        number += word == EOS
    return found


def characters(words):
    """How many characters a text is written in: a separator after each word, and a line's end for an empty line."""
    return sum(len(word) + 1 if word != EOS else before == EOS for before, word in zip([EOS, *words], words))


def token_rows(words, logprobs, ranks):
    for position, (sentence, word, logprob, rank) in enumerate(zip(sentences(words), words, logprobs, ranks), start=1):
        yield {"position": position, "sentence": sentence, "word": word, "logprob": logprob, "rank": rank}


def sentence_rows(words, logprobs):
    numbers, start = sentences(words), 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number:
            total = math.fsum(logprobs[start:i + 1])
            yield {"sentence": number, "tokens": i + 1 - start, "logprob": total,
                   "perplexity": perplexity(-total / (i + 1 - start)), "text": " ".join(words[start:i + 1])}
            start = i + 1


def write_rows(path, rows, kind):
    """Rows, dicts with the same names, as TSV with a heading or as one JSON object per line."""
    with writing(path) as file:
        for i, row in enumerate(rows):
            if kind == "json":
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                file.write(("\t".join(row) + "\n" if i == 0 else "") + "\t".join(map(str, row.values())) + "\n")


@contextmanager
def writing(path):
    """A text file that appears whole or not at all; `-` is standard output, also where that stands for stderr now."""
    if path == "-":
        yield sys.__stdout__
        sys.__stdout__.flush()
        return
    partial = f"{path}.partial"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            yield file
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def check_writable(path):
    """Say now, not after the work, that a file cannot be written."""
    if path and path != "-":
        with writing(f"{path}.try") as file:
            file.write("")
        os.unlink(f"{path}.try")
