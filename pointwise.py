"""One time step of a recurrent cell without its matrix products, forward and backward, written into buffers.

Compiled for the CPU where there is a compiler (kernels/cells.cpp: one pass over memory), else in torch, which is the
definition that the compiled form is tested against. B columns, H hidden units; `x_gates` and `h_gates` are the products
with the input and with the state before, in the type that products are made in; all else is in the type of the states.
"""
import ctypes

import torch
from torch import Tensor

import native


def steps(dtype, states):
    """The four functions below for products of `dtype` and such `states`."""
    if compiled(dtype, states):
        return Compiled(native.library("cells"), str(dtype).removeprefix("torch."))
    return InTorch


def compiled(dtype, states):
    """Whether the steps are compiled for products of `dtype` and such `states`, compiling them if need be."""
    return (states.is_cpu and states.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16)
            and native.library("cells") is not None)


class InTorch:
    """The arithmetic. Every tensor (B, n·H) named in the comment on the right is written."""

    @staticmethod
    def lstm_forward(x_gates, h_gates, bias, gates, c_before, c, out, h):       # -> gates (B, 4H), c, out, h (B, H)
        i, f, g, o = (bias + x_gates + h_gates).chunk(4, 1)
        i, f, g, o = i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
        torch.cat([i, f, g, o], 1, out=gates)
        torch.addcmul(f * c_before, i, g, out=c)
        torch.mul(o, c.tanh(), out=out)
        h.copy_(out)

    @staticmethod
    def lstm_backward(d_out, d_h, dc, gates, c_before, c, d_gates):             # -> d_gates (B, 4H), dc (B, H)
        i, f, g, o = gates.chunk(4, 1)
        t = c.tanh()
        dh = d_out + d_h
        d_cell = torch.addcmul(dc, dh * o, 1 - t * t)
        torch.mul(d_cell, f, out=dc)
        d_gates.copy_(torch.cat([d_cell * g * i * (1 - i), d_cell * c_before * f * (1 - f), d_cell * i * (1 - g * g),
                                 dh * t * o * (1 - o)], 1))                     # may be `gates`: written last

    @staticmethod
    def gru_forward(x_gates, h_gates, x_bias, h_bias, gates, before, out, h):   # -> gates (B, 4H), out, h (B, H)
        x, (y_r, y_z, m) = (x_bias + x_gates).chunk(3, 1), (h_bias + h_gates).chunk(3, 1)
        r, z = (x[0] + y_r).sigmoid_(), (x[1] + y_z).sigmoid_()
        n = torch.addcmul(x[2], r, m).tanh_()
        torch.cat([r, z, n, m], 1, out=gates)
        torch.addcmul(n, z, before - n, out=out)
        h.copy_(out)

    @staticmethod
    def gru_backward(d_out, d_h, carry, gates, before, dx_gates, dh_gates):     # -> carry (B, H), d*_gates (B, 3H)
        r, z, n, m = gates.chunk(4, 1)
        dh = d_out + d_h + carry
        dn = dh * (1 - z) * (1 - n * n)
        dr, dz = dn * m * r * (1 - r), dh * (before - n) * z * (1 - z)
        dx_gates.copy_(torch.cat([dr, dz, dn], 1))
        dh_gates.copy_(torch.cat([dr, dz, dn * r], 1))
        torch.mul(dh, z, out=carry)


class Compiled:
    """The same functions on the same tensors, contiguous ones, by one call into the library each."""

    def __init__(self, library, name):
        for step in ("lstm_forward", "lstm_backward", "gru_forward", "gru_backward"):
            setattr(self, step, _on_tensors(getattr(library, f"{step}_{name}")))


def _on_tensors(function):
    function.restype = None
    address, integer, pointer = Tensor.data_ptr, ctypes.c_int64, ctypes.c_void_p

    def step(*tensors):
        columns, width = tensors[-3].shape      # in each of the four the third from the end is (B, H)
        function(integer(columns), integer(width), *map(pointer, map(address, tensors)))
    return step
