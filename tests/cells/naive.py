"""A cell against a loop written from its equations, for one column and one step at a time, in float64."""
import copy

import torch
from conftest import take_form

from utils import flat_hidden


class Recorded:
    """What the dropouts of a cell drew: state masks (B, H), and the factors on its hidden-to-hidden weights."""

    def __init__(self, layer):
        self.masks, self.factors = [], []
        state_mask, weight_dropped = layer.state_mask, layer.weight_dropped

        def mask_of(state):
            self.masks.append(state_mask(state))
            return self.masks[-1]

        def dropped(weight):
            self.factors.append((weight_dropped(weight) / weight).detach())
            return weight * self.factors[-1]
        layer.state_mask, layer.weight_dropped = mask_of, dropped


def compare(layer, naive, x, hidden):
    """Outputs, final state and all gradients of `layer` and `naive(layer, x, hidden, masks, factors)` are the same.

    naive's masks (B, H) are ones where the cell drops no state. -> what the cell's dropouts drew.
    """
    drew, results = Recorded(layer), []
    leaves = [leaf.requires_grad_() for leaf in (x, *flat_hidden(hidden))]

    def by_hand(x, hidden):
        mask = drew.masks[0] if drew.masks[0] is not None else torch.ones(x.size(1), layer.hidden_size, dtype=x.dtype)
        return naive(layer, x, hidden, mask, drew.factors)
    for function in (layer, by_hand):
        output, end = function(x, hidden)
        total = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
        total = total + sum(state.pow(2).sum() for state in flat_hidden(end))
        results.append([output, *flat_hidden(end), *torch.autograd.grad(total, [*leaves, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    return drew


def check_masks(make, x, hidden):
    """One mask of the state for a window, one for each matrix, drawn anew for the next; in evaluation none.

    make: (dropoutr, wdrop) -> a cell.
    """
    layer = make(0.5, 0.5)
    one, other = Recorded(layer), None
    layer(x, hidden)
    assert len(one.masks) == 1 and set(one.masks[0].unique().tolist()) == {0, 2}
    assert all(set(factors.unique().tolist()) == {0, 2} for factors in one.factors) and one.factors
    other, one.masks, one.factors = (one.masks[0], one.factors[0]), [], []
    layer(x, hidden)
    assert not torch.equal(one.masks[0], other[0]) and not torch.equal(one.factors[0], other[1])
    layer.eval()
    one.masks.clear()
    outputs = [layer(x, hidden)[0] for _ in range(2)]
    assert one.masks == [None, None] and torch.equal(*outputs) and bool((one.factors[-1] == 1).all())


def check_two_windows(layer, x, hidden):
    """The state carried over two windows gives what one window gives."""
    whole, end = layer(x, hidden)
    first, hidden = layer(x[:2], hidden)
    second, hidden = layer(x[2:], hidden)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    for a, b in zip(flat_hidden(hidden), flat_hidden(end), strict=True):
        assert a.shape[:2] == (1, x.size(1))
        torch.testing.assert_close(a, b)


def check_bfloat16(layer, x, hidden):
    """In bfloat16 outputs are near, and as x is."""
    exact = layer(x, hidden)[0]
    layer.matmul_dtype = torch.bfloat16
    near = layer(x, hidden)[0]
    assert near.dtype == torch.float32 and 0 < (near - exact).norm() < 2e-2 * exact.norm()


def check_near_float64(layer, exact_forward, x, hidden, in_torch, monkeypatch):
    """Outputs, final state and all gradients of `layer`, with its dropouts on, in compiled steps or those in torch.

    exact_forward: (layer in float64, x, hidden) -> the same in operators that autograd differentiates.
    """
    take_form(in_torch, "cells", monkeypatch)
    exact, drew, results = copy.deepcopy(layer).double(), Recorded(layer), []
    exact.matmul_dtype = None
    factors = iter(drew.factors)
    exact.state_mask, exact.weight_dropped = lambda _: drew.masks[0].double(), lambda w: w * next(factors).double()
    for each, forward in (layer, layer), (exact, lambda *given: exact_forward(exact, *given)):
        dtype = next(each.parameters()).dtype
        leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in (x, *flat_hidden(hidden))]
        output, end = forward(leaves[0], leaves[1] if len(leaves) == 2 else tuple(leaves[1:]))
        total = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
        total = total + sum(state.pow(2).sum() for state in flat_hidden(end))
        results.append([output, *flat_hidden(end), *torch.autograd.grad(total, [*leaves, *each.parameters()])])
    tolerance = 2e-2 if layer.matmul_dtype else 5e-6
    for a, b in zip(*results, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < tolerance * b.norm()
