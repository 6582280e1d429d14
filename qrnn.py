"""The quasi-recurrent layer (Bradbury et al. 2017, 1611.01576; in this model, Merity et al. 2018b).

All its matrix products are with the input, one for all time steps. What is left of the recurrence is a running mean:
forget gates say how much of it stays (the paper's "fo-pooling").

T window length, B columns, I width of the input, H hidden units.
"""
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import cuda_kernels


class QRNN(nn.Module):
    """A layer that sees `window` inputs at a time, 1 or 2: the present one and the one before it.

    Its linear map has the weight (3H, window·I), for the candidates z, the forget gates f and the output gates o; with
    a window of 2 the columns for the present input come first.
    """

    def __init__(self, input_size, hidden_size, window=1):
        super().__init__()
        self.input_size, self.hidden_size, self.window = input_size, hidden_size, window
        self.linear = nn.Linear(window * input_size, 3 * hidden_size)

    def forward(self, x, hidden, weight=None, dtype=None):
        """x (T, B, I) -> output (T, B, H), new hidden.

        hidden: c (1, B, H), with a window of 2 the pair of that and of the input (1, B, I) before this window. weight:
        takes the place of the linear map's. dtype: of the numbers that its product multiplies.
        """
        c, before = hidden if self.window == 2 else (hidden, None)
        weight = self.linear.weight if weight is None else weight
        inputs = x if before is None else torch.cat([x, torch.cat([before, x[:-1]])], dim=2)   # (T, B, window·I)
        if dtype:
            gates = F.linear(inputs.to(dtype), weight.to(dtype)).to(x.dtype) + self.linear.bias
        else:
            gates = F.linear(inputs, weight, self.linear.bias)
        z, f, o = gates.chunk(3, dim=2)                                                        # (T, B, H) each
        states = pool(f.sigmoid(), z.tanh(), c[0])
        last = states[-1:]
        return o.sigmoid() * states, last if before is None else (last, x[-1:])


def pool(f, z, start):
    """c_t = f_t · c_{t-1} + (1 - f_t) · z_t (T, B, H), from forget gates f, candidates z (T, B, H) and c_0 (B, H)."""
    return _Pool.apply(f.contiguous(), z.contiguous(), start.contiguous())


class _Pool(torch.autograd.Function):

    @staticmethod
    def forward(ctx, f, z, start):
        c = torch.empty_like(f)
        if not cuda_kernels.launch("pooling", "pool_forward", start.numel(), f, z, start, c, len(f), start.numel()):
            before = start
            for t in range(len(f)):
                before = torch.lerp(z[t], before, f[t], out=c[t])                              # z + f (c - z)
        ctx.save_for_backward(f, z, start, c)
        return c

    @staticmethod
    @once_differentiable
    def backward(ctx, d_c):
        f, z, start, c = ctx.saved_tensors
        d_c, d_f, d_z, d_start = d_c.contiguous(), torch.empty_like(f), torch.empty_like(f), torch.empty_like(start)
        if not cuda_kernels.launch("pooling", "pool_backward", start.numel(), f, z, start, c, d_c, d_f, d_z, d_start,
                                   len(f), start.numel()):
            whole = d_c.clone()                    # what reaches c_t, also by way of the states after it
            for t in reversed(range(len(f) - 1)):
                whole[t].addcmul_(f[t + 1], whole[t + 1])
            torch.mul(whole, 1 - f, out=d_z)
            torch.mul(whole, torch.cat([start[None], c[:-1]]) - z, out=d_f)
            torch.mul(whole[0], f[0], out=d_start)
        return d_f, d_z, d_start
