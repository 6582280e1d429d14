"""The Mogrifier LSTM (Melis et al. 2020, 1909.01792): input and state scale each other before each step of an LSTM.

T window length, B batch size, I width of the input, H hidden units, G gates.
"""
from torch import nn

from cells.cell import by_steps, masked
from cells.lstm_gru import LSTM
from ops.mogrifier import recur_mogrifier
from ops.repeated import repeated
from ops.window import has_compiled_steps
from runtime.options import ARCHITECTURE, Flag
from runtime.values import few, number


def rank(text):
    return number(text, int, lambda n: 0 <= n <= 10**6, "a whole number from 0 to 1,000,000")


class Mogrifier(LSTM):
    """State: h and c, both (1, B, H). The options of an LSTM hold; it has one bias whatever --gate is.

    Round by round x ← 2σ(Q h) · x, h ← 2σ(R x) · h, x ← …, each with weights of its own (equations 1 and 2, in the
    published code with biases, as here). With a rank k each weight is the product of two, to a width of k and from it.
    State dropout comes first; weight drop is on the LSTM's hidden-to-hidden matrix.
    """
    supports = LSTM.supports - {"untied_masks"}
    flags = (*LSTM.flags,
             Flag("mogrifier_rounds", 5, "rounds before each step of a Mogrifier", few, "N", kept=ARCHITECTURE),
             Flag("mogrifier_rank", 0, "rank of their matrices; 0: not factorised", rank, "N", kept=ARCHITECTURE))

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__(input_size, hidden_size, layer, settings)
        self.bias_hh_l0 = None
        widths, k = (input_size, hidden_size), self.settings["mogrifier_rank"]
        self.rounds = nn.ModuleList()
        for turn in range(self.settings["mogrifier_rounds"]):
            to, of = widths if turn % 2 == 0 else widths[::-1]
            factors = [nn.Linear(of, k, bias=False)] if k else []
            self.rounds.append(nn.ModuleList([*factors, nn.Linear(k or of, to)]))
            nn.init.zeros_(self.rounds[-1][-1].bias)
            if self.settings["weight_init"] == "fan-in":                # cut off at two standard deviations
                for factor in self.rounds[-1]:
                    std = factor.in_features**-0.5
                    nn.init.trunc_normal_(factor.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x, hidden):
        weight_hh, mask = self.weight_dropped(self.weight_hh_l0), self.state_mask(hidden[0][0])        # mask: for all T
        if not has_compiled_steps(self.matmul_dtype or x.dtype, x):
            return self.step_by_step(x, hidden, weight_hh, mask)
        rounds = [(*(factor.weight for factor in factors), factors[-1].bias) for factors in self.rounds]
        return recur_mogrifier(self.kind, x, hidden, self.weight_ih_l0, weight_hh, self.bias_ih_l0, rounds,
                               self.matmul_dtype, mask)

    def step_by_step(self, x, hidden, weight_hh, mask):
        """The same in operators of torch, differentiated by autograd."""
        def product(weight, bias=None):
            return repeated(weight, x.size(1), bias, self.matmul_dtype)
        x_gates, h_gates = product(self.weight_ih_l0, self.bias_ih_l0), product(weight_hh)
        rounds = [[product(factor.weight, factor.bias) for factor in factors] for factors in self.rounds]

        def step(x, h, c):                                                                     # (B, I), (B, H) each
            x, scaled = self.scaled(x, masked(h, mask), rounds)
            return self.step(x_gates(x), h_gates(scaled), h, c)
        return by_steps(step, x, hidden)                                                       # (T, B, H), (1, B, H)

    @staticmethod
    def scaled(x, h, rounds):
        """x (B, I), h (B, H), the maps of each round, one after another -> x and h after all rounds."""
        scaled = [x, h]
        for turn, maps in enumerate(rounds):
            gate = scaled[1 - turn % 2]
            for product in maps:
                gate = product(gate)
            scaled[turn % 2] = 2 * gate.sigmoid() * scaled[turn % 2]
        return scaled
