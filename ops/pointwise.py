"""The pointwise parts of cells that go step by step, as functions that autograd differentiates.

Each is one pass forward and one backward where it is compiled, ops/kernels/cells.cpp: on a CPU, in float32. Elsewhere
it is operators of torch.

B batch size, H hidden units, G gates.
"""
from ctypes import c_int64 as integer
from ctypes import c_void_p as pointer

import torch
from torch.autograd.function import once_differentiable

from ops import compiled
from ops.recurrence import has_compiled_steps, pointwise_steps


def highway(gates, s):
    """gates (B, 2H): a and b; s (B, H) -> s + (tanh(a) - s) · sigmoid(b) (B, H)."""
    if has_compiled_steps(gates.dtype, s):
        return _Highway.apply(gates.contiguous(), s.contiguous())
    h, t = gates.chunk(2, 1)
    return torch.lerp(s, h.tanh(), t.sigmoid())


def scaling(gate, x):
    """2 sigmoid(gate) · x, of one shape."""
    if has_compiled_steps(gate.dtype, x):
        return _Scaling.apply(gate.contiguous(), x.contiguous())
    return 2 * gate.sigmoid() * x


def lstm_step(kind, x_gates, h_gates, c):
    """The new h and c (B, H) of a `kind` that has compiled steps, given both parts of the gates (B, G·H) and c (B, H).

    kind: "lstm", "capped_lstm" or "coupled_lstm". Only where `has_compiled_steps`.
    """
    return _LSTMStep.apply(kind, x_gates.contiguous(), h_gates.contiguous(), c.contiguous())


def _call(name, *sizes_and_tensors):
    getattr(compiled.library("cells"), name)(
        *(pointer(each.data_ptr()) if torch.is_tensor(each) else integer(each) for each in sizes_and_tensors))


class _Highway(torch.autograd.Function):

    @staticmethod
    def forward(ctx, before, s):
        after, out = torch.empty_like(before), torch.empty_like(s)
        _call("highway_forward", *s.shape, before, s, after, out)
        ctx.save_for_backward(s, after)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        s, after = ctx.saved_tensors
        d_before, d_s = torch.empty_like(after), torch.empty_like(s)
        d_out = d_out.contiguous()
        _call("highway_backward", *s.shape, d_out, s, after, d_before, d_s)
        return d_before, d_s


class _Scaling(torch.autograd.Function):

    @staticmethod
    def forward(ctx, before, x):
        gate, out = torch.empty_like(before), torch.empty_like(x)
        _call("scaling_forward", x.numel(), before, x, gate, out)
        ctx.save_for_backward(x, gate)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, gate = ctx.saved_tensors
        d_before, d_x = torch.empty_like(gate), torch.empty_like(x)
        d_out = d_out.contiguous()
        _call("scaling_backward", x.numel(), d_out, x, gate, d_before, d_x)
        return d_before, d_x


class _LSTMStep(torch.autograd.Function):

    @staticmethod
    def forward(ctx, kind, x_gates, h_gates, c_before):
        gates, no_bias = torch.empty_like(x_gates), x_gates.new_zeros(x_gates.size(1))
        c, out, again = (torch.empty_like(c_before) for _ in range(3))
        step = getattr(pointwise_steps(gates.dtype, gates), f"{kind}_forward")
        step(x_gates, h_gates, no_bias, gates, c_before, c, out, again)
        ctx.save_for_backward(gates, c_before, c)
        ctx.cell_kind = kind
        return out, c

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out, d_c):
        gates, c_before, c = ctx.saved_tensors
        d_gates, d_c = torch.empty_like(gates), d_c.clone(memory_format=torch.contiguous_format)
        step = getattr(pointwise_steps(gates.dtype, gates), f"{ctx.cell_kind}_backward")
        step(d_out.contiguous(), torch.zeros_like(c), d_c, gates, c_before, c, d_gates)
        return None, d_gates, d_gates, d_c
