"""A text that is scored: its words read, and rows of what was found about them written.

N tokens.
"""
import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from typing import NamedTuple

import torch

from corpus.reading import lines, naming, short, size_of
from corpus.tokenizers import Tokenizer, Words
from data import EOS, UNK, batchify_split
from runtime.errors import InputError
from runtime.log import data_stream
from runtime.paths import atomic_write
from runtime.record import finite


class Text(NamedTuple):
    """Words to be scored, and the streams of ids that they are in, (N + 1, 1) in all, of each all but its first.

    ends: whether each word is the <eos> that ends its line; unknown: whether it is read as <unk> in place of itself.
    columns: for each line, what else the file says of it, a dict. size: how many "tokens", "words" and "bytes" the text
    has, where that is known. tokenizer: what cut the text into these words, which may be pieces of words.
    """
    name: str
    words: list
    ends: list
    unknown: list
    streams: list
    columns: list | None = None
    size: dict | None = None
    tokenizer: Tokenizer = Words()


LOUD = 0.05             # share of unknown words from which on perplexities say little


def read_text(path, vocabulary, unknown, context, device, column=None, untrained_unk=False, read_rows=None):
    """The words of a file, or of standard input for `-`, with <eos> after each line -> Text.

    vocabulary: the model's `Vocabulary`; unknown: "unk" reads others as <unk>, and says so on stderr, "error" refuses
    them. column: the file is TSV with a heading, and this column of it is the text, one line each. untrained_unk: the
    model never saw <unk> in training, which is said where it is read. read_rows: what reads a table of another kind,
    called as `read_table`.
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    if EOS not in ids:
        raise InputError(f"the model does not know {EOS}, which ends the lines of a text; it can score its splits only")
    name = "standard input" if path == "-" else path
    file, rows = (os.dup(0) if path == "-" else path), None
    if column is None:
        raw = list(lines(file, name))
    else:
        rows = (read_rows or read_table)(file, name, column)
        raw = [row[column] for row in rows]
    if not raw:
        raise InputError(f"{name}: the text is empty")
    words, ends = [], []
    with naming(name):
        for tokens in vocabulary.tokenizer.cut(raw):
            words += [*tokens, EOS]
            ends += [*[False] * len(tokens), True]
    unknown_words = Counter(word for word in words if word not in ids)
    if unknown_words:
        warn_of_unknown(name, unknown_words, len(words), unknown, UNK in ids, untrained_unk)
    return to_text(words, ends, ids, context, device, columns=rows, size={"tokens": len(words), **size_of(raw)},
                   tokenizer=vocabulary.tokenizer)


def to_text(words, ends, ids, context, device, **more):
    """Words that are read after an <eos>, unknown ones as <unk> -> Text.

    ends: whether each word is the <eos> that ends its line. ids: {word: id} of the model's vocabulary, <eos> among it,
    and <unk> where there are unknown words. more: other fields of a Text.
    """
    stream = torch.tensor([ids[EOS], *(ids.get(word, ids.get(UNK)) for word in words)], device=device)       # (N + 1,)
    return Text("text", words, ends, [word not in ids for word in words],
                contexts(stream[:, None], [True, *ends], context), **more)


def read_utf8_lines(file, name):
    """The lines of a path or descriptor, without their ends, which may be \\n, \\r\\n or \\r -> list."""
    with naming(name), open(file, encoding="utf-8-sig", newline=None) as lines:
        try:
            return [line.rstrip("\n") for line in lines]
        except UnicodeDecodeError:
            raise InputError("is not UTF-8; convert it to UTF-8 text") from None


def read_table(file, name, column):
    """A TSV file's rows as dicts. Raises InputError where it has no such column, or rows of another length."""
    heading, *rows = [line.split("\t") for line in read_utf8_lines(file, name)] or [[]]
    with naming(name):
        if not heading:
            raise InputError("the text is empty")
        if column not in heading:
            raise InputError(f"has no column {column!r} in its heading: {', '.join(heading[:8])}")
        for number, row in enumerate(rows, start=2):
            if len(row) != len(heading):
                raise InputError(f"line {number} has {len(row)} columns, the heading {len(heading)}")
    return [dict(zip(heading, row)) for row in rows]


UNTRAINED = f"; the model saw no {UNK} in training: what it makes of them says nothing"


def warn_of_unknown(name, unknown_words, tokens, policy, has_unk, untrained_unk=False):
    """Say on stderr which words are read as <unk>, or raise InputError where they are to be refused."""
    shown = ", ".join(short(word) for word, _ in unknown_words.most_common(5))
    shown += ", …" if len(unknown_words) > 5 else ""
    if policy == "error" or not has_unk:
        raise InputError(f"{name}: the model does not know {len(unknown_words)} of the words: {shown}"
                         + ("; --unknown unk reads them as <unk>" if has_unk else ", and has no <unk>"))
    share = unknown_words.total() / tokens
    loud = "WARNING: " if share > LOUD or untrained_unk else ""
    advice = UNTRAINED if untrained_unk else "; perplexities of such a text say little" if loud else ""
    print(f"| {loud}{unknown_words.total()} of {tokens} tokens ({share:.1%}) are unknown and read as {UNK}: {shown}"
          f"{advice}", file=sys.stderr)


def read_split(split, corpus, args, context="carry"):
    """A split as published figures score it, without its first word -> Text; for a reset context that is there, too.

    How much of it is <unk> is said on stderr.
    """
    vocabulary = corpus.dictionary
    stream = batchify_split(split, corpus, 1, args)                # (N + 1, 1)
    eos = vocabulary.word2idx.get(EOS)
    if context == "reset":
        if eos is None:
            raise InputError(f"the model does not know {EOS}, which ends the lines of a text; use --context carry")
        stream = torch.cat([stream.new_tensor([[eos]]), stream])
    ids = stream[:, 0].tolist()
    share = ids.count(vocabulary.word2idx.get(UNK)) / len(ids)
    if share:
        loud = "WARNING: " if share > LOUD or args.untrained_unk else ""
        print(f"| {loud}{share:.1%} of the tokens of {split} are {UNK}{UNTRAINED if args.untrained_unk else ''}",
              file=sys.stderr)
    words, ends = [vocabulary.idx2word[i] for i in ids[1:]], [i == eos for i in ids]
    return Text(split, words, ends[1:], [False] * len(words), contexts(stream, ends, context),
                size=corpus.sizes.get(split), tokenizer=corpus.tokenizer)


def contexts(stream, ends, context):
    """What is read from a zero state each: all of `stream` (N + 1, 1), or with "reset" every line, after an <eos>.

    ends: for each of the N + 1 tokens whether it ends a line.
    """
    if context == "carry":
        return [stream]
    starts = [i for i, end in enumerate(ends[:-1]) if end]             # the <eos> that each line is read after
    return [stream[start:stop + 1] for start, stop in zip(starts, [*starts[1:], len(stream)])]


def sentences(ends):
    """Number of the line that each word is in, from 1 on."""
    number, found = 1, []
    for end in ends:
        found.append(number)
        number += end
    return found


def characters(text):
    """How many characters a text of words is written in: a separator after each, and a line's end for an empty line."""
    return sum(len(word) + 1 if not end else before for before, word, end in
               zip([True, *text.ends], text.words, text.ends))


def write_rows(path, rows, kind):
    """Rows, dicts with the same names, as one JSON object per line if `kind` is "json", else as TSV with a heading."""
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
    if path == "-":
        file = data_stream()
        yield file
        file.flush()
        return
    if _is_special(path):
        with open(path, "w", encoding="utf-8") as file:
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
