"""How often each word stands in a training text, which a checkpoint keeps: predictors of reading times need it.

V words of a vocabulary. A word counts without the punctuation around it, and <eos> and <unk> are none.
"""
import math
import re
from collections import Counter
from functools import cache, cached_property

import numpy as np
import torch

from corpus.tokenizers import Words
from corpus.tokens import EOS, UNK, data_of
from corpus.word_parts import marks, parts
from runtime.errors import InputError

MOST = 200_000          # words that are kept of a text in pieces: the most frequent
BLOCK = 2**20           # tokens in hand at a time


@cache
def _around():
    return re.compile(f"^[^\\w{marks()}]+|[^\\w{marks()}]+$")


def bare(word):
    """A word without the punctuation around it; punctuation alone stays."""
    return _around().sub("", word) or word


class WordCounts:
    """counts (n,) int64 of words, and how many words, `total`, the text has; words: None if they are a vocabulary's."""

    def __init__(self, words, counts, total, vocabulary=()):
        self.words, self.counts, self.total = words, counts, total
        self.names = vocabulary if words is None else words

    @cached_property
    def by_bare(self):
        """Word without the punctuation around it → count."""
        occurrences = Counter()
        for word, count in zip(self.names, self.counts.tolist()):
            if word not in (EOS, UNK):
                occurrences[bare(word)] += count
        return occurrences

    def state(self):
        """What `restore` makes the same of: plain data."""
        return {"words": self.words, "counts": self.counts, "total": self.total}

    def log_frequency(self, word, tokenizer):
        """Natural logarithm of a word's occurrences in a million words; None where they were not counted.

        One is added to each word's count, so that words that are not in the text have a frequency (van Heuven et al.
        2014). tokenizer: the model's; of a word that it splits the part counts that is not punctuation, and where
        several are none (do n't) nothing is known.
        """
        word = word.lower() if tokenizer.lower else word
        if isinstance(tokenizer, Words):
            word_parts = parts(word, tokenizer.split)
            word_parts = [part for part in word_parts if any(map(str.isalnum, part))] or word_parts[:1]
            if len(word_parts) > 1:
                return None
            word = word_parts[0]
        return math.log((self.by_bare[bare(word)] + 1) / (self.total + len(self.by_bare)) * 1e6)


def count_words(tokens, vocabulary, tokenizer):
    """The words of a text, `tokens` (N,) ids into `vocabulary`, a list, that `tokenizer` cut -> WordCounts."""
    if isinstance(tokenizer, Words):
        counts = torch.from_numpy(np.bincount(tokens.numpy(), minlength=len(vocabulary)))                  # (V,)
        ends = sum(int(counts[i]) for i, word in enumerate(vocabulary) if word == EOS)
        return WordCounts(None, counts, int(counts.sum()) - ends, vocabulary)
    data = [b"\n" if token == EOS else b" " if token == UNK else data_of(token) for token in vocabulary]
    occurrences, rest = Counter(), b""
    for block in tokens.split(BLOCK):
        text = rest + b"".join(map(data.__getitem__, block.tolist()))
        cut = max(text.rfind(b" "), text.rfind(b"\n")) + 1                     # a word may go on in the next block
        occurrences.update(text[:cut].decode("utf-8", "replace").split())
        rest = text[cut:]
    occurrences.update(rest.decode("utf-8", "replace").split())
    total = occurrences.total()
    counted = Counter()
    for word, count in occurrences.items():
        counted[bare(word)] += count
    words, counts = zip(*counted.most_common(MOST)) if counted else ((), ())
    return WordCounts(list(words), torch.tensor(counts, dtype=torch.int64), total)


def restore(state, vocabulary):
    """The counts of a `WordCounts.state` that may come from anywhere; None of None, which earlier versions kept.

    Raises InputError where it is none, or not of this vocabulary.
    """
    if state is None:
        return None
    try:
        if not isinstance(state, dict):
            raise TypeError
        words, counts, total = state["words"], state["counts"], state["total"]
        names = vocabulary if words is None else words
        sound = (type(total) is int and isinstance(names, list) and all(isinstance(word, str) for word in names)
                 and isinstance(counts, torch.Tensor) and counts.dtype == torch.int64 and counts.is_contiguous()
                 and counts.device.type == "cpu" and counts.shape == (len(names),) and bool((counts >= 0).all())
                 and total >= 0)
    except (KeyError, TypeError, RuntimeError, NotImplementedError):
        sound = False
    if not sound:
        raise InputError("its counts of words are none of this program, or not those of its vocabulary")
    return WordCounts(words, counts, total, vocabulary)
