"""A last layer of any width, and the sum of all layers' outputs as the features, against plain loops."""
import pytest
import torch
from conftest import SMALL
from torch.nn import functional as F

from model import RNNModel
from runtime.errors import InputError

V, E, H, T, B = 11, 5, 7, 4, 3
NO_DROPOUT = dict.fromkeys(["dropout", "dropouth", "dropouti", "dropoute", "wdrop"], 0)


def run(nlayers=3, tied=True, **settings):
    """A float64 model with all its features, and what torch's LSTM makes of its layers: (T, B, ·) each."""
    torch.manual_seed(1)
    model = RNNModel("LSTM", V, E, H, nlayers, tie_weights=tied, **NO_DROPOUT, **settings).double()
    words = torch.randint(V - 1, (T, B))
    features, _, raws, _ = model(words, model.init_hidden(B), return_h=True)
    x, outputs = model.encoder.weight[words], []
    for rnn in model.rnns:
        plain = torch.nn.LSTM(rnn.input_size, rnn.hidden_size).double()
        plain.load_state_dict(rnn.state_dict())
        x, _ = plain(x)
        outputs.append(x)
    return model, features, raws, outputs


@pytest.mark.parametrize(("tied", "nhidlast", "expected", "projected"), [
    (True, None, E, False), (True, 9, 9, True), (False, None, H, False), (False, 9, 9, False), (True, E, E, False)])
def test_the_last_layer_has_the_width_that_was_asked_for(tied, nhidlast, expected, projected):
    model, features, _, outputs = run(tied=tied, nhidlast=nhidlast)
    assert features.shape == (T * B, expected) and model.nhidlast == expected
    torch.testing.assert_close(features, outputs[-1].flatten(0, 1))
    assert (model.projection is not None) == projected
    decoded = features @ model.projection.weight.t() if projected else features
    logprobs = F.log_softmax(decoded @ model.decoder.weight.t() + model.decoder.bias, 1)
    targets = torch.randint(V, (T * B,))
    torch.testing.assert_close(model.logprob(features), logprobs)
    torch.testing.assert_close(model.target_logprob(features, targets), logprobs.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(model.loss(features, targets), F.nll_loss(logprobs, targets))


def test_skip_connections_sum_the_outputs():
    model, features, raws, outputs = run(skip_output=True)
    torch.testing.assert_close(features, sum(outputs).flatten(0, 1))
    torch.testing.assert_close(raws[-1], sum(outputs))
    assert model.nhidlast == H and model.projection.weight.shape == (E, H)


def test_gradients_pass_through_sum_and_projection():
    model, features, _, outputs = run(skip_output=True)
    targets = torch.randint(V, (T * B,))
    decoded = sum(outputs).flatten(0, 1) @ model.projection.weight.t()
    naive = F.cross_entropy(decoded @ model.decoder.weight.t() + model.decoder.bias, targets)
    shared = [model.projection.weight, model.decoder.weight, model.decoder.bias]
    for found, expected in zip(torch.autograd.grad(model.loss(features, targets), [features, *shared]),
                               torch.autograd.grad(naive, [outputs[-1], *shared])):
        torch.testing.assert_close(found, expected.view_as(found))


def test_every_script_reads_such_a_model(toy, call):
    for name, words in ("skip", ["--skip-output"]), ("wide", ["--nhidlast", 40]):
        call("main.py", "--data", toy, *SMALL, *words, "--epochs", 1, "--save", f"{name}.pt")
        call("finetune.py", "--save", f"{name}.pt", "--epochs", 1)
        call("pointer.py", "--save", f"{name}.pt", "--window", 50, "--bptt", 100)
        call("dynamiceval.py", "--save", f"{name}.pt", "--split", "test", "--bptt", 20)
        call("generate.py", "--save", f"{name}.pt", "--words", 10)
        call("evaluate.py", "--save", f"{name}.pt")


def test_layers_of_different_width_are_not_summed(toy, call):
    with pytest.raises(InputError, match="--nhidlast"):
        call("main.py", "--data", toy, *SMALL, "--skip-output", "--nhidlast", 40)
    with pytest.raises(ValueError, match="layers of one width"):
        RNNModel("LSTM", V, E, H, 3, skip_output=True, nhidlast=5)
