"""Which text the flags mean, and its columns."""
import os

import demo
from data import Corpus
from errors import InputError
from utils import batchify


def read_corpus(args, words=None):
    """The corpus that the flags name; with `words`, a checkpoint's vocabulary, by the ids it has there."""
    cache = None if args.cache == "none" else args.cache
    path = demo.path(cache) if args.data == "demo" else args.data
    if words is not None:
        return Corpus.from_vocabulary(path, words, "unk" if args.vocab == "train" else "error", cache)
    corpus = Corpus(path, args.vocab, cache)
    if args.cutoffs is None:
        args.cutoffs = published_cutoffs(len(corpus.dictionary))
    return Corpus(path, args.vocab, cache, by_frequency=True) if args.cutoffs else corpus


def published_cutoffs(ntoken):
    """Where the published code cuts a vocabulary for the adaptive softmax."""
    return [4200, 35000, 180000] if ntoken > 500_000 else [2800, 20000, 76000] if ntoken > 75_000 else []


def columns(name, data, bsz, args):
    """`batchify`, with errors that name the text."""
    try:
        return batchify(data, bsz, args)
    except InputError as error:
        raise InputError(f"{os.path.join(args.data, name)}: {error}") from None
