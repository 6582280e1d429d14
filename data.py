"""Text → ids. A file is read a block at a time, and what came of it kept for the next run (corpus/cache.py).

A corpus is a folder with train.txt, valid.txt and test.txt: UTF-8, words between white space. `<eos>` is put
after every line. V is the size of the vocabulary.
"""

import os
import re
from collections import Counter

import numpy as np
import torch

from corpus import demo, own_text
from corpus.cache import SPLITS, Spool, content_key, load, store
from corpus.reading import blocks, naming, short
from corpus.tokenizers import LONGEST_WORD, Words, too_long
from corpus.tokens import EOS, UNK
from runtime.errors import InputError
from runtime.log import counted, log, warn
from runtime.paths import default_cache
from utils import batchify

BLOCK = 4 * 2**20  # bytes of text, or ids, in hand at a time


class Dictionary:
    """Words and their ids, and how often each was seen (`counter`: id → count; `total`: the sum)."""

    def __init__(self, words=(), counts=()):
        self.idx2word = list(words)
        self.word2idx = {word: i for i, word in enumerate(self.idx2word)}
        self.counter = Counter(dict(enumerate(counts)))
        self.total = sum(self.counter.values())

    def add_word(self, word):
        """Count one more `word`, giving it the next id if it is new. Returns its id."""
        if word not in self.word2idx:
            self.word2idx[word] = len(self.idx2word)
            self.idx2word.append(word)
        i = self.word2idx[word]
        self.counter[i] += 1
        self.total += 1
        return i

    def __len__(self):
        return len(self.idx2word)


# ---- one text -> ids

OWN_END = re.compile(rf"(?<!\S){EOS}[^\S\n]*\n")     # of a line that ends in <eos> by itself


class _Ids(dict):
    """word → id. While it `grows`, a new word gets the next id; later `unk`, or a refusal if that is None."""

    grows, unk, advice = True, None, ""

    def __missing__(self, word):
        if len(word) > LONGEST_WORD:  # looked at here, where only new words come by
            raise too_long()
        if self.grows:
            self[word] = new = len(self)
            return new
        if self.unk is None:
            raise InputError(f"the word {short(word)} is not in the vocabulary{self.advice}")
        return self.unk


def _words(file, line_ends="both"):
    """Yield the words of one text in lists, <eos> after every line: as a loop over its lines would.

    line_ends: "one" puts none after a line whose last word is <eos>.
    """
    carry = ""
    for text in blocks(file, BLOCK):
        text = carry + text
        whole, carry = text.rstrip(), ""
        if whole and "\n" not in text[len(whole):]:  # the next block may have the rest of the word, or of the line
            start = len(whole) - len(whole.rsplit(None, 1)[-1])
            text, carry = text[:start], text[start:len(whole) + 1]
        if len(carry) > LONGEST_WORD + 1:
            raise too_long()
        if line_ends == "one" and EOS in text:
            text = OWN_END.sub("\n", text)
        yield text.replace("\n", f" {EOS} ").split()


def _encode(file, ids, folder, line_ends):
    """One text as an array (tokens,) of int64, a long one mapped from `folder`; `ids` grows if it may."""
    spool = Spool(folder)
    with naming(file):
        for words in _words(file, line_ends):
            spool.add(np.fromiter(map(ids.__getitem__, words), np.int32, len(words)))
        if not spool.written + spool.waiting:
            raise InputError("is empty; put text there, or run ./getdata.sh penn")
    return spool.ids()


# ---- three texts -> vocabulary, counts (V,), ids of each split


