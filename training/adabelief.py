"""AdaBelief (Zhuang et al. 2020, 2010.07468): Adam, its steps divided by how far gradients are from their mean."""
import torch
from torch.optim import Optimizer


class AdaBelief(Optimizer):
    """For each weight w with the gradient g, in step t (algorithm 2):

        g ← g + weight_decay · w
        m ← beta1 · m + (1 - beta1) · g
        s ← beta2 · s + (1 - beta2) · (g - m)² + eps
        w ← w - lr · m / (1 - beta1^t) / (√(s / (1 - beta2^t)) + eps)

    Weight decay is L2, as in the paper's experiments with this model; there is no rectification.
    """

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-12, weight_decay=0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._update(w, group["lr"], *group["betas"], group["eps"], group["weight_decay"])
        return loss

    def _update(self, w, lr, beta1, beta2, eps, weight_decay):
        state = self.state[w]
        if not state:
            state.update(step=0, mean=torch.zeros_like(w), spread=torch.zeros_like(w))
        state["step"] += 1
        mean, spread, t = state["mean"], state["spread"], state["step"]
        gradient = w.grad.add(w, alpha=weight_decay)
        mean.lerp_(gradient, 1 - beta1)
        gradient.sub_(mean)
        spread.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2).add_(eps)
        w.addcdiv_(mean, (spread / (1 - beta2**t)).sqrt_().add_(eps), value=-lr / (1 - beta1**t))
