"""Initial weights and the dropout before the decoder as Melis et al. have them."""
import pytest
import torch
from conftest import SMALL, run_script

from model import RNNModel


def melis(rnn_type="LSTM", emsize=912, nhid=912, nlayers=1, **settings):
    torch.manual_seed(0)
    settings = {"gate": "capped", "weight_init": "fan-in", **settings}
    return RNNModel(rnn_type, 10, emsize, nhid, nlayers, skip_output=True, **settings)


def test_standard_deviations():
    layer = melis("Mogrifier", mogrifier_rank=84).rnns[0]
    assert layer.weight_ih_l0.std().item() == pytest.approx(0.0331, rel=0.01)
    assert layer.weight_hh_l0.std().item() == pytest.approx(0.0331, rel=0.01)
    first, second = layer.rounds[0]
    assert (second.weight @ first.weight).std().item() == pytest.approx(0.0256, rel=0.02)
    assert not layer.bias_ih_l0.any()
    wide = melis(emsize=149, nhid=300, forget_bias=1.0)
    assert wide.rnns[0].weight_ih_l0.std().item() == pytest.approx(0.0819, rel=0.01)
    assert wide.rnns[0].bias_ih_l0.sum() == 300
    torch.testing.assert_close(wide.projection.weight @ wide.projection.weight.T, torch.eye(149), atol=1e-5, rtol=0)


def test_standard_deviations_of_a_mixture():
    """1 / sqrt(300), no biases; without fan-in torch's own, uniform up to that."""
    for settings, wanted in ({}, 300**-0.5), ({"weight_init": "uniform"}, 900**-0.5):
        softmax = melis("Mogrifier", emsize=149, nhid=300, softmax="mixture", mixtures=20, **settings).softmax
        for weight in softmax.latent.weight, softmax.prior.weight:
            assert weight.std().item() == pytest.approx(wanted, rel=0.03)
        assert softmax.latent.bias.any() == bool(settings)


def test_what_the_decoder_is_given_is_dropped_twice():
    """Dropout 0.5, h = (1, 0), projection (1, 0): 4 with probability 1/4, else 0; in evaluation 1."""
    model = RNNModel("LSTM", 10, 1, 2, 1, dropout=0.5, dropoutp=0.5, skip_output=True, per_step_dropout=True)
    with torch.no_grad():
        model.projection.weight.copy_(torch.tensor([[1.0, 0.0]]))
        h = torch.tensor([1.0, 0.0]).expand(200, 100, 2)                                       # (T, B, H)
        given = model._projected(model._dropped(h, model.dropout).flatten(0, 1))               # (N, E)
        assert given.unique().tolist() == [0, 4]
        assert (given == 4).float().mean().item() == pytest.approx(0.25, abs=0.015)
        model.eval()
        assert model._projected(h.flatten(0, 1)).unique().tolist() == [1]
    with model.dropout_scaled(0.5):
        assert model.dropoutp == 0.25


def test_no_linear_map_to_drop(toy, tmp_path):
    done = run_script("main.py", "--data", toy, *SMALL, "--dropoutp", 0.1, cwd=tmp_path, status=1)
    assert "--dropoutp is for the linear map" in done.stderr
