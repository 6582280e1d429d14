"""Raw text → train.txt, valid.txt and test.txt in tokens, and tokenizer.json: the mechanism behind prepare.py.

A unit is what is dealt to one of the three texts as a whole: a line, a document or a file. The text is read once, into
a file of its own, and from there as often as it takes: it is never in memory as a whole.
"""

import itertools
import json
import os
import random
import tempfile
from array import array
from collections import Counter
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

from tqdm import tqdm

from corpus.cache import SPLITS
from corpus.reading import files_in, lines, size_of
from corpus.tokens import EOS, UNK
from corpus.vocabulary import Vocabulary, restore_tokenizer
from runtime.errors import InputError
from runtime.log import counted

FILE = "tokenizer.json"
FORMAT = "awd-lstm tokenizer 1"
FILES = {FILE, *(f"{split}.txt" for split in SPLITS)}


# ---- files -> units


def find_files(paths, out):
    """As `files_in`. InputError where `out` is in one of the folders: what is written would be read; and where one of
    the paths is in `out`: it would be replaced."""
    target = os.path.join(os.path.realpath(out), "")
    for path in paths:
        source = os.path.join(os.path.realpath(path), "")
        if os.path.isdir(path) and target.startswith(source) and target != source:
            raise InputError(f"--out {out} is inside {path}, whose files are all read; choose another place")
        if path != "-" and source.startswith(target):
            raise InputError(f"{path} would be replaced by --out {out}; choose another place")
    return files_in(paths)


def units(file, by):
    """Yield the units of a file, each its lines; after a document or a file an empty line."""
    source = lines(os.dup(0), "standard input") if file == "-" else lines(file)
    if by == "lines":
        yield from ((line,) for line in source)
    elif by == "files":
        for first in source:  # there is one
            yield itertools.chain((first,), source, ("",))
    else:
        for blank, document in itertools.groupby(source, key=lambda line: not line.strip()):
            if not blank:
                yield itertools.chain(document, ("",))


class Text:
    """The units of a text, in a file in `folder`, and to which of SPLITS each is dealt."""

    def __init__(self, folder):
        self.file = tempfile.TemporaryFile(dir=folder)
        self.lengths = array("L")  # lines of each unit
        self.dealt = bytearray()  # index into SPLITS of each unit
        self.seen, self.duplicates = set(), 0

    def read(self, files, by, dedup):
        """Take all units of `files`; with `dedup` each once, however often it is there."""
        total, end = sum(os.path.getsize(file) for file in files if file != "-"), 0
        with tqdm(total=total, disable=None, leave=False, unit="B", unit_scale=True, desc="reading") as bar:
            for file in files:
                for unit in units(file, by):
                    start, digest, length = end, blake2b(digest_size=16), 0
                    for line in unit:
                        data = line.encode() + b"\n"
                        self.file.write(data)
                        length, end = length + 1, end + len(data)
                        if dedup:
                            digest.update(data)
                        bar.update(len(data))
                    if dedup and digest.digest() in self.seen:
                        self.file.seek(start)
                        self.file.truncate()
                        self.duplicates, end = self.duplicates + 1, start
                        continue
                    if dedup:
                        self.seen.add(digest.digest())
                    self.lengths.append(length)
        self.seen.clear()

    def deal(self, valid, test, seed, what):
        """Deal these shares of the units, at least one each, to the held-out texts, drawn at random."""
        units = len(self.lengths)
        if not units:
            raise InputError("the text is empty")
        held_out = [max(1, round(share * units)) for share in (valid, test)]
        if sum(held_out) >= units:
            raise InputError(f"{counted(units, what)}: too few for three texts, --valid and --test leave none to train "
                             "on")
        self.dealt = bytearray(units)
        for place, unit in enumerate(random.Random(seed).sample(range(units), sum(held_out))):
            self.dealt[unit] = 1 if place < held_out[0] else 2

    def missed_shares(self, valid, test, what):
        """Lines that tell of a held-out text whose share of the lines is less than half or more than twice what was
        asked for: whole units are dealt, which may be of very different length."""
        total = sum(self.lengths)
        for place, (name, share) in enumerate((("valid", valid), ("test", test)), start=1):
            lines = sum(length for length, dealt in zip(self.lengths, self.dealt) if dealt == place)
            if not share / 2 <= lines / total <= 2 * share and abs(lines - share * total) > 1:
                yield (f"{name} has {lines:,} of {total:,} lines, {lines / total:.1%} where {share:.1%} were asked "
                       f"for: {what} are of different length; --by lines comes closer")

    def lines(self, split, what):
        """Yield the lines of a split, in their order; what: for the progress bar."""
        place = SPLITS.index(split)
        self.file.seek(0)
        with tqdm(total=len(self.lengths), disable=None, leave=False, unit=" units", desc=f"{what} {split}") as bar:
            for length, dealt in zip(self.lengths, self.dealt):
                for line in itertools.islice(self.file, length):
                    if dealt == place:
                        yield line[:-1].decode()
                bar.update()


