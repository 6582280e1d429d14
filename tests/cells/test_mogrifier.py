"""The Mogrifier LSTM against a naive loop in float64."""
import pytest
import torch
from naive import check_bfloat16, check_masks, check_near_float64, check_two_windows, compare
from test_gates import cell

from cells import Mogrifier
from model import RNNModel, count_parameters
from utils import flat_hidden

T, B, E, H = 5, 3, 4, 6        # E: width of the input


def naive(layer, x, hidden, mask, factors):
    """Melis et al. 2020, equations 1 and 2: x^i = 2σ(Q^i h^{i-1}) ⊙ x^{i-2}, h^i = 2σ(R^i x^{i-1}) ⊙ h^{i-2}."""
    outputs, ends = torch.empty(T, B, H, dtype=x.dtype), [torch.empty_like(state) for state in hidden]
    for b in range(B):
        h, c = hidden[0][0, b], hidden[1][0, b]
        for t in range(T):
            x_i, h_i = x[t, b], h * mask[b]
            for i, maps in enumerate(layer.rounds, start=1):
                matrix = maps[0].weight if len(maps) == 1 else maps[1].weight @ maps[0].weight
                if i % 2 == 1:
                    x_i = 2 * (matrix @ h_i + maps[-1].bias).sigmoid() * x_i
                else:
                    h_i = 2 * (matrix @ x_i + maps[-1].bias).sigmoid() * h_i
            pre = layer.weight_ih_l0 @ x_i + (layer.weight_hh_l0 * factors[0]) @ h_i + layer.bias_ih_l0
            h, c = outputs[t, b], _ = cell(layer.settings["gate"], pre, c)
        ends[0][0, b], ends[1][0, b] = h, c
    return outputs, tuple(ends)


def make(dropoutr=0, wdrop=0, **settings):
    layer = Mogrifier(E, H, settings={**settings, "dropoutr": dropoutr, "wdrop": wdrop}).double()
    for maps in layer.rounds:
        torch.nn.init.normal_(maps[-1].bias)
    return layer


def given():
    torch.manual_seed(0)
    return torch.randn(T, B, E).double(), tuple(torch.randn(1, B, H).double() for _ in range(2))


SETTINGS = [{}, {"mogrifier_rank": 2}, {"mogrifier_rank": 6, "mogrifier_rounds": 2},
            {"mogrifier_rounds": 1, "gate": "coupled"}, {"mogrifier_rounds": 0},
            {"mogrifier_rank": 2, "gate": "capped"}]


def step_by_step(layer, x, hidden):
    return layer.step_by_step(x, hidden, layer.weight_dropped(layer.weight_hh_l0), layer.state_mask(hidden[0][0]))


@pytest.mark.parametrize("dropouts", [(0, 0), (0.5, 0.4)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_steps_of_a_gpu_equal_a_naive_loop(dropouts, settings):
    layer = make(*dropouts, **settings)
    layer.forward = lambda x, hidden: step_by_step(layer, x, hidden)
    compare(layer, naive, *given())


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_single_and_reduced_precision_are_near_float64(settings, in_torch, dtype, monkeypatch):
    torch.manual_seed(0)
    layer = Mogrifier(30, 50, settings={**settings, "dropoutr": 0.5, "wdrop": 0.4})
    layer.matmul_dtype = dtype
    hidden = tuple(torch.randn(1, 4, 50) for _ in range(2))
    check_near_float64(layer, step_by_step, torch.randn(7, 4, 30), hidden, in_torch, monkeypatch)


def test_without_a_graph_the_same_comes_out():
    layer, (x, hidden) = make(mogrifier_rank=2), given()
    expected = flat_hidden(layer(x, hidden))
    with torch.no_grad():
        found = flat_hidden(layer(x, hidden))
    assert all(map(torch.equal, found, expected)) and expected[0].requires_grad and not found[0].requires_grad


@pytest.mark.parametrize("dropouts", [(0, 0), (0.5, 0.4)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_layer_equals_a_naive_loop(dropouts, settings):
    compare(make(*dropouts, **settings), naive, *given())


def test_masks_and_two_windows():
    check_masks(make, *given())
    check_two_windows(make(), *given())


def test_bfloat16_is_near():
    torch.manual_seed(0)
    check_bfloat16(Mogrifier(30, 50, settings={"mogrifier_rank": 8}), torch.randn(7, 4, 30),
                   tuple(torch.randn(1, 4, 50) for _ in range(2)))


def test_new_rounds_leave_inputs_almost_as_they_are():
    torch.manual_seed(0)
    layer = Mogrifier(300, 400, settings={"mogrifier_rank": 20})
    gate = layer.rounds[0][1](layer.rounds[0][0](torch.rand(5, 400) - 0.5))
    assert (2 * gate.sigmoid() - 1).abs().max() < 0.5 and all(not maps[-1].bias.any() for maps in layer.rounds)


def test_the_published_number_of_parameters():
    """24 million with 10,000 words: two layers of 912, rank 84."""
    with torch.device("meta"):
        found = count_parameters(RNNModel("Mogrifier", 10_000, 912, 912, 2, gate="capped", mogrifier_rank=84,
                                          skip_output=True))
    lstm, rounds = 4 * 912 * (2 * 912 + 1), 5 * (2 * 84 * 912 + 912)
    assert found == 10_000 * 913 + 2 * (lstm + rounds) and round(found, -5) == 24_000_000


def test_the_published_number_of_parameters_on_wikitext_2():
    """35 million at most, with word vectors of 0.19932 times the layers' width, two softmaxes, 6 rounds of rank 48."""
    found = {}
    for width in 1366, 1367:
        with torch.device("meta"):
            found[width] = count_parameters(RNNModel(
                "Mogrifier", 33_278, round(0.1993194960596213 * width), width, 2, gate="capped", mogrifier_rank=48,
                mogrifier_rounds=6, skip_output=True, softmax="mixture", mixtures=2))
    assert round(0.1993194960596213 * 1366) == 272 and found[1366] <= 35_000_000 < found[1367]
    inputs = 272 + 1366
    lstms = 4 * 1366 * (inputs + 1) + 4 * 1366 * (2 * 1366 + 1)
    rounds = 3 * (2 * 48 * inputs + inputs) + 3 * (2 * 48 * 2 * 1366 + 2 * 1366)
    assert found[1366] == 33_278 * 273 + lstms + rounds + 2 * 272 * 1367 + 2 * 1366
