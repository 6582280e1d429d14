"""The paper's optimizer: SGD that starts averaging its weights when validation stalls (Merity et al. 2018, section 3).

When to start is the caller's decision (`engine.has_stalled`); this file is the arithmetic.
"""
from contextlib import contextmanager

import torch
from torch.optim import Optimizer


class NTASGD(Optimizer):
    """Plain SGD until `start_averaging()`; from then on also the mean of the weights after every step.

    A step is w ← w - lr · (gradient + weight_decay · w). Training always goes on from the raw weights; the average
    is put in their place only inside `with optimizer.averaged():`. lr, weight_decay: non-negative, else ValueError.
    """

    def __init__(self, params, lr, weight_decay=0):
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr and weight_decay must not be negative: {lr}, {weight_decay}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "averaging": False, "averaged_steps": 0})

    @property
    def averaging(self):
        """Whether `start_averaging` was called."""
        return self.param_groups[0]["averaging"]

    def start_averaging(self):
        """Average the weights from the next step on. Calling it again changes nothing."""
        for group in self.param_groups:
            group["averaging"] = True

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                _descend(params, [p.grad for p in params], group["lr"], group["weight_decay"])
            if group["averaging"]:
                group["averaged_steps"] += 1
                self._average(group)
        return loss

    def _average(self, group):
        """mean_n = mean_{n-1} + (w_n - mean_{n-1}) / n, for every parameter, moved in this step or not."""
        for p in group["params"]:
            if "average" not in self.state[p]:
                self.state[p]["average"] = p.clone()
        averages = [self.state[p]["average"] for p in group["params"]]
        torch._foreach_lerp_(averages, group["params"], 1 / group["averaged_steps"])

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


def _descend(params, gradients, lr, weight_decay):
    """w ← w - lr · (gradient + weight_decay · w), in one pass over memory where torch has the kernel."""
    if params[0].device.type in ("cpu", "cuda"):
        torch._fused_sgd_(params, gradients, [], weight_decay=weight_decay, momentum=0.0, lr=float(lr), dampening=0.0,
                          nesterov=False, maximize=False, is_first_step=False)
    else:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        torch._foreach_add_(params, gradients, alpha=-lr)
