"""DropConnect on the weights of any module (Merity et al. 2018, section 2).

The weights are dropped functionally: a forward pass runs with masked copies in place of the raw weights, and the
module itself is never changed. Its parameters, their names and its state dict stay what they were without dropout.
"""
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class WeightDrop(nn.Module):
    """Run `module` with the weights named in `weights` dropped, anew in every forward pass of training.

    weights: names as in `module.named_parameters()`, e.g. `["weight_hh_l0"]` of an `nn.LSTM`.
    dropout: probability in [0, 1) that an element is zero; the others are scaled by 1 / (1 - dropout).
    variational: drop whole rows (one output unit's weights) instead of single elements.

    The mask is one per forward pass: a recurrent module sees the same dropped weight at every time step. The
    gradient reaches the raw weight. In evaluation nothing is dropped. Raises AttributeError for a name that is not
    a parameter of `module`, ValueError for a dropout outside [0, 1).
    """

    def __init__(self, module: nn.Module, weights: Sequence[str], dropout: float = 0,
                 variational: bool = False) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"weight dropout must be in [0, 1), not {dropout}")
        for name in weights:
            module.get_parameter(name)
        self.module = module
        self.weights = list(weights)
        self.dropout = dropout
        self.variational = variational

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training or self.dropout == 0:
            return self.module(*args, **kwargs)
        dropped = {name: drop_weight(self.module.get_parameter(name), self.dropout, self.variational)
                   for name in self.weights}
        return call_with_weights(self.module, dropped, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What the wrapper does not have is the wrapped module's: `hidden_size`, `flatten_parameters` and the like."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":       # not there yet
                raise
            return getattr(self.module, name)

    def extra_repr(self) -> str:
        return f"weights={self.weights}, dropout={self.dropout}, variational={self.variational}"


def drop_weight(weight: Tensor, dropout: float, variational: bool = False) -> Tensor:
    """A copy of `weight` with elements (or rows, if variational) dropped and the rest scaled by 1 / (1 - dropout)."""
    if variational:
        rows = weight.new_ones(weight.size(0), *[1] * (weight.dim() - 1))  # (rows, 1, …)
        return weight * F.dropout(rows, dropout)
    if weight.is_cpu:
        return weight * _mask_from_bits(weight, dropout)
    return F.dropout(weight, dropout)


def _mask_from_bits(weight: Tensor, dropout: float) -> Tensor:
    """A dropout mask like `weight`, drawn on the CPU at 8 or 16 random bits an element instead of one float.

    torch draws floats one after another, which for the paper's 4600 x 1150 matrices costs more than their matrix
    products. Eight elements share a 64-bit draw where bytes can say the probability, four where they cannot: it is
    then met to within 2^-17.
    """
    bits, kind = (8, torch.int8) if (dropout * 2**8).is_integer() else (16, torch.int16)
    draws = torch.empty(-(-weight.numel() * bits // 64), dtype=torch.int64).random_(-2**63, None)
    numbers = draws.view(kind)[:weight.numel()].view(weight.shape)        # uniform in [-2^(bits-1), 2^(bits-1))
    least = min(round(dropout * 2**bits), 2**bits - 1) - 2**(bits - 1)
    return torch.ge(numbers, least, out=torch.empty_like(weight, requires_grad=False)).mul_(1 / (1 - dropout))


def call_with_weights(module: nn.Module, weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """`module(*args, **kwargs)` computed with the tensors in `weights` (by name) in place of its parameters."""
    plain: dict[str, Tensor] = {}
    recurrent: dict[nn.RNNBase, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        owner_name, _, own_name = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        if isinstance(owner, nn.RNNBase):
            recurrent.setdefault(owner, {})[own_name] = weight
        else:
            plain[name] = weight
    with ExitStack() as stack:
        for rnn, replaced in recurrent.items():
            stack.enter_context(_flat_weights(rnn, replaced))
        return functional_call(module, plain, args, kwargs)


@contextmanager
def _flat_weights(rnn: Any, replaced: Mapping[str, Tensor]) -> Iterator[None]:
    """`rnn` computes with `replaced` inside the block.

    torch's recurrent modules read their weights from a list, not from their attributes. `functional_call` would
    have them rebuild that list and leave the dropped weights, with the whole graph behind them, in it.
    """
    original = rnn._flat_weights
    names = rnn._flat_weights_names
    weights = [replaced.get(name, weight) for name, weight in zip(names, original)]
    rnn._flat_weights = _contiguous_chunk(weights) if weights[0].is_cuda else weights
    try:
        yield
    finally:
        rnn._flat_weights = original


def _contiguous_chunk(weights: Sequence[Tensor]) -> list[Tensor]:
    """The same weights as views of one buffer, matrices before biases: cuDNN's order, so it need not copy them."""
    order = sorted(range(len(weights)), key=lambda i: weights[i].dim() == 1)
    buffer = torch.cat([weights[i].reshape(-1) for i in order])
    views = dict(zip(order, buffer.split([weights[i].numel() for i in order])))
    return [views[i].view_as(weights[i]) for i in range(len(weights))]
