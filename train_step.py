"""One training step: forward, backward, clip, update. The same on every device; on a GPU it may run as a graph.

T window length, B columns, E emsize, N = T·B.
"""
import math
from contextlib import contextmanager

import torch

from graphs import Graphs
from nt_asgd import NTASGD
from utils import repackage_hidden


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
    then overwritten by the next step. team, share: the processes that take the step together, and this one's part of
    their columns; the loss given is then that of all columns.
    """

    def __init__(self, model, criterion, optimizer, *, bptt, clip, alpha, beta, graphs=False, team=None, share=1.0):
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.bptt, self.clip, self.alpha, self.beta = bptt, clip, alpha, beta
        self.team, self.share = team, share
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
        if self.team:
            self.team.add_up([loss, *(g for g in gradients if g is not None)])
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
            return self._backward(data, targets, hidden, self.share)
        except torch.OutOfMemoryError:
            if data.size(1) == 1 or (data.is_cuda and torch.cuda.is_current_stream_capturing()):
                raise
        # Only out here, where the error no longer holds on to what was computed, is that memory free again.
        self._too_large.add(data.shape)
        targets, halves = targets.view_as(data), []
        for part in (slice(0, data.size(1) // 2), slice(data.size(1) // 2, None)):
            x = data[:, part]                                                          # (T, B/2)
            halves.append(self._backward(x, targets[:, part].reshape(-1), take_columns(hidden, part),
                                         self.share * x.size(1) / data.size(1)))
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
