"""Passes over a bfloat16 matrix on a CPU that torch makes in several: ops/kernels/matrices.cpp. Else torch's own."""
import torch

from ops import compiled


def transposed(x):
    """x (R, C) -> its transpose (C, R), contiguous."""
    library = _library(x)
    if library is None:
        return x.t().contiguous()
    out = x.new_empty(x.size(1), x.size(0))
    compiled.call(library.transpose_bfloat16, *x.shape, x, out)
    return out


def column_sums(x, dtype):
    """x (R, C) -> the sums of its columns (C,) in `dtype`."""
    library = _library(x) if dtype == torch.float32 else None
    if library is None:
        return x.sum(0, dtype=dtype)
    out = x.new_empty(x.size(1), dtype=dtype)
    compiled.call(library.column_sums_bfloat16, *x.shape, x, out)
    return out


def _library(x):
    usable = x.is_cpu and x.dtype == torch.bfloat16 and x.is_contiguous()
    return compiled.library("matrices") if usable else None
