"""The three texts of a training run, cut into streams.

B batch size, L stream length.
"""
from dataclasses import dataclass

import torch

from corpus.vocabulary import Vocabulary
from corpus.word_counts import count_words
from data import batchify_split, words_per_token
from training.settings import TrainingConfig


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
    def cut(cls, corpus, config: TrainingConfig, args, group):
        """Those of a `data.Corpus` with the batch sizes in `config`, for one process of `group`.

        args: --data, for errors to name, and the device.
        """
        share, words = group.share(config.batch_size), corpus.dictionary.idx2word
        train = batchify_split("train", corpus, config.batch_size, args, "--batch-size")[:, share]
        if group.size > 1 and not train.is_cpu:
            train = train.contiguous()                            # the other streams need not lie on this GPU
        valid = batchify_split("valid", corpus, config.eval_batch_size, args, "--eval-batch-size", fewer=True)
        return cls(train, valid, batchify_split("test", corpus, 1, args), share,
                   Vocabulary(words, corpus.tokenizer, count_words(corpus.train, words, corpus.tokenizer)),
                   corpus.sizes, words_per_token(corpus))
