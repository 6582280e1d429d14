"""The loss of a model over a text, as published figures have it.

T window length, B batch size, L stream length, E emsize, N = T·B.
"""
import math
from contextlib import contextmanager

import torch

from utils import get_batch

PLAIN_WINDOW = 200            # tokens at a time where nothing is learnt: changes memory, not results


@contextmanager
def evaluating(model):
    """Inside the block the model evaluates (no dropout) and no graph is kept; after it, the mode is as before."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():    # not inference_mode: what is recorded as a graph in that spoils later recordings
            yield
    finally:
        model.train(was_training)


def windows(model, streams, bptt, row=0, hidden=None):
    """Read `streams` (L, B) in windows of `bptt` rows -> yields features (N, E), targets (N,), hidden for each.

    The state is zero at the start, or `hidden` at `row`, and is carried from window to window: what comes out does
    not depend on `bptt`.
    """
    hidden = model.init_hidden(streams.size(1)) if hidden is None else hidden
    for start in range(row, len(streams) - 1, bptt):
        data, targets = get_batch(streams, start, None, seq_len=bptt)
        features, hidden = model(data, hidden)
        yield features, targets, hidden


def window_loss(model):
    """The function that `evaluate` calls for every window: (data (T, B), targets (N,), hidden) -> mean nats, hidden."""
    def loss_of(data, targets, hidden):
        features, hidden = model(data, hidden)
        return model.loss(features, targets), hidden
    return loss_of


def evaluate(model, streams, bptt, check=lambda: None, loss_of=None):
    """Mean cross-entropy in nats over all (L - 1)·B scored tokens of `streams` (L, B), without dropout; see below."""
    nats, tokens = total_loss(model, streams, bptt, check, loss_of)
    return nats / tokens


def total_loss(model, streams, bptt, check=lambda: None, loss_of=None):
    """Sum of the cross-entropy in nats over all scored tokens of `streams` (L, B), and how many they are.

    The state is zero at the start and carried from window to window. check: called after every window; what it raises
    ends the evaluation. loss_of: `window_loss(model)`, or `Graphs` of it.
    """
    loss_of = loss_of or window_loss(model)
    means, tokens = [], []
    with evaluating(model):
        hidden = model.init_hidden(streams.size(1))
        for start in range(0, len(streams) - 1, bptt):
            data, targets = get_batch(streams, start, None, seq_len=bptt)
            mean, hidden = loss_of(data, targets, hidden)
            means.append(mean.clone())
            tokens.append(len(targets))
            check()
    return math.fsum(mean * n for mean, n in zip(torch.stack(means).tolist(), tokens)), sum(tokens)
