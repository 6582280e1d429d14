"""Products of a weight with a few rows in float32 on a CPU: ops/kernels/few.cpp. Else torch's own, and those of a
weight's transpose with more than one row, where it is the faster.

A segment of dynamic evaluation has five tokens, and a step of it one row: reading the weight takes all the time.
T rows, O outputs, K inputs.
"""
from ctypes import c_int64 as integer
from ctypes import c_void_p as pointer

import torch

from ops import compiled

ROWS = 8


def times(weight):
    """weight (O, K) or the transpose of such a one -> a function x (T, K) -> x @ weight.t(), a new tensor (T, O)."""
    def product(x):
        library = _library(x, matrix) if len(x) == 1 or not is_transposed else None
        if library is None:
            return x @ weight.t()
        out = x.new_empty(len(x), len(weight))
        sizes, arrays = map(integer, matrix.shape), (pointer(each.data_ptr()) for each in (x, matrix, out))
        if is_transposed:
            library.across(*sizes, *arrays, integer(torch.get_num_threads()))
        else:
            library.along(integer(len(x)), *sizes, *arrays)
        return out
    is_transposed = not weight.is_contiguous()
    matrix = weight.t() if is_transposed else weight
    return product


def outer(g, x):
    """g (T, O), x (T, K) -> g.t() @ x (O, K)."""
    library = _library(g, x)
    if library is None:
        return g.t() @ x
    out = x.new_empty(g.size(1), x.size(1))
    library.outer(*map(integer, (len(g), *out.shape)), *(pointer(each.data_ptr()) for each in (g, x, out)))
    return out


def _library(x, other):
    usable = 0 < len(x) <= ROWS and all(each.is_cpu and each.dtype == torch.float32 and each.is_contiguous()
                                        for each in (x, other))
    return compiled.library("few") if usable else None
