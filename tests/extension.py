"""A cell, a softmax and an optimizer added from outside: the examples of docs/extending.md."""
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# cell
import torch
from torch import nn

from cells import CELLS, Cell
from runtime.options import ARCHITECTURE, Flag
from runtime.values import probability
from weight_drop import drop_weight


class Leaky(Cell):
    """h_t = leak · h_{t-1} + (1 - leak) · tanh(W x_t + U h_{t-1} + b), with weight drop on U."""
    supports = frozenset({"wdrop"})
    flags = (Flag("leak", 0.5, "share of the state that stays", probability, "P", kept=ARCHITECTURE),)

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__(input_size, hidden_size, layer, settings)
        self.input = nn.Linear(input_size, hidden_size)
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size).uniform_(-0.1, 0.1))

    def zero_state(self, bsz):
        return self.weight_hh.new_zeros(1, bsz, self.hidden_size)

    def forward(self, x, hidden):
        weight = drop_weight(self.weight_hh, self.wdrop) if self.training and self.wdrop else self.weight_hh
        h, outputs, leak = hidden[0], [], self.settings["leak"]
        for step in self.input(x):                                                     # (B, H)
            h = leak * h + (1 - leak) * torch.tanh(step + h @ weight.t())
            outputs.append(h)
        return torch.stack(outputs), h[None]                                           # (T, B, H), (1, B, H)


CELLS["Leaky"] = Leaky
# softmax
from torch.nn import functional as F

from runtime.options import MODEL
from softmaxes import SOFTMAXES, Softmax


class Projected(Softmax):
    """The full softmax over tanh(P h), with dropout on that."""
    flags = (Flag("dropoutl", 0.3, "dropout on the softmax's input", probability, "P", kept=MODEL),)

    def __init__(self, width, settings=()):
        super().__init__(width, settings)
        self.project = nn.Linear(width, width)

    def logprob(self, weight, bias, features):
        latent = F.dropout(self.project(features).tanh(), self.settings["dropoutl"], self.training)    # (N, E)
        return F.log_softmax(F.linear(latent, weight, bias), dim=1)                                    # (N, V)


SOFTMAXES["projected"] = Projected
# optimizer
from training.optimizers import OPTIMIZERS, Entry


def adafactor(parameters, settings):
    return torch.optim.Adafactor(parameters, lr=settings["lr"], weight_decay=settings["wdecay"])


OPTIMIZERS["adafactor"] = Entry(adafactor, lr=0.01)
# end

if __name__ == "__main__":        # extension.py main.py FLAGS...: a script of the project with these entries
    sys.argv = sys.argv[1:]
    import_module("runtime.errors").run(import_module(sys.argv[0].removesuffix(".py")).main)
