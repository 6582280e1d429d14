"""What every recurrent cell is to the model: a layer with a zero state, which says what it supports."""
from torch import nn


class Cell(nn.Module):
    """One recurrent layer of a model. A new cell is a subclass and an entry of `cells.CELLS`.

    It owns its parameters and its dropouts. `supports`: which of the options "wdrop", "dropoutr" and "bf16" it honours;
    the others are refused by name where a user types them. `flags`: `runtime.options.Flag`s of its own, with
    `kept=ARCHITECTURE`. `can_be_graphed`: whether its forward and backward never wait for the device, so that they can
    be recorded as a CUDA graph.

    input_size: I, hidden_size: H, layer: its number, from 0. settings: the flags by name; those of its own that are not
    there have their defaults in `self.settings`.
    """
    supports, flags, can_be_graphed = frozenset(), (), True

    def __init__(self, input_size, hidden_size, layer=0, settings=()):
        super().__init__()
        self.settings = {**{flag.name: flag.default for flag in self.flags}, **dict(settings)}
        self.input_size, self.hidden_size = input_size, hidden_size
        self.wdrop, self.dropoutr = self.settings.get("wdrop", 0), self.settings.get("dropoutr", 0)
        self.matmul_dtype = None        # torch.bfloat16, or None for that of the weights

    def zero_state(self, bsz):
        """The state before a text: tensors (1, bsz, ·), in any nesting of tuples and lists."""
        raise NotImplementedError

    def forward(self, x, hidden):
        """x (T, B, I), a state -> output (T, B, H), the state after the window."""
        raise NotImplementedError
