"""The update of dynamic evaluation (1709.07432), in one pass over memory where it can be compiled."""
from ctypes import c_int64 as integer
from ctypes import c_void_p as pointer

import torch

from ops import compiled


def update(weights, trained, decays, gradients, rates):
    """w ← w + decay · (trained - w) - rate · gradient, for lists of tensors; decay and rate as w is, or scalars ()."""
    library = compiled.library("update") if _usable(weights, trained, decays, gradients, rates) else None
    if library is None:
        torch._foreach_lerp_(weights, trained, decays)
        torch._foreach_addcmul_(weights, gradients, rates, -1)
        return
    for tensors in zip(weights, trained, decays, gradients, rates, strict=True):
        function = library.update_alike if tensors[2].dim() == 0 else library.update
        function(integer(tensors[0].numel()), *(pointer(tensor.data_ptr()) for tensor in tensors))


def _usable(weights, trained, decays, gradients, rates):
    tensors = [*weights, *trained, *decays, *gradients, *rates]
    return (all(tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
            and all(decay.shape == rate.shape and decay.shape in (weight.shape, ())
                    for weight, decay, rate in zip(weights, decays, rates, strict=True)))
