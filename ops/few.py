"""Products of a weight with a few rows in float32 on a CPU: ops/kernels/few.cpp. Else torch's own.

A segment of dynamic evaluation has five tokens, and a step of it one row: reading the weight takes all the time.
T rows, O outputs, K inputs.
"""
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ops import compiled

ROWS = 8


def times(weight):
    """weight (O, K) or the transpose of such a one -> a function x (T, K) -> x @ weight.t(), a new tensor (T, O)."""
    def product(x):
        library = _library(x, matrix)
        if library is None:
            return x @ weight.t()
        out = x.new_empty(len(x), len(weight))
        given = len(x), *matrix.shape, x, matrix, out
        if is_transposed:
            compiled.call(library.across, *given, torch.get_num_threads())
        else:
            compiled.call(library.along, *given)
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
    compiled.call(library.outer, len(g), *out.shape, g, x, out)
    return out


# ---- gradients of weights that are not formed: each is as large as its weight, and to write and read it takes longer
# than all else

class Product(NamedTuple):
    """A weight's gradient g.t() @ x (O, K) by its factors."""
    g: torch.Tensor                # (T, O)
    x: torch.Tensor                # (T, K)


def formed(gradients):
    """The same gradients, those that are Products as tensors -> list."""
    return [outer(*each) if isinstance(each, Product) else each for each in gradients]


_products = None                   # inside `unformed`: lists of Products, by their weights' places in memory and shapes


@contextmanager
def unformed(parameters, rows):
    """Inside the block `gradient` leaves those of `parameters` out, if they are of few `rows` and on a CPU.

    -> a function that puts them back: of a list of what autograd gives for the parameters, None for those left out,
    it makes the list of their gradients, a tensor or a Product each.
    """
    global _products
    products = {_place(parameter): [] for parameter in parameters}
    _products = products if rows <= ROWS and parameters[0].is_cpu else None
    try:
        yield lambda gradients: [_sum(parameter, gradient, products[_place(parameter)])
                                 for parameter, gradient in zip(parameters, gradients, strict=True)]
    finally:
        _products = None


def _place(weight):
    return weight.data_ptr(), weight.shape


def _sum(parameter, gradient, products):
    if gradient is None and products:
        return Product(*(torch.cat(factors) for factors in zip(*products)))
    gradient = torch.zeros_like(parameter) if gradient is None else gradient
    return sum(formed(products), gradient)


def gradient(weight, g, x):
    """That of `weight` (O, K), g.t() @ x (O, K); None inside `unformed` if it is left out."""
    if not is_unformed(weight) or _library(g, x) is None:
        return outer(g, x)
    _products[_place(weight)].append(Product(g, x))
    return None


def is_unformed(weight):
    """Whether `gradient` may leave that of `weight` out."""
    return _products is not None and _place(weight) in _products


class _Linear(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias):
        if ctx is not None:
            ctx.save_for_backward(x, weight)
        products = times(weight)(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        return products if bias is None else products + bias

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        g = g.flatten(0, -2).contiguous()
        d_x = times(weight.t())(g).view_as(x) if ctx.needs_input_grad[0] else None
        return d_x, gradient(weight, g, x.flatten(0, -2)), g.sum(0) if ctx.needs_input_grad[2] else None


def linear(x, weight, bias=None):
    """x (…, K), weight (O, K), bias (O,) -> (…, O), as torch's, with a gradient of the weight that can be left out."""
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else _Linear.forward(None, x, weight, bias)


class _Lookup(torch.autograd.Function):

    @staticmethod
    def forward(ctx, weight, words, padding):
        ctx.save_for_backward(weight, words)
        ctx.padding = padding
        return weight[words]

    @staticmethod
    @once_differentiable
    def backward(ctx, d_vectors):
        weight, words = ctx.saved_tensors
        chosen = weight.new_zeros(words.numel(), len(weight)).scatter_(1, words.view(-1, 1), 1)            # (T, V)
        if ctx.padding is not None:
            chosen[:, ctx.padding] = 0
        return gradient(weight, chosen, d_vectors.flatten(0, -2).contiguous()), None, None


def lookup(weight, words, padding=None):
    """Rows of weight (V, E) for words (…) -> (…, E), with a gradient that can be left out; `padding` has none."""
    return _Lookup.apply(weight, words, padding)


def _library(x, other):
    usable = 0 < len(x) <= ROWS and all(each.is_cpu and each.dtype == torch.float32 and each.is_contiguous()
                                        for each in (x, other))
    return compiled.library("few") if usable else None
