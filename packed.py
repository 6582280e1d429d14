"""A weight that is multiplied by many times, laid out once so that each product reads it from front to back.

A recurrence multiplies a few rows by the same matrix at every step. General matrix products, which order the matrix
anew or read it across at every call, take up to twice as long for that.
"""
from ctypes import c_int64 as integer
from ctypes import c_void_p as pointer

import torch

import native


def packed(weight, columns):
    """weight (O, K), in any strides -> a function x (columns, K) -> x @ weight.t(), a new tensor (columns, O).

    Not differentiable: for use inside an autograd function. The weight may not change while the function is in use.
    """
    library = native.library("product") if weight.is_cpu and weight.dtype == torch.float32 else None
    if library:
        return _in_panels(library, weight)
    onednn = torch.ops.mkldnn
    fits = weight.is_cpu and weight.dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()
    if fits and hasattr(onednn, "_linear_pointwise"):
        blocked, multiply = onednn._reorder_linear_weight(weight, columns), onednn._linear_pointwise.default
        return lambda x: multiply(x, blocked, None, "none", [], "")
    return lambda x: x @ weight.t()


def _in_panels(library, weight):
    """Our own product, kernels/product.cpp."""
    (outputs, inputs), width = weight.shape, library.panel_width()
    panels = weight.new_empty(-(-outputs // width), inputs, width)
    library.pack(integer(outputs), integer(inputs), pointer(weight.data_ptr()), *map(integer, weight.stride()),
                 pointer(panels.data_ptr()))

    def product(x):
        x, out = x.contiguous(), x.new_empty(len(x), outputs)
        library.product(integer(len(x)), integer(outputs), integer(inputs), pointer(x.data_ptr()),
                        pointer(panels.data_ptr()), pointer(out.data_ptr()))
        return out
    return product
