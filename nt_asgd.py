"""The paper's optimizer: SGD that starts averaging its weights when validation stalls (Merity et al. 2018, section 3).

When to start is the caller's decision (`evaluation.has_stalled`); this file is the arithmetic.
torch.optim.swa_utils.AveragedModel is not used: it averages a copy of the module, which then must be saved, restored
and evaluated beside it, and costs a second pass over all weights in every step.
"""
from contextlib import contextmanager

import torch
from torch.optim import Optimizer


class Averaging:
    """What makes an optimizer average: `class Averaged(Averaging, AnyOptimizer)`.

    From `start_averaging()` on, each step is followed by the mean of the weights after every step since. Training
    always goes on from the raw weights; the average is put in their place only inside `with optimizer.averaged():`.
    Where the optimizer's `found_inf` is set and 1, the step is not counted.
    """

    def add_param_group(self, param_group):
        """Train more parameters from now on; once averaging has started, their average begins with their next step."""
        averaging = bool(self.param_groups) and self.averaging
        super().add_param_group({**param_group, "averaging": averaging, "averaged_steps": 0})
        self._count_on_device(self.param_groups[-1])

    @property
    def averaging(self):
        """Whether `start_averaging` was called."""
        return self.param_groups[0]["averaging"]

    def start_averaging(self):
        """Average the weights from the next step on. Calling it again changes nothing."""
        for group in self.param_groups:
            group["averaging"] = True

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                if group["averaging"]:
                    self._average(group, getattr(self, "found_inf", None))
        return loss

    def _average(self, group, found_inf):
        """mean_n = mean_{n-1} + (w_n - mean_{n-1}) / n, for every parameter, moved in this step or not."""
        counted = 1 if found_inf is None else 1 - found_inf
        weight = counted / group["averaged_steps"].add_(counted).clamp(min=1)          # 1 / n, or 0
        for p in group["params"]:
            if "average" not in self.state[p]:
                self.state[p]["average"] = p.clone()
            self.state[p]["average"].lerp_(p, weight.to(p.dtype))

    def state_dict(self):
        state = super().state_dict()
        for group in state["param_groups"]:
            group["averaged_steps"] = int(group["averaged_steps"])
        return state

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            self._count_on_device(group)

    def _count_on_device(self, group):
        """Keep the number of averaged steps where it is added to without being looked at."""
        group["averaged_steps"] = torch.tensor(float(group["averaged_steps"]), device=group["params"][0].device)

    @contextmanager
    @torch.no_grad()
    def averaged(self):
        """Inside the block the parameters hold the average; after it, bit for bit what they held before.

        Changes nothing before the first averaged step. The parameters' memory stays where it is.
        """
        params = [p for group in self.param_groups for p in group["params"] if "average" in self.state[p]]
        raw = [p.clone() for p in params]
        try:
            for p in params:
                p.copy_(self.state[p]["average"])
            yield
        finally:
            for p, weights in zip(params, raw):
                p.copy_(weights)


class SGD(Optimizer):
    """Plain SGD: a step is w ← w - lr · (gradient + weight_decay · w).

    lr, weight_decay: non-negative, else ValueError. Like torch's fused optimizers it follows two scalars on the
    weights' device, if they are set: gradients are divided by `grad_scale`, and where `found_inf` is 1 the step changes
    nothing. So nobody need wait to know their values.
    """

    def __init__(self, params, lr, weight_decay=0):
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr and weight_decay must not be negative: {lr}, {weight_decay}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._step_supports_amp_scaling = True   # torch's name for following the two scalars

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                _descend(params, [p.grad for p in params], group["lr"], group["weight_decay"], scale, found_inf)
        return loss


class NTASGD(Averaging, SGD):
    """Plain SGD until `start_averaging()`; from then on also the mean of the weights after every step."""


def _descend(params, gradients, lr, weight_decay, scale, found_inf):
    """w ← w - lr · (gradient / scale + weight_decay · w), or nothing where `found_inf` is 1."""
    if params[0].is_cpu:       # one pass over memory
        torch._fused_sgd_(params, gradients, [], weight_decay=weight_decay, momentum=0.0, lr=lr, dampening=0.0,
                          nesterov=False, maximize=False, is_first_step=False, grad_scale=scale, found_inf=found_inf)
    else:                      # where that kernel computes in fp64, which most GPUs are slow at
        _descend_in_passes(params, gradients, lr, weight_decay, scale, found_inf)


def _descend_in_passes(params, gradients, lr, weight_decay, scale, found_inf):
    rate, decay = lr if scale is None else lr / scale, lr * weight_decay
    if found_inf is not None:
        good = 1 - found_inf
        rate, decay = rate * good, decay * good
        gradients = [torch.where(found_inf.bool(), 0.0, gradient) for gradient in gradients]    # 0 · inf is not 0
    steps = torch._foreach_mul(gradients, rate)
    torch._foreach_mul_(params, 1 - decay)
    torch._foreach_sub_(params, steps)
