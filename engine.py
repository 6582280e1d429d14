"""Run a model over a corpus: window lengths, one training step, evaluation, and the rule that starts averaging.

T window length, B columns, L column length, V vocabulary, E emsize, N = T·B.
"""
import math
from contextlib import contextmanager

import torch

from utils import get_batch, repackage_hidden


def window_length(bptt, max_delta, generator):
    """Length of the next training window (Merity et al. 2018, section 4.1).

    Drawn from N(base, 5), where base is `bptt` with probability 0.95 and else half of it; at least 5 and at most
    `bptt + max_delta` tokens. `generator`: a torch.Generator of its own, so that lengths do not depend on dropout.
    """
    base = bptt if torch.rand((), generator=generator).item() < 0.95 else bptt / 2
    drawn = torch.normal(float(base), 5.0, (), generator=generator).item()
    return min(max(5, int(drawn)), bptt + max_delta)


def activation_penalty(raw, dropped, alpha, beta):
    """AR and TAR on the last layer's output before (`raw`) and after (`dropped`) dropout, both (T, B, E).

    alpha · mean(dropped²) + beta · mean((raw_t - raw_{t-1})²): section 4.6.
    """
    penalty = alpha * dropped.pow(2).mean() if alpha else 0.0
    if beta and len(raw) > 1:
        penalty = penalty + beta * (raw[1:] - raw[:-1]).pow(2).mean()
    return penalty


class TrainStep:
    """One training step: forward, backward, clip, update.

    `step(data (T, B), targets (N,), hidden) -> mean loss in nats, new hidden`, both cut off from the graph. The
    learning rate is scaled by T / bptt: a short window's gradient is a mean over fewer tokens, and counts for less.
    clip: largest gradient norm over all parameters, 0 for none.

    A step whose loss or gradient is not finite changes nothing: it is counted in `skipped` and `skipped_in_a_row`,
    and gives None for the loss and the hidden state it was given.
    """

    def __init__(self, model, criterion, optimizer, *, bptt, clip, alpha, beta):
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.bptt, self.clip, self.alpha, self.beta = bptt, clip, alpha, beta
        self.parameters = [*model.parameters(), *criterion.parameters()]
        self.skipped = self.skipped_in_a_row = 0

    def __call__(self, data, targets, hidden):
        self.optimizer.zero_grad(set_to_none=True)
        loss, new_hidden = self._gradients(data, targets, hidden)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip or math.inf)
        if not torch.isfinite(loss + norm):
            self.skipped += 1
            self.skipped_in_a_row += 1
            return None, hidden
        self.skipped_in_a_row = 0
        with scaled_learning_rate(self.optimizer, len(data) / self.bptt):
            self.optimizer.step()
        return loss, new_hidden

    def _gradients(self, data, targets, hidden):
        """Forward and backward; a rare long window that does not fit into memory in two halves of its columns."""
        try:
            return self._backward(data, targets, hidden, share=1)
        except torch.OutOfMemoryError:
            if data.size(1) == 1:
                raise
        # Only out here, where the error no longer holds on to what was computed, is that memory free again.
        self.optimizer.zero_grad(set_to_none=True)
        targets, halves = targets.view_as(data), []
        for part in (slice(0, data.size(1) // 2), slice(data.size(1) // 2, None)):
            x = data[:, part]                                                          # (T, B/2)
            halves.append(self._backward(x, targets[:, part].reshape(-1), take_columns(hidden, part),
                                         share=x.size(1) / data.size(1)))
        (loss, first), (other_loss, second) = halves
        return loss + other_loss, join_columns(first, second)

    def _backward(self, data, targets, hidden, share):
        """Add `share` of the gradient -> that share of the loss, new hidden; both cut off from the graph."""
        decoder = self.model.decoder
        features, hidden, raws, dropped = self.model(data, hidden, return_h=True)      # (N, E)
        loss = self.criterion(decoder.weight, decoder.bias, features, targets) * share
        (loss + activation_penalty(raws[-1], dropped[-1], self.alpha, self.beta) * share).backward()
        return loss.detach(), repackage_hidden(hidden)


def take_columns(hidden, part):
    """Some of the columns of a hidden state."""
    if isinstance(hidden, torch.Tensor):
        return hidden[:, part].contiguous()                                            # (1, B/2, H)
    return type(hidden)(take_columns(h, part) for h in hidden)


def join_columns(first, second):
    """The hidden state of which `first` and `second` are the columns."""
    if isinstance(first, torch.Tensor):
        return torch.cat([first, second], dim=1)                                       # (1, B, H)
    return type(first)(join_columns(a, b) for a, b in zip(first, second))


def flat(hidden):
    """The tensors in a hidden state, in order."""
    return [hidden] if isinstance(hidden, torch.Tensor) else [tensor for part in hidden for tensor in flat(part)]


@contextmanager
def scaled_learning_rate(optimizer, factor):
    """Inside the block every learning rate is `factor` times what it is outside."""
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * factor
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate


@contextmanager
def evaluating(model):
    """Inside the block the model evaluates (no dropout) and no graph is kept; after it, the mode is as before."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
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


def evaluate(model, criterion, columns, bptt, check=lambda: None):
    """Mean cross-entropy in nats over all (L - 1)·B scored tokens of `columns` (L, B), without dropout.

    check: called after every window; what it raises ends the evaluation.
    """
    weight, bias = model.decoder.weight, model.decoder.bias
    means, tokens = [], []
    with evaluating(model):
        for features, targets, _ in windows(model, columns, bptt):
            means.append(criterion(weight, bias, features, targets))
            tokens.append(len(targets))
            check()
    return math.fsum(mean * n for mean, n in zip(torch.stack(means).tolist(), tokens)) / sum(tokens)


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
