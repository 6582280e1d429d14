"""The three texts of a training run, cut into streams.

B batch size, L stream length.
"""
from dataclasses import dataclass

import torch

from corpus.tokenizers import Vocabulary
from corpus.word_counts import count_words
from data import batchify_split, words_per_token


@dataclass(frozen=True)
class Texts:
    """train (L, own B): the streams of `share`, this process's part of the batch. valid (L, B'), test (L, 1).

    vocabulary: with how often the training text has each word. sizes: of each split, as `Corpus.sizes`.
    """
    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    share: slice
    vocabulary: Vocabulary
    sizes: dict
    words_per_token: float

    @classmethod
    def cut(cls, corpus, args, group):
        """Those of a `data.Corpus` with the batch sizes in `args`, for one process of `group`."""
        share, words = group.share(args.batch_size), corpus.dictionary.idx2word
        train = batchify_split("train", corpus, args.batch_size, args, "--batch-size")[:, share]
        if group.size > 1 and not train.is_cpu:
            train = train.contiguous()                            # the other streams need not lie on this GPU
        valid = batchify_split("valid", corpus, args.eval_batch_size, args, "--eval-batch-size", fewer=True)
        return cls(train, valid, batchify_split("test", corpus, 1, args), share,
                   Vocabulary(words, corpus.tokenizer, count_words(corpus.train, words, corpus.tokenizer)),
                   corpus.sizes, words_per_token(corpus))
