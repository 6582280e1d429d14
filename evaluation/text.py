"""A text that is scored: its words read.

N tokens.
"""
import os
import re
import sys
from collections import Counter
from itertools import accumulate, groupby
from typing import NamedTuple

import torch

from corpus.reading import lines, naming, short, size_of
from corpus.tokenizers import Tokenizer, Words
from data import EOS, UNK, batchify_split
from evaluation.tables import Dialect, read_table
from runtime.errors import InputError
from runtime.log import counted


class Text(NamedTuple):
    """Words to be scored, and the streams of ids that they are in, (N + 1, 1) in all, of each all but its first.

    ends: whether each word is the <eos> that ends its line; unknown: whether it is read as <unk> in place of itself.
    columns: for each line, what else the file says of it, a dict; dialect: that of the table it comes from. size: how
    many "tokens", "words" and "bytes" the text has, where that is known. tokenizer: what cut the text into these words,
    which may be pieces of words. written: where words were split or put into lower case, (index (N,), words): the
    number of the word that each is a part of, and these as they were typed.
    """
    name: str
    words: list
    ends: list
    unknown: list
    streams: list
    columns: list | None = None
    dialect: Dialect | None = None
    size: dict | None = None
    tokenizer: Tokenizer = Words()
    written: tuple | None = None


UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0002ffff]")
MANY_UNKNOWN = 0.05     # share of unknown words from which on perplexities say little


def read_text(path, vocabulary, unknown, context, device, column=None, untrained_unk=False, read_rows=None,
              line_ends="one"):
    """The words of a file, or of standard input for `-`, with <eos> after each line -> Text.

    vocabulary: the model's `Vocabulary`; unknown: "unk" reads others as <unk>, and says so on stderr, "error" refuses
    them. column: the file is a table with a heading, and this column of it is the text, one line each. untrained_unk:
    the model never saw <unk> in training, which is said where it is read. read_rows: what reads a file of another kind
    as rows, called as `tables.read_table`. line_ends: "one" takes an <eos> that a line ends in by itself for its end.
    """
    name = "standard input" if path == "-" else path
    file, rows, dialect = (os.dup(0) if path == "-" else path), None, None
    if column is None:
        raw = list(lines(file, name))
    else:
        rows, dialect = (read_rows(file, name, column), None) if read_rows else read_table(file, name, column)
        raw = [row[column] for row in rows]
    if not raw:
        raise InputError(f"{name}: the text is empty")
    if line_ends == "one":
        raw = without_own_ends(raw, name)
    words, ends = [], []
    with naming(name):
        for tokens in vocabulary.tokenizer.cut(raw):
            words += [*tokens, EOS]
            ends += [*[False] * len(tokens), True]
    warn_of_pieces([word for line in raw for word in line.split()], vocabulary)
    return checked_text(name, words, ends, vocabulary, unknown, untrained_unk, context, device, columns=rows,
                        dialect=dialect, size={"tokens": len(words), **size_of(raw)},
                        written=as_written(raw, vocabulary.tokenizer))


def without_own_ends(lines, name):
    """Lines without the <eos> that some of them end in by themselves, which is said on stderr."""
    whole = [re.sub(rf"(?<!\S){EOS}\s*\Z", "", line) for line in lines]
    ended = sum(map(str.__ne__, whole, lines))
    if ended:
        print(f"| {name}: {ended} of {len(lines)} lines end in {EOS} by themselves; one end of each is read",
              file=sys.stderr)
    return whole


def as_written(lines, tokenizer):
    """What `Text.written` says of lines: (index (N,), words), every <eos> a word; None where they are read as typed."""
    if not isinstance(tokenizer, Words) or (tokenizer.split == "none" and not tokenizer.lower):
        return None
    return tokenizer.word_numbers(lines), [word for line in lines for word in (*line.split(), EOS)]


