"""The quasi-recurrent layer (Bradbury et al. 2017, 1611.01576; in this model, Merity et al. 2018b).

All its matrix products are with the input, one for all time steps. What is left of the recurrence is a running mean:
forget gates say how much of it stays (the paper's "fo-pooling").

T window length, B batch size, I width of the input, H hidden units.
"""
import torch
from torch import nn

from cells.cell import Cell
from ops.pooling import pool


class QRNN(Cell):
    """A layer that sees `width` inputs at a time: the first layer of a model 2, the present one and the one before it.

    Its linear map has the weight (3H, width·I), for the candidates z, the forget gates f and the output gates o; with
    a width of 2 the columns for the present input come first. Weight drop is on all of that weight.
    """
    supports = frozenset({"wdrop", "bf16"})

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__(input_size, hidden_size, layer, settings)
        self.width = 1 if layer else 2
        self.linear = nn.Linear(self.width * input_size, 3 * hidden_size)

    def zero_state(self, bsz):
        """c (1, B, H), with a width of 2 the pair of that and of the input (1, B, I) before this window."""
        c = self.linear.weight.new_zeros(1, bsz, self.hidden_size)
        return c if self.width == 1 else (c, c.new_zeros(1, bsz, self.input_size))

    def forward(self, x, hidden):
        c, before = hidden if self.width == 2 else (hidden, None)
        inputs = x if before is None else torch.cat([x, torch.cat([before, x[:-1]])], dim=2)   # (T, B, width·I)
        gates = self.product(inputs, self.weight_dropped(self.linear.weight), self.linear.bias)
        z, f, o = gates.chunk(3, dim=2)                                                        # (T, B, H) each
        states = pool(f.sigmoid(), z.tanh(), c[0])
        last = states[-1:]
        return o.sigmoid() * states, last if before is None else (last, x[-1:])
