"""The update of dynamic evaluation (1709.07432), in one pass over memory where it can be compiled."""
import torch

from ops import compiled
from ops.few import Product, formed

MOST_ROWS = 16         # as in ops/kernels/update.cpp


def update(weights, trained, decays, gradients, rates):
    """w ← w + decay · (trained - w) - rate · gradient, for lists of tensors; decay and rate as w is, or scalars ().

    A gradient may be a `few.Product`: where this is compiled it is then never formed.
    """
    library = compiled.library("update") if _usable(weights, trained, decays, gradients, rates) else None
    if library is None:
        torch._foreach_lerp_(weights, trained, decays)
        torch._foreach_addcmul_(weights, formed(gradients), rates, -1)
        return
    for weight, start, decay, gradient, rate in zip(weights, trained, decays, gradients, rates, strict=True):
        factors = gradient if isinstance(gradient, Product) else (gradient,)
        function = library.update_product if isinstance(gradient, Product) else library.update
        sizes = (len(gradient.g), *weight.shape) if isinstance(gradient, Product) else (weight.numel(),)
        compiled.call(function, int(decay.dim() == 0), *sizes, weight, start, decay, rate, *factors)


def _usable(weights, trained, decays, gradients, rates):
    factors = [each for gradient in gradients for each in (gradient if isinstance(gradient, Product) else (gradient,))]
    return (all(len(each.g) <= MOST_ROWS for each in gradients if isinstance(each, Product))
            and all(tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous()
                for tensor in (*weights, *trained, *decays, *rates, *factors))
            and all(decay.shape == rate.shape and decay.shape in (weight.shape, ())
                    for weight, decay, rate in zip(weights, decays, rates, strict=True)))
