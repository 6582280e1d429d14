"""Run a model over a corpus: window lengths, evaluation, and the rule that starts averaging.

T window length, B columns, L column length, E emsize, N = T·B.
"""
import math
from contextlib import contextmanager

import torch

from utils import get_batch


def window_length(bptt, max_delta, generator, variable=True):
    """Length of the next training window (Merity et al. 2018, section 4.1): `bptt` if not `variable`.

    Drawn from N(base, 5), where base is `bptt` with probability 0.95 and else half of it; at least 5 and at most
    `bptt + max_delta` tokens. `generator`: a torch.Generator of its own, so that lengths do not depend on dropout.
    """
    if not variable:
        return bptt
    base = bptt if torch.rand((), generator=generator).item() < 0.95 else bptt / 2
    drawn = torch.normal(float(base), 5.0, (), generator=generator).item()
    return min(max(5, int(drawn)), bptt + max_delta)


def flat(hidden):
    """The tensors in a hidden state, in order."""
    return [hidden] if isinstance(hidden, torch.Tensor) else [tensor for part in hidden for tensor in flat(part)]


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


def windows(model, columns, bptt, row=0, hidden=None):
    """Read `columns` (L, B) in windows of `bptt` rows -> yields features (N, E), targets (N,), hidden for each.

    The state is zero at the start, or `hidden` at `row`, and is carried from window to window: what comes out does
    not depend on `bptt`.
    """
    hidden = model.init_hidden(columns.size(1)) if hidden is None else hidden
    for start in range(row, len(columns) - 1, bptt):
        data, targets = get_batch(columns, start, None, seq_len=bptt, evaluation=True)
        features, hidden = model(data, hidden)
        yield features, targets, hidden


def scorer(model, criterion):
    """The function that `evaluate` calls for every window: (data (T, B), targets (N,), hidden) -> mean nats, hidden."""
    def score(data, targets, hidden):
        features, hidden = model(data, hidden)
        return criterion(model.decoder.weight, model.decoder.bias, features, targets), hidden
    return score


def evaluate(model, criterion, columns, bptt, check=lambda: None, score=None):
    """Mean cross-entropy in nats over all (L - 1)·B scored tokens of `columns` (L, B), without dropout; see below."""
    nats, tokens = total_loss(model, criterion, columns, bptt, check, score)
    return nats / tokens


def total_loss(model, criterion, columns, bptt, check=lambda: None, score=None):
    """Sum of the cross-entropy in nats over all scored tokens of `columns` (L, B), and how many they are.

    The state is zero at the start and carried from window to window. check: called after every window; what it raises
    ends the evaluation. score: `scorer(model, criterion)`, or `Graphs` of it.
    """
    score = score or scorer(model, criterion)
    means, tokens = [], []
    with evaluating(model):
        hidden = model.init_hidden(columns.size(1))
        for start in range(0, len(columns) - 1, bptt):
            data, targets = get_batch(columns, start, None, seq_len=bptt, evaluation=True)
            mean, hidden = score(data, targets, hidden)
            means.append(mean.clone())
            tokens.append(len(targets))
            check()
    return math.fsum(mean * n for mean, n in zip(torch.stack(means).tolist(), tokens)), sum(tokens)


def has_stalled(val_losses, nonmono):
    """Whether averaging should start, asked after each epoch with the validation losses so far, the newest last.

    True when more than `nonmono` losses came before the newest, and it is worse than the best of those that lie
    more than `nonmono` epochs back (Merity et al. 2018, algorithm 1, as the published code reads it).
    """
    *earlier, newest = val_losses
    old = earlier[:max(0, len(earlier) - nonmono)]
    return bool(old) and newest > min(old)


def perplexity(loss):
    """exp of a loss in nats, infinity instead of an overflow."""
    return math.exp(loss) if loss < 700 else math.inf


def report(loss, split=""):
    """The three figures of every published log line, from a mean loss in nats; `split` as in "valid "."""
    return f"{split}loss {loss:5.2f} | {split}ppl {perplexity(loss):8.2f} | {split}bpc {loss / math.log(2):8.3f}"
