"""Run a model over a corpus: window lengths, one training step, evaluation, and the rule that starts averaging.

T window length, B columns, L column length, V vocabulary, E emsize, N = T·B.
"""
import math
from contextlib import contextmanager

import torch

from graphs import Graphs
from nt_asgd import NTASGD
from utils import get_batch, repackage_hidden


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

    `step(data (T, B), targets (N,), hidden) -> mean loss in nats, new hidden`, both cut off from the graph, the loss a
    scalar on the device. The learning rate is scaled by T / bptt: a short window's gradient is a mean over fewer
    tokens, and counts for less. clip: largest gradient norm over all parameters, 0 for none.

    A step whose loss or gradient is not finite changes nothing and gives NaN and the hidden state it was given. That
    is decided on the device: the host never waits. graphs: on CUDA, replay steps as CUDA graphs; the hidden state is
    then overwritten by the next step.
    """

    def __init__(self, model, criterion, optimizer, *, bptt, clip, alpha, beta, graphs=False):
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.bptt, self.clip, self.alpha, self.beta = bptt, clip, alpha, beta
        self.parameters = [*model.parameters(), *criterion.parameters()]
        # NT-ASGD takes all its numbers from the device, and its update can be part of a graph. Others follow gradients
        # that a graph leaves in one place.
        self._whole = isinstance(optimizer, NTASGD)
        self._left = [torch.zeros_like(p) for p in self.parameters] if graphs and not self._whole else None
        self.graphs = (Graphs(self._step if self._whole else self._leave_gradients, self.parameters[0].device)
                       if graphs else None)
        self._averaging = False
        self._too_large = set()    # shapes of windows that did not fit into memory

    def __call__(self, data, targets, hidden):
        rates = [torch.full((), group["lr"] * len(data) / self.bptt, device=data.device)
                 for group in self.optimizer.param_groups]
        if not self.graphs or data.shape in self._too_large:
            return self._step(data, targets, hidden, rates)
        if not self._whole:
            loss, hidden, bad, norm = self.graphs(data, targets, hidden)
            self._update(self._left, rates, bad, norm)
            return loss.clone(), hidden
        if self.optimizer.averaging != self._averaging:
            self._averaging = self.optimizer.averaging
            self.graphs.forget()
        loss, hidden = self.graphs(data, targets, hidden, rates)
        return loss.clone(), hidden

    def _step(self, data, targets, hidden, rates):
        gradients, loss, hidden, bad, norm = self._judged(data, targets, hidden)
        self._update(gradients, rates, bad, norm)
        return loss, hidden

    def _leave_gradients(self, data, targets, hidden):
        gradients, *rest = self._judged(data, targets, hidden)
        torch._foreach_copy_(self._left, gradients)
        return rest

    def _judged(self, data, targets, hidden):
        """Gradients, loss and hidden state, whether anything is not finite, and the gradients' norm."""
        loss, new_hidden, gradients = self._gradients(data, targets, hidden)
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        bad = ~torch.isfinite(loss + norm)
        return gradients, torch.where(bad, math.nan, loss), either(bad, hidden, new_hidden), bad, norm

    def _update(self, gradients, rates, bad, norm):
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        if not follows_scalars(self.optimizer):
            rates = [rate.item() for rate in rates]
        with learning_rates(self.optimizer, rates):
            update(self.optimizer, bad, (norm + 1e-6) / self.clip if self.clip else None)
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self, data, targets, hidden):
        """Forward and backward; a rare long window that does not fit into memory in two halves of its columns."""
        try:
            return self._backward(data, targets, hidden, share=1)
        except torch.OutOfMemoryError:
            if data.size(1) == 1 or (data.is_cuda and torch.cuda.is_current_stream_capturing()):
                raise
        # Only out here, where the error no longer holds on to what was computed, is that memory free again.
        self._too_large.add(data.shape)
        targets, halves = targets.view_as(data), []
        for part in (slice(0, data.size(1) // 2), slice(data.size(1) // 2, None)):
            x = data[:, part]                                                          # (T, B/2)
            halves.append(self._backward(x, targets[:, part].reshape(-1), take_columns(hidden, part),
                                         share=x.size(1) / data.size(1)))
        (loss, first, gradients), (other_loss, second, others) = halves
        for gradient, other in zip(gradients, others):
            if gradient is not None:
                gradient += other
        return loss + other_loss, join_columns(first, second), gradients

    def _backward(self, data, targets, hidden, share):
        """`share` of the loss, new hidden, and for every parameter that share of the gradient, or None."""
        decoder = self.model.decoder
        features, hidden, raws, dropped = self.model(data, hidden, return_h=True)      # (N, E)
        loss = self.criterion(decoder.weight, decoder.bias, features, targets) * share
        total = loss + activation_penalty(raws[-1], dropped[-1], self.alpha, self.beta) * share
        gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        # In the parameters' layout: fused updates walk through both alike.
        return loss.detach(), repackage_hidden(hidden), [None if g is None else g.contiguous() for g in gradients]


def follows_scalars(optimizer):
    """Whether it takes its learning rate, `grad_scale` and `found_inf` from scalars on the device."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def update(optimizer, bad, shrink):
    """Let `optimizer` step: with gradients divided by `shrink` where it is above 1, and not at all where `bad` is true.

    bad, shrink: scalars on the device; optimizers that follow such scalars do not make the host wait for them.
    """
    shrink = None if shrink is None else shrink.clamp(min=1).to(torch.float32)
    if follows_scalars(optimizer):
        optimizer.found_inf, optimizer.grad_scale = bad.to(torch.float32), shrink
        optimizer.step()
    elif not bad.item():
        if shrink is not None:
            torch._foreach_div_([p.grad for group in optimizer.param_groups for p in group["params"]
                                 if p.grad is not None], shrink)
        optimizer.step()


def either(condition, first, second):
    """`first` where `condition` (a scalar) is true, else `second`: two hidden states."""
    if isinstance(first, torch.Tensor):
        return torch.where(condition, first, second)
    return type(first)(either(condition, a, b) for a, b in zip(first, second))


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
def learning_rates(optimizer, rates):
    """Inside the block each group of parameters has the learning rate in `rates`, scalars on the device."""
    own = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, own):
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


def scorer(model, criterion):
    """The function that `evaluate` calls for every window: (data (T, B), targets (N,), hidden) -> mean nats, hidden."""
    def score(data, targets, hidden):
        features, hidden = model(data, hidden)
        return criterion(model.decoder.weight, model.decoder.bias, features, targets), hidden
    return score


def evaluate(model, criterion, columns, bptt, check=lambda: None, score=None):
    """Mean cross-entropy in nats over all (L - 1)·B scored tokens of `columns` (L, B), without dropout.

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