def checked_text(name, words, ends, vocabulary, unknown, untrained_unk, context, device, **more):
    """As `to_text`; what is to be known of unknown words is said on stderr. name: what that calls the text."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    if EOS not in ids:
        raise InputError(f"the model does not know {EOS}, which texts are read after; it can score its splits only")
    unknown_words = Counter(word for word in words if word not in ids)
    if unknown_words:
        warn_of_unknown(name, unknown_words, len(words), unknown, UNK in ids, untrained_unk)
        hint(unknown_words, vocabulary)
    return to_text(words, ends, ids, context, device, tokenizer=vocabulary.tokenizer, **more)


def to_text(words, ends, ids, context, device, **more):
    """Words that are read after an <eos>, unknown ones as <unk> -> Text.

    ends: whether each word is the <eos> that ends its line. ids: {word: id} of the model's vocabulary, <eos> among it,
    and <unk> where there are unknown words. more: other fields of a Text.
    """
    stream = torch.tensor([ids[EOS], *(ids.get(word, ids.get(UNK)) for word in words)], device=device)       # (N + 1,)
    return Text("text", words, ends, [word not in ids for word in words],
                contexts(stream[:, None], [True, *ends], context), **more)


UNTRAINED = f"; the model saw no {UNK} in training: what it makes of them says nothing"


def warn_of_unknown(name, unknown_words, tokens, policy, has_unk, untrained_unk=False):
    """Say on stderr which words are read as <unk>, or raise InputError where they are to be refused."""
    shown = ", ".join(short(word) for word, _ in unknown_words.most_common(5))
    shown += ", …" if len(unknown_words) > 5 else ""
    if policy == "error" or not has_unk:
        raise InputError(f"{name}: the model does not know {len(unknown_words)} of the words: {shown}"
                         + ("; --unknown unk reads them as <unk>" if has_unk else ", and has no <unk>"))
    share = unknown_words.total() / tokens
    warning = "WARNING: " if share > MANY_UNKNOWN or untrained_unk else ""
    advice = UNTRAINED if untrained_unk else "; perplexities of such a text say little" if warning else ""
    print(f"| {warning}{unknown_words.total()} of {counted(tokens, 'tokens')} ({share:.1%}) are unknown and read as "
          f"{UNK}: {shown}{advice}", file=sys.stderr)


def hint(unknown_words, vocabulary):
    """Say on stderr what another way of reading a text would know of a model of words' unknown words, a Counter."""
    tokenizer = vocabulary.tokenizer
    if not isinstance(tokenizer, Words):
        return
    known, total = set(vocabulary), unknown_words.total()

    def known_with(split, lower):
        other = Words(lower, split)
        return sum(count for word, count in unknown_words.items() if known.issuperset(other.cut_line(
            word.lower() if lower else word)))

    ways = {"--lower": (tokenizer.split, True)} if not tokenizer.lower else {}
    if tokenizer.split == "none":
        ways |= {"--split-words ptb": ("ptb", tokenizer.lower), "--split-words ptb --lower": ("ptb", True)}
    gains = {flags: known_with(*reading) for flags, reading in ways.items()}
    best = max(gains, key=lambda flags: (gains[flags], -len(flags)), default=None)
    if best and gains[best]:
        print(f"| {gains[best]:,} of the {total:,} would be known with {best}", file=sys.stderr)
    unspaced = sum(count for word, count in unknown_words.items() if len(UNSPACED.findall(word)) > 1)
    if unspaced > total / 2:
        print("| this text has no spaces between words: make a model of chars, bpe or unigram pieces with prepare.py",
              file=sys.stderr)


def warn_of_pieces(words, vocabulary):
    """Say on stderr that words as typed, read by a model of words, are pieces that another program has cut."""
    pieces = sum(word.endswith("@@") or word.startswith("\u2581") for word in words)
    if isinstance(vocabulary.tokenizer, Words) and pieces > len(words) / 50:
        print(f"| WARNING: {pieces:,} of {len(words):,} words are pieces that another program cut (@@, \u2581): "
              "figures per word are figures per piece", file=sys.stderr)


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
        warning = "WARNING: " if share > MANY_UNKNOWN or args.untrained_unk else ""
        print(f"| {warning}{share:.1%} of the tokens of {split} are {UNK}{UNTRAINED if args.untrained_unk else ''}",
              file=sys.stderr)
    words, ends = [vocabulary.idx2word[i] for i in ids[1:]], [i == eos for i in ids]
    return Text(split, words, ends[1:], [False] * len(words), contexts(stream, ends, context),
                size=corpus.sizes.get(split), tokenizer=corpus.tokenizer)


def read_texts(args, vocabulary, corpus, device):
    """What the flags `outputs.TEXT` and --split ask for -> list of Text. corpus: not needed for --text."""
    if args.text:
        return [read_text(args.text, vocabulary, args.unknown, args.context, device, args.column, args.untrained_unk,
                          line_ends=args.line_ends)]
    splits = ("valid", "test") if args.split == "both" else (args.split,)
    return [read_split(split, corpus, args, args.context) for split in splits]


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
    return list(accumulate(ends, initial=1))[:-1]


def by_line(ends):
    """Of each line its number, from 1 on, and the places of its words among all (N,), a list."""
    return ((number, list(places)) for number, places in groupby(range(len(ends)), sentences(ends).__getitem__))


def characters(text):
    """How many characters a text of words is written in: a separator after each, and a line's end for an empty line."""
    words, ends = text.words, text.ends
    if text.written:
        index, words = text.written
        ends = list(dict(zip(index, ends)).values())                   # of each word the last part
    return sum(len(word) + 1 if not end else before for before, word, end in zip([True, *ends], words, ends))