def _index(files, folder, line_ends, vocab, by_frequency):
    """Number the words in order of appearance. Counts are of the texts the vocabulary comes from."""
    ids = _Ids()
    splits = [_encode(files[0], ids, folder, line_ends)]
    if vocab == "train":
        ids.unk = ids[UNK]  # looking it up adds it at the end if the text has none
        ids.grows = False
    splits += [_encode(file, ids, folder, line_ends) for file in files[1:]]
    sources = splits[:1] if vocab == "train" else splits
    counts = sum(np.bincount(split, minlength=len(ids)) for split in sources)
    words = list(ids)
    if by_frequency:
        order = np.argsort(-counts, kind="stable")  # (V,) new id -> old id
        rank = np.argsort(order)  # (V,) old id -> new id
        words, counts = [words[i] for i in order], counts[order]
        for split in splits:
            for start in range(0, len(split), BLOCK):
                split[start : start + BLOCK] = rank[split[start : start + BLOCK]]
    return words, counts, splits


def _look_up(files, folder, line_ends, words, unknown):
    """Number the words as `words` has them. Counts are of all three texts."""
    ids = _Ids(zip(words, range(len(words))))
    ids.grows = False
    ids.advice = "; use the text the model was trained on, or have unknown words read as <unk>"
    if unknown == "unk":
        ids.unk, ids.advice = ids.get(UNK), ", and neither is <unk>; use the text the model was trained on"
    splits = [_encode(file, ids, folder, line_ends) for file in files]
    return words, sum(np.bincount(split, minlength=len(words)) for split in splits), splits


# ---- a folder -> a corpus


def check_different_words(words):
    """Raise InputError unless the list `words` holds words, each once."""
    odd = next((word for word in words if not isinstance(word, str) or word.split() != [word]), None)
    if odd is not None:
        raise InputError(f"{short(str(odd))} is not a word; words are different and have no white space in them")
    if len(set(words)) != len(words):
        raise InputError(f"holds {short(Counter(words).most_common(1)[0][0])} more than once")


def _files(path):
    """The three texts of a corpus, known to be there."""
    get = "run ./getdata.sh penn, or give the folder that holds train.txt, valid.txt and test.txt (--data)"
    if not os.path.isdir(path):
        raise InputError(f"{path}: {'not a folder' if os.path.exists(path) else 'no such folder'}; {get}")
    files = [os.path.join(path, f"{split}.txt") for split in SPLITS]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise InputError(f"{', '.join(missing)}: no such file; {get}")
    return files


class Corpus:
    """The texts train.txt, valid.txt and test.txt in the folder `path` as ids: int64 (tokens,) each.

    vocab: "all" takes the words of all three, as the published figures do; "train" those of the training
        text and `<unk>`, as which it reads all others.
    cache: a folder, None for no cache, True for `default_cache()`.
    by_frequency: the most frequent word has id 0, instead of the first.
    line_ends: "one" reads one <eos> where a line of the text ends in <eos> by itself, "both" another one after it.
    Besides the ids, `read_corpus` says what made them: `tokenizer`, and `sizes`, of each split that prepare.py made how
    many "tokens", "words" and "bytes" it has.
    Raises InputError if the texts cannot be used.
    """

    def __init__(self, path, vocab="all", cache=True, by_frequency=False, line_ends="one"):
        if vocab not in ("all", "train"):
            raise InputError(f"vocab {vocab!r}: give 'all' or 'train'")
        self._read(path, cache, _index, line_ends, vocab, bool(by_frequency))

    @classmethod
    def from_vocabulary(cls, path, idx2word, unknown="error", cache=True, line_ends="one"):
        """The texts with the ids of another vocabulary, such as a checkpoint's.

        A word it does not have is an InputError, or with unknown="unk" is read as its `<unk>`.
        """
        words = list(idx2word)
        if unknown not in ("error", "unk"):
            raise InputError(f"unknown {unknown!r}: give 'error' or 'unk'")
        with naming("the vocabulary"):
            check_different_words(words)
        corpus = cls.__new__(cls)
        corpus._read(path, cache, _look_up, line_ends, words, unknown)
        return corpus

    def _read(self, path, cache, build, *options):
        files = _files(path)
        folder = default_cache() if cache is True else cache

        def key():
            with naming(path):
                return content_key(files, [build.__name__, *options])

        before = key() if folder else None
        result = load(folder, before) if folder else None
        if result is None:
            result = build(files, folder, *options)
            if folder and key() == before:  # nobody wrote to the files meanwhile
                store(folder, before, *result)
                result = load(folder, before) or result  # mapped, and what lay in files until now is gone
        words, counts, splits = result
        self.dictionary = Dictionary(words, counts.tolist())
        self.train, self.valid, self.test = (torch.from_numpy(split) for split in splits)
        self.tokenizer, self.sizes = Words(), {}


