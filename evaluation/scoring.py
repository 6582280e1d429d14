"""How likely a model finds each word of a text: its log-probability and rank, at any temperature, with masks on or off.

A text is read as one stream from a zero state, or as several, each from a zero state of its own.
N tokens, V words, E width of a feature.
"""
import math
from contextlib import contextmanager

import torch
from tqdm import tqdm

from evaluation.loss import evaluating, windows

CHUNK = 2**24                    # numbers in the largest array of scores


@contextmanager
def sampling(model):
    """Inside the block the masks of training are drawn, and no graph is kept; after it, the mode is as before."""
    was_training = model.training
    model.train()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def read(model, streams, bptt, check):
    """Run over `streams`, a list of (N + 1, 1), each from a zero state -> yields features (n, E), targets (n,)."""
    with tqdm(total=sum(len(stream) - 1 for stream in streams), disable=None, leave=False, unit=" tokens") as bar:
        for stream in streams:
            for features, targets, _ in windows(model, stream, bptt):
                yield features, targets
                bar.update(len(targets))
                check()


def all_logprobs(model, features, targets):
    """All words' log-probabilities, some rows of `features` (n, E) at a time -> yields (rows, V), (rows, 1) targets."""
    rows = max(1, CHUNK // len(model.decoder.weight))
    for part, wanted in zip(features.split(rows), targets[:, None].split(rows)):
        yield model.logprob(part), wanted


def score(model, streams, bptt, temperature=1.0, ranks=False, check=lambda: None, mode=evaluating):
    """Read `streams`, a list of (N + 1, 1) -> log-probabilities (N,) in nats of their words but the first, ranks (N,).

    Each is read from a zero state. temperature: what logarithms of probabilities are divided by before they are
    normalised again. A rank counts the words that are likelier, from 1 on; without `ranks` it is None. check: called
    after every window. mode: `sampling` draws masks, others for every window of `bptt` tokens.
    """
    found, places = [], []
    with mode(model):
        for features, targets in read(model, streams, bptt, check):
            if temperature == 1 and not ranks:
                found.append(model.target_logprob(features, targets))
                continue
            for logprobs, wanted in all_logprobs(model, features, targets):
                logprobs = logprobs if temperature == 1 else (logprobs / temperature).log_softmax(1)  # (rows, V)
                found.append(logprobs.gather(1, wanted)[:, 0])
                places.append((logprobs > found[-1][:, None]).sum(1) + 1)
    return torch.cat(found), torch.cat(places) if ranks else None


def sample_score(model, streams, bptt, samples, temperature=1.0, check=lambda: None):
    """Log of the probabilities' mean over `samples` passes with the dropout masks of training on -> (N,) in nats.

    Monte Carlo dropout (Gal & Ghahramani 2016, section 3). Every window of `bptt` tokens has masks of its own; every
    pass has the temperature.
    """
    total = None
    for _ in range(samples):
        logprobs, _ = score(model, streams, bptt, temperature, check=check, mode=sampling)
        total = logprobs if total is None else torch.logaddexp(total, logprobs)
    return total - math.log(samples)


def temperature_losses(model, streams, bptt, temperatures, check=lambda: None):
    """Mean loss in nats over `streams`, a list of (N + 1, 1), at each of `temperatures` -> list."""
    sums, tokens = [0.0] * len(temperatures), sum(len(stream) - 1 for stream in streams)
    with evaluating(model):
        for features, targets in read(model, streams, bptt, check):
            for logprobs, wanted in all_logprobs(model, features, targets):
                for i, temperature in enumerate(temperatures):
                    scaled = logprobs / temperature                                  # (rows, V)
                    sums[i] -= (scaled.gather(1, wanted)[:, 0] - scaled.logsumexp(1)).sum().item()
    return [nats / tokens for nats in sums]
