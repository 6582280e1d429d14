"""LSTMs with capped and coupled gates against a naive loop in float64; the bias of the forget gates."""
import pytest
import torch
from conftest import take_form
from naive import Recorded, check_bfloat16, check_masks, check_two_windows, compare

from cells import LSTM
from model import RNNModel, count_parameters
from utils import flat_hidden

T, B, E, H = 5, 3, 4, 6        # E: width of the input
GATES = ["capped", "coupled"]


def cell(gate, pre, c):
    """One step of Melis et al.'s cells, for one column: pre (G·H,), c (H,) -> h, c."""
    f, g, o = (pre[k * H:(k + 1) * H] for k in ((0, 1, 2) if gate == "coupled" else (1, 2, 3)))
    f, own = f.sigmoid(), pre[:H].sigmoid()
    i = {"plain": own, "coupled": 1 - f, "capped": torch.where(own < 1 - f, own, 1 - f)}[gate]
    c = f * c + i * g.tanh()
    return o.sigmoid() * c.tanh(), c


def naive(layer, x, hidden, mask, factors):
    outputs, ends = torch.empty(T, B, H, dtype=x.dtype), [torch.empty_like(state) for state in hidden]
    for b in range(B):
        h, c = hidden[0][0, b], hidden[1][0, b]
        for t in range(T):
            pre = layer.weight_ih_l0 @ x[t, b] + layer.bias_ih_l0
            pre = pre + (layer.weight_hh_l0 * factors[0]) @ (h * mask[b])
            h, c = outputs[t, b], _ = cell(layer.settings["gate"], pre, c)
        ends[0][0, b], ends[1][0, b] = h, c
    return outputs, tuple(ends)


def make(gate, dropoutr=0, wdrop=0):
    return LSTM(E, H, settings={"gate": gate, "dropoutr": dropoutr, "wdrop": wdrop}).double()


def given():
    torch.manual_seed(0)
    return torch.randn(T, B, E).double(), tuple(torch.randn(1, B, H).double() for _ in range(2))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dropouts", [(0, 0), (0.5, 0.4)])
def test_the_layer_equals_a_naive_loop(gate, dropouts):
    compare(make(gate, *dropouts), naive, *given())


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dropouts", [(0, 0), (0.5, 0.4)])
def test_the_steps_of_a_gpu_equal_a_naive_loop(gate, dropouts):
    layer = make(gate, *dropouts)
    layer.forward = lambda x, hidden: layer.step_by_step(x, hidden, layer.weight_dropped(layer.weight_hh_l0),
                                                         layer.state_mask(hidden[0][0]))
    compare(layer, naive, *given())


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 3e-6), (torch.bfloat16, 2e-2)])
def test_single_and_reduced_precision_are_near_float64(gate, in_torch, dtype, tolerance, monkeypatch):
    """Outputs, final state and all gradients, of the compiled steps and of those in torch, with both dropouts."""
    take_form(in_torch, "cells", monkeypatch)
    torch.manual_seed(0)
    layer, x = LSTM(30, 50, settings={"gate": gate, "dropoutr": 0.5, "wdrop": 0.4}), torch.randn(7, 4, 30)
    layer.matmul_dtype = dtype
    hidden = tuple(torch.randn(1, 4, 50) for _ in range(2))
    drew, results = Recorded(layer), []
    output, end = layer(*inputs(x, hidden, layer))
    results.append(outputs_and_gradients(output, end, layer))
    exact = LSTM(30, 50, settings=layer.settings).double()
    exact.load_state_dict(layer.state_dict())
    exact.state_mask, exact.weight_dropped = lambda _: drew.masks[0].double(), lambda w: w * drew.factors[0].double()
    output, end = exact.step_by_step(*inputs(x.double(), tuple(h.double() for h in hidden), exact),
                                     exact.weight_dropped(exact.weight_hh_l0), exact.state_mask(None))
    results.append(outputs_and_gradients(output, end, exact))
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() < tolerance * b.norm()


def inputs(x, hidden, layer):
    layer.leaves = [leaf.detach().clone().requires_grad_() for leaf in (x, *hidden)]
    return layer.leaves[0], tuple(layer.leaves[1:])


def outputs_and_gradients(output, end, layer):
    total = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
    total = total + sum(state.pow(2).sum() for state in flat_hidden(end))
    return [output, *flat_hidden(end), *torch.autograd.grad(total, [*layer.leaves, *layer.parameters()])]


def test_both_sides_of_the_cap_are_met():
    """Or the comparison above would say nothing of one of them."""
    layer, (x, hidden) = make("capped"), given()
    i, f, _, _ = (x[0] @ layer.weight_ih_l0.t() + hidden[0][0] @ layer.weight_hh_l0.t() + layer.bias_ih_l0).chunk(4, 1)
    assert {True, False} == {*(i.sigmoid() < 1 - f.sigmoid()).flatten().tolist()}


@pytest.mark.parametrize("gate", GATES)
def test_masks_and_two_windows(gate):
    check_masks(lambda *dropouts: make(gate, *dropouts), *given())
    check_two_windows(make(gate), *given())


@pytest.mark.parametrize("gate", GATES)
def test_bfloat16_is_near(gate):
    torch.manual_seed(0)
    check_bfloat16(LSTM(30, 50, settings={"gate": gate}), torch.randn(7, 4, 30),
                   tuple(torch.randn(1, 4, 50) for _ in range(2)))


@pytest.mark.parametrize("gate", ["plain", *GATES])
def test_the_bias_of_the_forget_gates(gate):
    torch.manual_seed(0)
    layer = LSTM(8, 9, settings={"gate": gate, "forget_bias": 1.5})
    torch.manual_seed(0)
    unset = LSTM(8, 9, settings={"gate": gate})
    bias, before = (sum(b for b in (each.bias_ih_l0, each.bias_hh_l0) if b is not None) for each in (layer, unset))
    forget = slice(0, 9) if gate == "coupled" else slice(9, 18)
    assert bool((bias[forget] == 1.5).all())
    changed = bias != before
    assert int(changed.sum()) == 9 and bool(changed[forget].all())
    assert torch.equal(layer.weight_hh_l0, unset.weight_hh_l0)


def test_the_plain_gate_is_torchs_lstm():
    torch.manual_seed(0)
    ours = LSTM(8, 9, settings={"gate": "plain"})
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(8, 9)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(5, 3, 8)
    assert torch.equal(ours(x, ours.zero_state(3))[0], theirs(x)[0])


@pytest.mark.parametrize(("words", "emsize", "nhid", "nlayers"), [(10_000, 723, 723, 4), (33_278, 149, 1227, 2)])
def test_the_published_number_of_parameters(words, emsize, nhid, nlayers):
    """23.98 million on Penn Treebank and on WikiText-2."""
    with torch.device("meta"):
        model = RNNModel("LSTM", words, emsize, nhid, nlayers, skip_output=True, gate="capped")
    inputs = [emsize] + [nhid] * (nlayers - 1)
    projection = 0 if emsize == nhid else emsize * nhid
    found = count_parameters(model)
    assert found == words * (emsize + 1) + projection + sum(4 * nhid * (n + nhid + 1) for n in inputs)
    assert round(found, -4) == 23_980_000
