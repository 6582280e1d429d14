"""The mixture of softmaxes (Yang et al. 2018, section 2.3): p = Σ_k π_k softmax(W d(tanh(P_k h + c_k)) + b).

π = softmax(Q h) are the weights of the components, d is dropout, W and b the decoder's, which all components share.
N predictions, T window length, B batch size, K components, V words, E width of the decoder, F of a feature.
"""
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ops.fused_softmax import kernel_on
from ops.linear import linear
from runtime.options import ARCHITECTURE, MODEL, Flag
from runtime.values import probability, width
from softmaxes.softmax import ADVSOFT, Softmax
from splitcross import SlicedSoftmax, chunks, each_target


class MixtureSoftmax(Softmax):
    """K softmaxes over one vocabulary, mixed with weights that depend on the feature.

    Parameters: `latent`, all P_k above one another with their c_k (K·E, F), and `prior`, Q (K, F). In training d drops
    with probability `dropoutl`, by a mask (B, K·E) that the model has drawn for each window: one for all time steps,
    another for each column of the batch; with `per_step_dropout` one for each row (N, K·E). Logits are made some rows
    at a time, and where a gradient is wanted it is taken at once: no (N, K, V) array is ever kept.
    """
    supports = frozenset({"bf16"})
    projects = True
    flags = (Flag("mixtures", 15, "softmaxes in the mixture (Yang et al. 2018); selects --softmax mixture", width, "K",
                  kept=ARCHITECTURE, implies=("softmax", "mixture")),
             Flag("dropoutl", 0.29, "dropout on the latent vectors of the mixture, one mask for a window", probability,
                  "P", kept=MODEL),
             ADVSOFT)

    def __init__(self, width=0, settings=()):
        super().__init__(width, settings)
        self.components, self.fused, self.masks = self.settings["mixtures"], None, None
        n_in = self.settings.get("nhidlast", width)
        self.latent = nn.Linear(n_in, self.components * width)
        self.prior = nn.Linear(n_in, self.components, bias=False)
        if self.settings.get("weight_init") == "fan-in":
            for weight in self.latent.weight, self.prior.weight:
                nn.init.normal_(weight, std=n_in**-0.5)
            nn.init.zeros_(self.latent.bias)

    def on_device(self, device):
        self.fused = kernel_on(device)

    def draw_masks(self, rows):
        dropout = self.settings["dropoutl"]
        ones = self.prior.weight.new_ones(rows, self.latent.out_features)
        self.masks = F.dropout(ones, dropout) if self.training and dropout else None              # (B or N, K·E)

    def forward(self, weight, bias, features, targets):
        if not torch.is_grad_enabled():
            return -self.target_logprob(weight, bias, features, targets).mean()
        latents, log_prior = self._components(features)
        options = self._dtype(weight), self._fused(weight), self.settings["advsoft"] if self.training else 0.0
        return -_SumOfMixtures.apply(latents, log_prior, weight, bias, targets, *options) / len(targets)

    @torch.no_grad()
    def target_logprob(self, weight, bias, features, targets):
        dtype, parts = self._dtype(weight), []
        narrow_weight = weight.to(dtype)
        for rows in chunks(features, weight, self.components):
            latents, log_prior = self._components(features[rows], rows.start)
            copies = targets[rows].repeat_interleave(self.components)                             # (n·K,)
            each = each_target(latents.flatten(0, 1), narrow_weight, bias, copies, dtype,
                               self._fused(weight))
            parts.append((log_prior + each.view_as(log_prior)).logsumexp(1))
        return torch.cat(parts)

    def logprob(self, weight, bias, features):
        parts = []
        for rows in chunks(features, weight, self.components):
            latents, log_prior = self._components(features[rows], rows.start)
            logits = linear(latents, weight, None, self.matmul_dtype) + bias                      # (n, K, V)
            parts.append((logits.log_softmax(2) + log_prior[:, :, None]).logsumexp(1))
        return torch.cat(parts)

    def _components(self, features, first=0):
        """Of features (n, F), the rows from `first` on of a window: dropped latents (n, K, E), log π (n, K)."""
        latents = linear(features, self.latent.weight, None, self.matmul_dtype) + self.latent.bias
        latents = latents.tanh()                                                                  # (n, K·E)
        if self.masks is not None and self.training:
            rows = torch.arange(first, first + len(features), device=features.device)             # t·B + column
            latents = latents * self.masks[rows % len(self.masks)]
        return latents.unflatten(1, (self.components, -1)), self.prior(features).log_softmax(1)

    def _fused(self, weight):
        return self.fused if weight.dtype == torch.float32 else None

    def _dtype(self, like):
        return self.matmul_dtype or like.dtype


class _SumOfMixtures(torch.autograd.Function):
    """Σ_n log Σ_k exp(log π_nk + log p_k(target_n)) -> scalar. Its gradient is computed on the way forward.

    The gradient of a component's loss counts by its posterior r_nk = π_nk p_k(target_n) / p(target_n), which is the
    gradient by log π_nk, too. latents (N, K, E), log_prior (N, K).
    """

    @staticmethod
    def forward(ctx, latents, log_prior, weight, bias, targets, dtype, fused, advsoft):
        total, components = latents.new_zeros(()), log_prior.size(1)
        d_latents, d_log_prior = torch.empty_like(latents), torch.empty_like(log_prior)
        softmax = SlicedSoftmax(weight, bias, dtype, fused, advsoft)
        for rows in chunks(latents, weight, components):
            x, copies = latents[rows].flatten(0, 1), targets[rows].repeat_interleave(components)  # (n·K, E), (n·K,)

            def posterior(logprobs, rows=rows):
                joint = log_prior[rows] + logprobs.view(-1, components)                           # (n, K)
                total.add_(joint.logsumexp(1).sum())
                d_log_prior[rows] = -joint.softmax(1)
                return -d_log_prior[rows].flatten()

            d_latents[rows] = softmax(x, copies, posterior)[1].view_as(latents[rows])
        ctx.save_for_backward(d_latents, d_log_prior, softmax.d_weight, softmax.d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return *(g * -gradient for g in ctx.saved_tensors), None, None, None, None
