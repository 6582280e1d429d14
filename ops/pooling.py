"""The QRNN's recurrence, a running mean under forget gates ("fo-pooling", Bradbury et al. 2017, section 2.1).

T window length, B batch size, H hidden units.
"""
import torch
from torch.autograd.function import once_differentiable

from ops import compiled


def pool(f, z, start):
    """c_t = f_t · c_{t-1} + (1 - f_t) · z_t (T, B, H), from forget gates f, candidates z (T, B, H) and c_0 (B, H)."""
    return _Pool.apply(f.contiguous(), z.contiguous(), start.contiguous())


class _Pool(torch.autograd.Function):

    @staticmethod
    def forward(ctx, f, z, start):
        c = torch.empty_like(f)
        if not compiled.launch("pooling", "pool_forward", start.numel(), f, z, start, c, len(f), start.numel()):
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
        if not compiled.launch("pooling", "pool_backward", start.numel(), f, z, start, c, d_c, d_f, d_z, d_start,
                                   len(f), start.numel()):
            whole = d_c.clone()                    # what reaches c_t, also by way of the states after it
            for t in reversed(range(len(f) - 1)):
                whole[t].addcmul_(f[t + 1], whole[t + 1])
            torch.mul(whole, 1 - f, out=d_z)
            torch.mul(whole, torch.cat([start[None], c[:-1]]) - z, out=d_f)
            torch.mul(whole[0], f[0], out=d_start)
        return d_f, d_z, d_start
