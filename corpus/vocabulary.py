"""A model's vocabulary, with the tokenizer that cuts text into its tokens, and the tokenizers by name."""

import math

from corpus.subwords import BPE, SYMBOLS, Unigram, token_of
from corpus.tokenizers import Characters, Words
from corpus.tokens import EOS, UNK, data_of, visible
from runtime.errors import InputError

TOKENIZERS = {kind.name: kind for kind in (Words, Characters, BPE, Unigram)}


class Vocabulary(list):
    """A model's tokens in the order of their ids, and the tokenizer that cuts text into them.

    counts: `WordCounts` of the training text, None where they are not known.
    """

    def __init__(self, tokens, tokenizer=None, counts=None):
        super().__init__(tokens)
        self.tokenizer, self.counts = tokenizer or Words(), counts


def read_as(vocabulary, split=None, lower=None):
    """The same vocabulary, whose tokenizer splits words or puts text into lower case as told; None leaves it as it is.

    Raises InputError where it is not one of words.
    """
    if split is None and not lower:
        return vocabulary
    tokenizer = vocabulary.tokenizer
    if not isinstance(tokenizer, Words):
        raise InputError(f"--split-words and --lower are of models of words; this one reads {tokenizer.name}")
    return Vocabulary(vocabulary, Words(lower or tokenizer.lower, split or tokenizer.split), vocabulary.counts)


def restore_tokenizer(state, vocabulary):
    """The tokenizer of a `Tokenizer.state`, None being that of models from before there were several -> Tokenizer.

    It may come from anywhere. Raises InputError where it is none, or not one that makes these tokens.
    """
    if state is None:
        return Words()
    try:
        options = dict(state)
        tokenizer = TOKENIZERS[options.pop("kind")](**options)
        if type(tokenizer.lower) is not bool:
            raise TypeError("lower")
        tokens = [token for token in vocabulary if token not in (EOS, UNK)]
        if tokenizer.name != "words" and any(visible(data_of(token)) != token for token in tokens):
            raise ValueError("a token that stands for nothing")
        if tokenizer.complete:
            known = tokenizer.known()
            if set(known) != set(tokens) or not set(map(token_of, SYMBOLS)) <= set(known):
                raise ValueError("other tokens")
        if not all(math.isfinite(score) for score in getattr(tokenizer, "scores", {}).values()):
            raise ValueError("scores")
        pairs = {token for pair in getattr(tokenizer, "merges", ()) for token in pair}
        if not pairs <= set(tokens):
            raise ValueError("merges")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        raise InputError("its tokenizer is none of this program, or not that of its vocabulary") from None
    return tokenizer
