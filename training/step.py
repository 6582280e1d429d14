"""One training step: forward, backward, clip, update (Merity et al. 2018, sections 3 to 5).

What a machine needs around it (a batch in two halves where memory runs out, several processes, CUDA graphs) is in
`training.compose`.

T window length, B batch size, E emsize, N = T·B.
"""
import math
from contextlib import contextmanager

import torch

from runtime.values import LARGEST
from utils import map_hidden, repackage_hidden


def activation_penalty(raw, dropped, alpha, beta):
    """AR and TAR on the last layer's output before (`raw`) and after (`dropped`) dropout, both (T, B, E).

    alpha · mean(dropped²) + beta · mean((raw_t - raw_{t-1})²): section 4.6.
    """
    penalty = alpha * dropped.pow(2).mean() if alpha else 0.0
    if beta and len(raw) > 1:
        penalty = penalty + beta * (raw[1:] - raw[:-1]).pow(2).mean()
    return penalty


def drop_states(hidden, data, p):
    """The hidden state with that of each stream of `data` (T, B) set to zero with probability p: at the start of a text
    the state is zero, too (Melis et al. 2018, by their published code)."""
    if not p:
        return hidden
    mask = torch.rand(1, data.size(1), 1, device=data.device) >= p
    return map_hidden(lambda h: h * mask, hidden)                                      # (1, B, ·) each


class TrainStep:
    """One training step of `model`.

    `step(data (T, B), targets (N,), hidden) -> mean loss in nats, new hidden`, both cut off from the graph, the loss a
    scalar on the device. The learning rate is scaled by T / bptt: a short window's gradient is a mean over fewer
    tokens, and counts for less. clip: largest gradient norm over all parameters, 0 for none. alpha, beta: AR and TAR.
    state_drop: probability that a stream of the batch starts the window from the zero state. l2: weight of the squared
    weights, halved, in the loss: weight decay that the gradient's norm includes (the optimizer's own comes after
    clipping). decay: share of every weight that a step takes away besides, whatever the learning rate.

    A step whose loss or gradient is not finite changes nothing and gives NaN and the hidden state it was given. That
    is decided on the device: the host never waits. share: this process's part of the batch, where several take the step
    together; the loss given is then that of the whole batch.
    """

    def __init__(self, model, optimizer, *, bptt, clip, alpha, beta, state_drop=0.0, l2=0.0, decay=0.0, share=1.0):
        self.model, self.optimizer, self.state_drop, self.l2, self.decay = model, optimizer, state_drop, l2, decay
        self.bptt, self.clip, self.alpha, self.beta, self.share = bptt, clip, alpha, beta, share
        self.parameters = list(model.parameters())
        self.compute = self.forward_backward        # `training.compose` surrounds it

    def __call__(self, data, targets, hidden):
        return self.step(data, targets, hidden, self.rates(len(data), data.device))

    def step(self, data, targets, hidden, rates):
        gradients, norm, loss, new_hidden, finite = self.gradients(data, targets, hidden)
        self.update(gradients, norm, finite, rates)
        return loss, new_hidden

    def gradients(self, data, targets, hidden):
        """-> gradients, their norm, loss and hidden state after the window, whether all of it is finite."""
        start = drop_states(hidden, data, self.state_drop)
        loss, new_hidden, gradients = self.compute(data, targets, start, self.share)
        if self.l2:
            gradients = [None if g is None else torch.add(g, p.detach(), alpha=self.l2)
                         for g, p in zip(gradients, self.parameters)]
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        finite = torch.isfinite(loss + norm)
        next_hidden = map_hidden(lambda new, old: torch.where(finite, new, old), new_hidden, hidden)
        return gradients, norm, torch.where(finite, loss, math.nan), next_hidden, finite

    def forward_backward(self, data, targets, hidden, share):
        """`share` of the loss, new hidden, and for every parameter that share of the gradient, or None."""
        features, hidden, raws, dropped = self.model(data, hidden, return_h=True)      # (N, E)
        loss = self.model.loss(features, targets) * share
        penalty = activation_penalty(raws[-1], dropped[-1], self.alpha, self.beta)
        total = loss + (penalty + self.model.past_loss(features, data)) * share
        gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        return loss.detach(), repackage_hidden(hidden), each_its_own(gradients)

    def update(self, gradients, norm, finite, rates):
        """Clip, and let the optimizer step with the learning rates `rates`; not at all where it is not finite."""
        if self.decay:
            torch._foreach_mul_([p.data for p in self.parameters], 1 - self.decay * finite)
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        shrink = ((norm + 1e-6) / self.clip).clamp(min=1).to(torch.float32) if self.clip else None
        if follows_scalars(self.optimizer):
            self.optimizer.found_inf, self.optimizer.grad_scale = (~finite).to(torch.float32), shrink
            with learning_rates(self.optimizer, rates):
                self.optimizer.step()
        elif finite.item():
            if shrink is not None:
                torch._foreach_div_([g for g in gradients if g is not None], shrink)
            with learning_rates(self.optimizer, [rate.item() for rate in rates]):
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def rates(self, length, device):
        """Each parameter group's learning rate in a window of `length` tokens, as scalars on the device."""
        return [torch.full((), min(group["lr"] * length / self.bptt, LARGEST), device=device)
                for group in self.optimizer.param_groups]


def each_its_own(gradients):
    """Gradients in the layout of their parameters, as fused updates walk through them, and none of them another's
    memory: the two biases of a layer get one tensor, which what changes gradients in place would change twice."""
    taken, separate = set(), []
    for gradient in gradients:
        if gradient is not None:
            gradient = gradient.contiguous()
            gradient = gradient.clone() if gradient.data_ptr() in taken else gradient
            taken.add(gradient.data_ptr())
        separate.append(gradient)
    return separate


def follows_scalars(optimizer):
    """Whether it takes its learning rate, `grad_scale` and `found_inf` from scalars on the device."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


@contextmanager
def learning_rates(optimizer, rates):
    """Inside the block each parameter group has the learning rate in `rates`, scalars on the device or numbers."""
    before = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, before):
            group["lr"] = rate
