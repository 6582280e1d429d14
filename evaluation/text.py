"""A text that is scored: its words read, and what was found about them written, as rows.

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

from data import EOS, UNK, batchify_split, read_words, short
from runtime.errors import InputError
from runtime.log import perplexity
from runtime.paths import atomic_write
from runtime.record import finite


class Text(NamedTuple):
    """Words to be scored, and the streams of ids that they are in, (N + 1, 1) in all, of each all but its first."""
    name: str
    words: list
    streams: list


def read_text(path, vocabulary, unknown, context, device):
    """The words of a file, or of standard input for `-`, with <eos> after each line -> Text.

    vocabulary: the model's words; unknown: "unk" reads others as <unk>, and says so on stderr, "error" refuses them.
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    if EOS not in ids:
        raise InputError(f"the model does not know {EOS}, which ends the lines of a text; it can score its splits only")
    name = "standard input" if path == "-" else path
    words = read_words(os.dup(0) if path == "-" else path, name)
    if not words:
        raise InputError(f"{name}: the text is empty")
    unknown_words = Counter(word for word in words if word not in ids)
    if unknown_words:
        shown = ", ".join(short(word) for word, _ in unknown_words.most_common(5))
        shown += ", …" if len(unknown_words) > 5 else ""
        if unknown == "error" or UNK not in ids:
            raise InputError(f"{name}: the model does not know {len(unknown_words)} of the words: {shown}"
                             + ("; --unknown unk reads them as <unk>" if UNK in ids else ", and has no <unk>"))
        print(f"| {unknown_words.total()} of {len(words)} tokens are unknown and read as {UNK}: {shown}",
              file=sys.stderr)
    stream = torch.tensor([ids[EOS], *(ids.get(word, ids.get(UNK)) for word in words)], device=device)
    return Text("text", words, contexts(stream[:, None], ids[EOS], context))


def read_split(split, corpus, args):
    """A split as published figures score it, without its first word -> Text; for a reset context that is there, too."""
    vocabulary = corpus.dictionary
    stream = batchify_split(split, corpus, 1, args)                # (N + 1, 1)
    eos = vocabulary.word2idx.get(EOS)
    if args.context == "reset":
        if eos is None:
            raise InputError(f"the model does not know {EOS}, which ends the lines of a text; use --context carry")
        stream = torch.cat([stream.new_tensor([[eos]]), stream])
    words = [vocabulary.idx2word[i] for i in stream[1:, 0].tolist()]
    return Text(split, words, contexts(stream, eos, args.context))


def contexts(stream, eos, context):
    """What is read from a zero state each: all of `stream` (N + 1, 1), or with "reset" every line, after an <eos>."""
    if context == "carry":
        return [stream]
    starts = (stream[:-1, 0] == eos).nonzero()[:, 0].tolist()          # the <eos> that each line is read after
    return [stream[start:stop + 1] for start, stop in zip(starts, [*starts[1:], len(stream)])]


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
                file.write(json.dumps(finite(row), ensure_ascii=False) + "\n")
            else:
                file.write(("\t".join(row) + "\n" if i == 0 else "") + "\t".join(map(str, row.values())) + "\n")


@contextmanager
def writing(path):
    """A text file that appears whole or not at all; `-` is standard output, also where that stands for stderr now.

    Links are followed, and a device or a pipe is written to, not replaced.
    """
    if path == "-" or _is_special(path):
        with open(sys.__stdout__.fileno() if path == "-" else path, "w", encoding="utf-8", closefd=path != "-") as file:
            yield file
        return
    with atomic_write(path) as file:
        yield file


def _is_special(path):
    return os.path.exists(path) and not os.path.isfile(path)


def check_outputs(outputs, inputs):
    """Say now, not after the work, that one of `outputs` cannot be written, or stands in for another file."""
    taken = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.isdir(path):
            raise InputError(f"{path} is a folder; give the name of a file")
        name = path if path == "-" else os.path.realpath(path)
        if name in taken:
            what = "standard output" if path == "-" else path
            raise InputError(f"{what} is wanted for two things; give every output a file of its own")
        if path != "-" and _is_special(path):
            continue                                                   # /dev/null holds any number of things
        taken.add(name)
        if path != "-":
            try:
                with open(f"{name}.partial", "w"):
                    pass
                os.unlink(f"{name}.partial")
            except OSError as error:
                raise InputError(f"{path} cannot be written ({error.strerror})") from None
