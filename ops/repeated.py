"""A matrix product that is made again and again, each time of what came out of the time before.

autograd would add a gradient as large as the weight at every use. Here the weight is laid out once, and its gradient is
one product, made when all uses have passed theirs back.

B batch size, I inputs, O outputs, N uses · B.
"""
import torch
from torch.autograd.function import once_differentiable

from ops.packed import packed


def repeated(weight, rows, bias=None, dtype=None):
    """weight (O, I), bias (O,) -> a function x (rows, I) -> x @ weight.t() + bias (rows, O).

    Or G of them side by side: weight (G, O, I), bias (G, 1, O), x (G, rows, I) -> (G, rows, O).
    Differentiable in all three, once; any number of uses. dtype: the matmul dtype, by default that of `weight`; sums,
    and what is returned, stay as `x` is.
    """
    uses = _Uses(weight.detach().to(dtype or weight.dtype), None if bias is None else bias.detach(), rows)
    stand_in = _StandIn.apply(uses, weight, bias)
    return lambda x: _Use.apply(uses, stand_in, x)


class _Uses:
    """The products forward and back, and in a backward pass what the uses have met so far."""

    def __init__(self, weight, bias, rows):
        self.weight, self.bias, self.rows = weight, bias, rows
        self.product, self.product_back = packed(weight, rows), None
        self.inputs, self.gradients = [], []

    def back(self, gradient):
        if self.product_back is None:
            self.product_back = packed(self.weight.mT, self.rows)
        return self.product_back(gradient)

    def take(self):
        """-> inputs (N, I), gradients (N, O)."""
        uses = torch.cat(self.inputs, -2), torch.cat(self.gradients, -2)
        self.inputs, self.gradients = [], []
        return uses


class _StandIn(torch.autograd.Function):
    """An empty tensor that every use depends on in place of weight and bias: its gradient is asked for after theirs."""

    @staticmethod
    def forward(ctx, uses, weight, bias):
        ctx.set_materialize_grads(False)
        ctx.uses, ctx.dtype = uses, weight.dtype
        return weight.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx, _):
        if not ctx.uses.inputs:
            return None, None, None
        inputs, gradients = ctx.uses.take()
        bias = ctx.uses.bias
        d_bias = None if bias is None else gradients.sum(-2, dtype=ctx.dtype).view_as(bias)
        return None, (gradients.mT @ inputs).to(ctx.dtype), d_bias


class _Use(torch.autograd.Function):

    @staticmethod
    def forward(ctx, uses, stand_in, x):
        inputs = x.to(uses.weight.dtype)                                           # (B, I)
        ctx.uses, ctx.dtype = uses, x.dtype
        ctx.save_for_backward(inputs)
        out = uses.product(inputs).to(x.dtype)                                     # (B, O)
        return out if uses.bias is None else out.add_(uses.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gradient = gradient.to(ctx.uses.weight.dtype)
        if ctx.needs_input_grad[1]:
            inputs, = ctx.saved_tensors
            ctx.uses.inputs.append(inputs.detach())
            ctx.uses.gradients.append(gradient)
        return None, None, ctx.uses.back(gradient).to(ctx.dtype) if ctx.needs_input_grad[2] else None
