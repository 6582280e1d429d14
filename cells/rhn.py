"""The recurrent highway network (Zilly et al. 2017, 1607.03474): one time step is a highway network of several layers.

T window length, B batch size, I width of the input, H hidden units, D depth.
"""
import torch
from torch import nn

from cells.cell import Cell, by_steps, masked
from ops.highway import recur_highway
from ops.repeated import repeated
from ops.window import has_compiled_steps
from runtime.options import ARCHITECTURE, Flag
from runtime.values import few, real

INIT_RANGE = 0.04


class RHN(Cell):
    """State: s (1, B, H). At each depth s ← s + (h - s) · t (section 3, its carry gate being 1 - t).

    h = tanh(·) and t = sigmoid(·) of R_d s + b_d, at the first depth also of W x. Their rows stand in this order. State
    dropout has one mask for all steps and depths, the same for h and t; weight drop is on each R_d.
    """
    supports = frozenset({"wdrop", "dropoutr", "bf16"})
    flags = (Flag("rhn_depth", 10, "highway layers of a time step of an RHN", few, "N", kept=ARCHITECTURE),
             Flag("transform_bias", -2.0, "initial bias of an RHN's transform gates", real, "X", kept=ARCHITECTURE))

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__(input_size, hidden_size, layer, settings)
        depths = range(self.settings["rhn_depth"])
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))                               # (2H, I)
        self.weight_hh = nn.ParameterList(torch.empty(2 * hidden_size, hidden_size) for _ in depths)          # (2H, H)
        self.bias = nn.ParameterList(torch.empty(2 * hidden_size) for _ in depths)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT_RANGE, INIT_RANGE)
        for bias in self.bias:
            nn.init.constant_(bias[hidden_size:], self.settings["transform_bias"])

    def zero_state(self, bsz):
        return self.weight_ih.new_zeros(1, bsz, self.hidden_size)

    def forward(self, x, hidden):
        mask = self.state_mask(hidden[0])                                                      # (B, H), for all T and D
        weights = [self.weight_dropped(weight) for weight in self.weight_hh]
        if not has_compiled_steps(self.matmul_dtype or x.dtype, x):
            return self.step_by_step(x, hidden, weights, mask)
        return recur_highway(x, hidden, self.weight_ih, weights, self.bias, self.matmul_dtype, mask)

    def step_by_step(self, x, hidden, weights, mask):
        """The same in operators of torch, differentiated by autograd."""
        maps = [repeated(weight, x.size(1), bias, self.matmul_dtype) for weight, bias in zip(weights, self.bias)]
        output, (s,) = by_steps(lambda from_input, s: [self.step(from_input, s, maps, mask)],
                                self.product(x, self.weight_ih), [hidden])                     # from_input (B, 2H)
        return output, s                                                                       # (T, B, H), (1, B, H)

    def step(self, from_input, s, maps, mask=None):
        """W x (B, 2H), s (B, H), of each depth a function s -> R s + b -> new s."""
        for depth, linear in enumerate(maps):
            gates = linear(masked(s, mask))
            h, t = (gates if depth else gates + from_input).chunk(2, 1)                        # (B, H) each
            s = s.lerp(h.tanh(), t.sigmoid())
        return s
