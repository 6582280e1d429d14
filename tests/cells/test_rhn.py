"""The recurrent highway network against a naive loop in float64."""
import pytest
import torch
from naive import check_bfloat16, check_masks, check_near_float64, check_two_windows, compare

from cells import RHN
from model import RNNModel, count_parameters

T, B, E, H = 5, 3, 4, 6        # E: width of the input


def naive(layer, x, hidden, mask, factors):
    """Zilly et al. 2017, equations 6 to 9, the carry gate being 1 - t; one mask over time and depth, for h and t."""
    outputs, end = torch.empty(T, B, H, dtype=x.dtype), torch.empty_like(hidden)
    for b in range(B):
        s = hidden[0, b]
        for step in range(T):
            for depth, (weight, factor, bias) in enumerate(zip(layer.weight_hh, factors, layer.bias)):
                dropped = weight * factor
                h, t = (dropped[part] @ (s * mask[b]) + bias[part] for part in (slice(0, H), slice(H, 2 * H)))
                if depth == 0:
                    h, t = h + layer.weight_ih[:H] @ x[step, b], t + layer.weight_ih[H:] @ x[step, b]
                s = h.tanh() * t.sigmoid() + s * (1 - t.sigmoid())
            outputs[step, b] = s
        end[0, b] = s
    return outputs, end


def make(dropoutr=0, wdrop=0, depth=3):
    return RHN(E, H, settings={"rhn_depth": depth, "dropoutr": dropoutr, "wdrop": wdrop}).double()


def given():
    torch.manual_seed(0)
    return torch.randn(T, B, E).double(), torch.randn(1, B, H).double()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("dropouts", [(0, 0), (0.5, 0.4)])
def test_the_layer_equals_a_naive_loop(dropouts, depth):
    compare(make(*dropouts, depth), naive, *given())


def step_by_step(layer, x, hidden):
    return layer.step_by_step(x, hidden, [layer.weight_dropped(weight) for weight in layer.weight_hh],
                              layer.state_mask(hidden[0]))


@pytest.mark.parametrize("dropouts", [(0, 0), (0.5, 0.4)])
def test_the_steps_of_a_gpu_equal_a_naive_loop(dropouts):
    layer = make(*dropouts)
    layer.forward = lambda x, hidden: step_by_step(layer, x, hidden)
    compare(layer, naive, *given())


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_single_and_reduced_precision_are_near_float64(in_torch, dtype, monkeypatch):
    torch.manual_seed(0)
    layer = RHN(30, 50, settings={"rhn_depth": 3, "dropoutr": 0.5, "wdrop": 0.4})
    layer.matmul_dtype = dtype
    check_near_float64(layer, step_by_step, torch.randn(7, 4, 30), torch.randn(1, 4, 50), in_torch, monkeypatch)


def test_without_a_graph_the_same_comes_out():
    layer, (x, hidden) = make(), given()
    expected = layer(x, hidden)
    with torch.no_grad():
        found = layer(x, hidden)
    assert all(map(torch.equal, found, expected)) and expected[0].requires_grad and not found[0].requires_grad


def test_masks():
    check_masks(make, *given())


def test_two_windows():
    check_two_windows(make(), *given())


def test_bfloat16_is_near():
    torch.manual_seed(0)
    check_bfloat16(RHN(30, 50), torch.randn(7, 4, 30), torch.randn(1, 4, 50))


def test_how_it_starts():
    layer = RHN(30, 50, settings={"transform_bias": -4.0})
    assert len(layer.weight_hh) == len(layer.bias) == 10
    for bias in layer.bias:
        assert bool((bias[50:] == -4).all()) and 0.03 < bias[:50].abs().max() <= 0.04
    for weight in (layer.weight_ih, *layer.weight_hh):
        assert 0.039 < weight.abs().max() <= 0.04
    model = RNNModel("RHN", 100, 50, 50, 1, init_range=0.04)
    assert 0.039 < model.encoder.weight.abs().max() <= 0.04 and model.decoder.weight is model.encoder.weight


def test_the_published_number_of_parameters():
    """23.48 million with 10,000 words: 830 wide, 10 deep, tied (the paper says 23M)."""
    with torch.device("meta"):
        found = count_parameters(RNNModel("RHN", 10_000, 830, 830, 1))
    assert found == 10_000 * (830 + 1) + 2 * 830 * 830 + 10 * 2 * (830 * 830 + 830)
    assert round(found, -4) == 23_480_000
