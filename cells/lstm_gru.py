"""LSTM and GRU with the options of the paper: weight drop on the hidden-to-hidden matrix, and dropout on the state.

With `untied_masks` each gate has masks of its own on input and state, for all time steps of a window (Gal & Ghahramani
2016, section 4: the weights of the gates are untied).

T window length, B batch size, I width of the input, H hidden units, G gates (4 in an LSTM, 3 in a GRU).
"""
import torch
from torch import nn
from torch.nn import functional as F

from cells.cell import Cell, by_steps, masked
from ops.cudnn import KERNELS, recur_by_torch, recur_flat
from ops.recurrence import pays, recur
from ops.repeated import repeated
from ops.window import has_compiled_steps
from runtime.errors import InputError
from runtime.options import ARCHITECTURE, Flag
from runtime.values import real


class Gated(Cell):
    """What LSTM and GRU have in common. Parameters are named, shaped and initialised as those of torch's modules."""
    supports = frozenset({"wdrop", "dropoutr", "untied_masks", "bf16"})
    kind, gates = None, None

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__(input_size, hidden_size, layer, settings)
        self.untied_masks = self.settings.get("untied_masks", False)
        self.dropouti = self.settings.get("dropouti", 0) if self.untied_masks else 0       # else the model drops it
        self.weight_ih_l0 = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))    # (G·H, I)
        self.weight_hh_l0 = nn.Parameter(torch.empty(self.gates * hidden_size, hidden_size))   # (G·H, H)
        self.bias_ih_l0 = nn.Parameter(torch.empty(self.gates * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(self.gates * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -hidden_size**-0.5, hidden_size**-0.5)

    def forward(self, x, hidden):
        """DropConnect (section 2): one mask on the hidden-to-hidden matrix for all time steps of the window."""
        weight_hh = self.weight_dropped(self.weight_hh_l0)
        weights = self.weight_ih_l0, weight_hh, self.bias_ih_l0, self.bias_hh_l0
        state = hidden if isinstance(hidden, tuple) else (hidden,)
        mask, input_masks = self.state_mask(state[0][0]), self.input_masks(x)                  # for all T
        if self.kind in KERNELS and mask is None and input_masks is None:
            if x.is_cuda:
                return recur_flat(self.kind, x, hidden, *weights, self.matmul_dtype)
            if not self.matmul_dtype and not pays(self.kind, x, weight_hh):
                return recur_by_torch(self.kind, x, hidden, weights)
        if not has_compiled_steps(self.matmul_dtype or x.dtype, x):
            return self.step_by_step(x, state, weight_hh, mask, input_masks)
        if input_masks is not None:
            x, weights = self.masked_products(x, input_masks), (None, *weights[1:])
        return recur(self.kind, x, hidden, *weights, self.matmul_dtype, mask)

    def step_by_step(self, x, state, weight_hh, mask, input_masks=None):
        """The same in operators of torch, differentiated by autograd."""
        bias, masks_of_gates = self.bias_hh_l0, mask is not None and mask.dim() == 3
        if masks_of_gates:
            weight_hh = weight_hh.unflatten(0, (self.gates, -1))                               # (G, H, H)
            bias = bias.unflatten(0, (self.gates, 1, -1))                                      # (G, 1, H)
        product = repeated(weight_hh, x.size(1), bias, self.matmul_dtype)

        def step(x_gates, h, *c):                                                              # (B, G·H), (B, H) each
            h_gates = product(masked(h, mask))
            return self.step(x_gates, h_gates.transpose(0, 1).flatten(1) if masks_of_gates else h_gates, h, *c)
        x_gates = (self.product(x, self.weight_ih_l0) if input_masks is None else
                   self.masked_products(x, input_masks)) + self.bias_ih_l0
        output, after = by_steps(step, x_gates, state)                                         # (T, B, H), (1, B, H)
        return output, after if len(after) > 1 else after[0]

    def state_mask(self, state):
        """As of every cell, (B, H); with `untied_masks` one for each gate (G, B, H)."""
        return super().state_mask(state.expand(self.gates, *state.shape) if self.untied_masks else state)

    def input_masks(self, x):
        """With `untied_masks` what each gate multiplies the input (T, B, I) by at every step (G, B, I), or None."""
        if not self.training or not self.dropouti:
            return None
        return F.dropout(x.new_ones(self.gates, *x.shape[1:]), self.dropouti)

    def masked_products(self, x, masks):
        """The products of input and weight, where each gate has its own of the masks (G, B, I) -> (T, B, G·H)."""
        weights = self.weight_ih_l0.chunk(self.gates)                                          # (H, I) each
        return torch.cat([self.product(x * mask, weight) for mask, weight in zip(masks, weights)], 2)

    def zero_state(self, bsz):
        return self.weight_hh_l0.new_zeros(1, bsz, self.hidden_size)


# How the input gate i depends on the forget gate f (Melis et al. 2018, 1707.05589): not at all, at most 1 - f, or equal
# to that. With the last two, cells stay in [-1, 1].
GATES = ("plain", "capped", "coupled")


class LSTM(Gated):
    """State: h and c, both (1, B, H). c ← f · c + i · g, h ← o · tanh(c).

    The gates are i, f, g, o, in this order; with --gate coupled, f, g, o. All but the plain one have one bias,
    `bias_ih_l0`, as those published.
    """
    flags = (Flag("gate", "plain", "an LSTM's input gate: plain, its own; capped, that but at most 1 minus the forget "
                  "gate; or coupled, 1 minus the forget gate", choices=GATES, kept=ARCHITECTURE),
             Flag("forget_bias", None, "initial bias of an LSTM's forget gates; if not given small and random, as all "
                  "its weights", real, "X", kept=ARCHITECTURE),
             Flag("weight_init", "uniform", "initial weights of an LSTM: uniform numbers up to 1 / sqrt(nhid), as "
                  "torch has them; or fan-in, normal ones of standard deviation 1 / sqrt(inputs), also of a mixture of "
                  "softmaxes, biases 0 and a linear map to the decoder orthogonal (Melis et al.)",
                  choices=("uniform", "fan-in"), kept=ARCHITECTURE))

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__(input_size, hidden_size, layer, settings)
        if self.settings["gate"] != "plain":
            if self.untied_masks:
                raise InputError("--untied-masks is for LSTMs with --gate plain; leave one of the two out")
            self.bias_hh_l0 = None
        if self.settings["weight_init"] == "fan-in":
            for name, parameter in self.named_parameters():
                nn.init.zeros_(parameter) if "bias" in name else nn.init.normal_(parameter, std=parameter.size(1)**-0.5)
        if self.settings["forget_bias"] is not None:
            for bias, value in (self.bias_ih_l0, self.settings["forget_bias"]), (self.bias_hh_l0, 0):
                if bias is not None:
                    nn.init.constant_(bias.chunk(self.gates)[self.gates - 3], value)

    @property
    def kind(self):
        return "LSTM" if self.settings["gate"] == "plain" else f"{self.settings['gate']} LSTM"

    @property
    def gates(self):
        return 3 if self.settings["gate"] == "coupled" else 4

    def zero_state(self, bsz):
        h = super().zero_state(bsz)
        return h, h.clone()

    def step(self, x_gates, h_gates, h, c):
        """Products (B, G·H), with biases; h, c (B, H) -> new h and c."""
        *i, f, g, o = (x_gates + h_gates).chunk(self.gates, 1)
        f = f.sigmoid()
        i = i[0].sigmoid() if i else 1 - f
        if self.settings["gate"] == "capped":
            i = (1 - f).minimum(i)
        c = f * c + i * g.tanh()
        return o.sigmoid() * c.tanh(), c


class GRU(Gated):
    """State: h (1, B, H)."""
    kind, gates = "GRU", 3

    def step(self, x_gates, h_gates, h):
        """Products (B, 3H), with biases; h (B, H) -> new h."""
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x_gates.chunk(3, 1), h_gates.chunk(3, 1)
        r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
        return (x_n + r * h_n).tanh().lerp(h, z),