# ---- the command line -> a corpus


def ends_itself(path):
    """Whether lines at the beginning of the training text in a folder end in <eos> by themselves."""
    with open(os.path.join(path, "train.txt"), encoding="utf-8-sig", errors="replace") as text:
        return OWN_END.search(text.read(2**16)) is not None


def read_corpus(args, words=None, by_frequency=lambda ntoken: False):
    """The corpus that --data, --vocab and --cache name -> Corpus.

    words: a checkpoint's `Vocabulary`, whose ids are taken; otherwise those of a folder that prepare.py made are, which
    fall in frequency. by_frequency: whether a vocabulary of so many words is to be numbered by falling frequency.
    """
    cache = None if args.cache == "none" else args.cache
    path = demo.path(cache) if args.data == "demo" else args.data
    prepared = own_text.read(path)
    if words is None and prepared:
        words = prepared.vocabulary
    if words is not None:
        unknown = "unk" if args.vocab == "train" else "error"
        corpus = Corpus.from_vocabulary(path, words, unknown, cache, args.line_ends)
        corpus.tokenizer = words.tokenizer
    else:
        corpus = Corpus(path, args.vocab, cache, line_ends=args.line_ends)
        if by_frequency(len(corpus.dictionary)):
            corpus = Corpus(path, args.vocab, cache, by_frequency=True, line_ends=args.line_ends)
    if ends_itself(path):
        log(f"| {path}: lines end in {EOS} by themselves; "
            + ("one end of each is read (--line-ends both: two)" if args.line_ends == "one" else "two ends are read"))
    corpus.sizes = {split: size for split, size in (prepared.sizes if prepared else {}).items()
                    if size["tokens"] == len(getattr(corpus, split))}  # else somebody has written to the text
    return corpus


def words_per_token(corpus):
    """How many words between white space there are to a token of the training text, of which some end lines.

    Where it was cut into characters or pieces, those of the text that it was made of.
    """
    ends = int((corpus.train == corpus.dictionary.word2idx.get(EOS, -1)).sum())
    tokens = len(corpus.train)
    return (corpus.sizes.get("train", {"words": tokens})["words"] - ends) / tokens     # both count the ends of lines


def untrained_unk(args, corpus):
    """One line where unknown words will be read as an <unk> that is never trained, else None."""
    if args.vocab != "train" or bool((corpus.train == corpus.dictionary.word2idx[UNK]).any()):
        return None
    return (f"{args.data}: the training text has no {UNK}, as which --vocab train reads unknown words; it is never "
            f"trained, and what the model makes of them says nothing. Write rare words as {UNK} there")


def batchify_split(split, corpus, bsz, args, flag="", fewer=False):
    """`batchify` of the split "train", "valid" or "test" -> (L, B), with errors that name the text.

    flag: what was typed for `bsz`, for errors to name. fewer: of a text too short for it, as many streams as it has
    tokens for, with a warning.
    """
    tokens, path = len(getattr(corpus, split)), f"{os.path.join(args.data, split)}.txt"
    if tokens < 2:
        raise InputError(f"{path} has {counted(tokens, 'tokens')}; at least two are needed, for the "
                         "first is not predicted")
    if tokens < 2 * bsz and not fewer:
        raise InputError(f"{path} has {tokens} tokens, too few for {flag} {bsz}; use {flag} {tokens // 2} or less, or "
                         "more text")
    if tokens < 2 * bsz:
        warn(f"{path} has {tokens} tokens, too few for {flag} {bsz}: it is read in {counted(tokens // 2, 'streams')}")
    return batchify(getattr(corpus, split), min(bsz, tokens // 2), args)
