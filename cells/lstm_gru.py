"""LSTM and GRU with the options of the paper: weight drop on the hidden-to-hidden matrix, and dropout on the state.

T window length, B batch size, I width of the input, H hidden units, G gates (4 in an LSTM, 3 in a GRU).
"""
import torch
from torch import nn
from torch.nn import functional as F

from cells.cell import Cell
from ops.cudnn import recur_by_torch, recur_flat
from ops.recurrence import pays, recur
from weight_drop import drop_weight


class Gated(Cell):
    """What LSTM and GRU have in common. Parameters are named, shaped and initialised as those of torch's modules."""
    supports = frozenset({"wdrop", "dropoutr", "bf16"})
    kind, gates = None, None

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__(input_size, hidden_size, layer, settings)
        self.weight_ih_l0 = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))    # (G·H, I)
        self.weight_hh_l0 = nn.Parameter(torch.empty(self.gates * hidden_size, hidden_size))   # (G·H, H)
        self.bias_ih_l0 = nn.Parameter(torch.empty(self.gates * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(self.gates * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -hidden_size**-0.5, hidden_size**-0.5)

    def forward(self, x, hidden):
        """DropConnect (section 2): one mask on the hidden-to-hidden matrix for all time steps of the window."""
        weight_hh = self.weight_hh_l0
        if self.training and self.wdrop:
            weight_hh = drop_weight(weight_hh, self.wdrop)
        weights = self.weight_ih_l0, weight_hh, self.bias_ih_l0, self.bias_hh_l0
        if self.training and self.dropoutr:
            mask = F.dropout(x.new_ones(x.size(1), self.hidden_size), self.dropoutr)           # (B, H), for all T
            return recur(self.kind, x, hidden, *weights, self.matmul_dtype, mask)
        if x.is_cuda:
            return recur_flat(self.kind, x, hidden, *weights, self.matmul_dtype)
        if self.matmul_dtype or pays(x, weight_hh):
            return recur(self.kind, x, hidden, *weights, self.matmul_dtype)
        return recur_by_torch(self.kind, x, hidden, weights)

    def zero_state(self, bsz):
        return self.weight_hh_l0.new_zeros(1, bsz, self.hidden_size)


class LSTM(Gated):
    """State: h and c, both (1, B, H)."""
    kind, gates = "LSTM", 4

    def zero_state(self, bsz):
        h = super().zero_state(bsz)
        return h, h.clone()


class GRU(Gated):
    """State: h (1, B, H)."""
    kind, gates = "GRU", 3
