"""What every recurrent cell is to the model: a layer with a zero state, which says what it supports."""
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.linear import linear
from runtime.options import Flag
from weight_drop import drop_weight

Settings = Mapping[str, Any] | Iterable[tuple[str, Any]]       # flags by name
Hidden = Any                                                   # tensors (1, B, ·), in any nesting of tuples and lists


class Cell(nn.Module):
    """One recurrent layer of a model. A new cell is a subclass and an entry of `cells.CELLS`.

    It owns its parameters and its dropouts. `supports`: which of the options "wdrop", "dropoutr", "untied_masks" and
    "bf16" it honours; the others are refused by name where a user types them. `flags`: `runtime.options.Flag`s of its
    own, with `kept=ARCHITECTURE`. `can_be_graphed`: whether its forward and backward never wait for the device, so that
    they can be recorded as a CUDA graph.

    input_size: I, hidden_size: H, layer: its number, from 0. settings: the flags by name; those of its own that are not
    there have their defaults in `self.settings`.
    """
    supports: frozenset[str] = frozenset()
    flags: tuple[Flag, ...] = ()
    can_be_graphed: bool = True

    def __init__(self, input_size: int, hidden_size: int, layer: int = 0, settings: Settings = ()) -> None:
        super().__init__()
        self.settings = {**{flag.name: flag.default for flag in self.flags}, **dict(settings)}
        self.input_size, self.hidden_size = input_size, hidden_size
        self.wdrop, self.dropoutr = self.settings.get("wdrop", 0), self.settings.get("dropoutr", 0)
        self.matmul_dtype: torch.dtype | None = None        # torch.bfloat16, or None for that of the weights

    def zero_state(self, bsz: int) -> Hidden:
        """The state before a text: tensors (1, bsz, ·), in any nesting of tuples and lists."""
        raise NotImplementedError

    def forward(self, x: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """x (T, B, I), a state -> output (T, B, H), the state after the window."""
        raise NotImplementedError

    # ---- for the forward pass of a cell that supports them

    def weight_dropped(self, weight: Tensor) -> Tensor:
        """`wdrop`: a hidden-to-hidden weight as this window multiplies by it (Merity et al. 2018, section 2)."""
        return drop_weight(weight, self.wdrop) if self.training and self.wdrop else weight

    def state_mask(self, state: Tensor) -> Tensor | None:
        """`dropoutr`: what a state (B, H) is multiplied by at every step of this window, or None (Gal & Ghahramani)."""
        return F.dropout(state.new_ones(state.shape), self.dropoutr) if self.training and self.dropoutr else None

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`F.linear` in the matmul dtype: x (…, I), weight (O, I) -> (…, O) as `x` is."""
        return linear(x, weight, bias, self.matmul_dtype)


def by_steps(step: Callable[..., Sequence[Tensor]], inputs: Iterable[Tensor],
             state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer in operators of torch, differentiated by autograd -> output (T, B, H), the state after it.

    step: an input of `inputs` and the parts of a state (B, ·) -> the parts after it, the first of which is the output.
    state: parts (1, B, ·).
    """
    outputs, state = [], [part[0] for part in state]
    for each in inputs:
        state = step(each, *state)
        outputs.append(state[0])
    return torch.stack(outputs), tuple(part[None] for part in state)


def masked(state: Tensor, mask: Tensor | None) -> Tensor:
    """state (B, H), mask as of `state_mask` -> (B, H)."""
    return state if mask is None else state * mask