# ---- units -> tokens


def frequent(text, tokenizer, min_count, size):
    """The tokens of the training text to keep -> set. size: of the vocabulary, with <eos> and <unk>; None for any."""
    counts = Counter()
    for tokens in tokenizer.cut(text.lines("train", "counting")):
        counts.update(tokens)
    for special in (EOS, UNK):
        counts.pop(special, None)
    most_common = counts.most_common(None if size is None else size - 2)
    tokens = {token for token, count in most_common if count >= min_count}
    if not tokens:
        raise InputError(f"no token of the training text occurs {counted(min_count, 'times')}; lower --min-count"
                         if counts else "the training text is empty")
    return tokens


class Written(NamedTuple):
    """What became of a split. size: {"tokens", "words", "bytes"}; special: tokens that look like <eos> or <unk>."""
    counts: Counter
    size: dict
    special: int
    lines: int


def write_split(path, text, split, tokenizer, frequent_tokens):
    """Write a split in tokens, those not among `frequent_tokens` as <unk>, unless that is None -> Written."""
    counts, size, special, number = Counter(), Counter(), 0, -1
    source, again = itertools.tee(text.lines(split, "writing"))
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for number, (line, tokens) in enumerate(zip(again, tokenizer.cut(source))):
            if number == 0 and line.startswith("\ufeff"):
                file.write("\ufeff")  # who reads the file takes the first one for a BOM
            if tokenizer.name == "words" and "<" in line:
                special += tokens.count(EOS) + tokens.count(UNK)
            if frequent_tokens is not None:
                tokens = [token if token in frequent_tokens or token == EOS else UNK for token in tokens]
            file.write(" ".join(tokens) + "\n")
            counts.update(tokens)
            counts[EOS] += 1
            size.update({"tokens": len(tokens) + 1, **size_of([line])})
    return Written(counts, dict(size), special, number + 1)


def vocabulary_of(counts, tokenizer, frequent_tokens):
    """All tokens of a model, by falling count in the training text -> Vocabulary."""
    others = [*tokenizer.known(), EOS] if frequent_tokens is None else [*sorted(frequent_tokens), UNK, EOS]
    return Vocabulary(dict.fromkeys([*(token for token, _ in counts.most_common()), *others]), tokenizer)


def warnings_about(written, vocabulary, size):
    """Yield what is to be known before a model is trained on it; written: of each split, `Written`."""
    special = sum(part.special for part in written.values())
    if special:
        yield (f"{counted(special, 'words of the text')} {'is' if special == 1 else 'are'} {EOS} or {UNK}: to the "
               "model, the end of a line or an unknown word")
    if not written["train"].counts[UNK] and any(part.counts[UNK] for part in written.values()):
        yield (f"the training text has no {UNK}, as which the others' unknown words are read: it is never trained, and "
               "what the model makes of them says nothing; raise --min-count")
    if vocabulary.tokenizer.complete and len(vocabulary) < size:
        yield f"the training text gives only {len(vocabulary):,} tokens, not {size:,}"


# ---- a folder


class Prepared(NamedTuple):
    """What tokenizer.json says. sizes: of each split, {"tokens", "words", "bytes"}."""
    vocabulary: Vocabulary
    sizes: dict


def write_description(folder, vocabulary, sizes, options):
    path = os.path.join(folder, FILE)
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:    # names of files may have any bytes
        json.dump({"format": FORMAT, "options": options, "sizes": sizes, "tokenizer": vocabulary.tokenizer.state(),
                   "vocabulary": vocabulary}, file, ensure_ascii=False)


def read(folder):
    """What the tokenizer.json in a folder says -> Prepared, or None where there is none. InputError for a bad one."""
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            description = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); make the folder anew by prepare.py"
                         ) from None
    try:
        words, sizes = description["vocabulary"], description["sizes"]
        sound = (description["format"] == FORMAT and all(isinstance(word, str) for word in words) and EOS in words
                 and len(set(words)) == len(words) and set(sizes) == set(SPLITS) and
                 all(type(size[unit]) is int and size[unit] > 0 for size in sizes.values()
                     for unit in ("tokens", "words", "bytes")))
        if not sound:
            raise ValueError(path)
        return Prepared(Vocabulary(words, restore_tokenizer(description["tokenizer"], words)), sizes)
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path} is damaged; make the folder anew by prepare.py") from None


def check_out(path):
    """Raise InputError where something lies at `path`, but for an empty folder, or one of prepare.py's alone."""
    ours = not os.path.lexists(path)
    if os.path.isdir(path):
        names = set(os.listdir(path))
        with suppress(InputError):
            ours = not names or (names == FILES and read(path) is not None)
    if not ours:
        raise InputError(f"{path} is there, and was not made by prepare.py, or holds more; give --out another name")
