"""The arithmetic against arrays computed by the published implementation (../shared/golden)."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import has_stalled
from model import RNNModel
from nt_asgd import NTASGD
from pointer import cache_logprobs
from splitcross import SplitCrossEntropyLoss
from training.step import TrainStep
from utils import batchify, get_batch

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden arrays are not here")


class Golden(dict):
    """The arrays of one file, as tensors; `golden.group("grad")` are those named grad/…"""

    def group(self, prefix):
        return {name[len(prefix) + 1:]: array for name, array in self.items() if name.startswith(prefix + "/")}


@pytest.fixture(params=["LSTM", "GRU"])
def golden(request):
    arrays = np.load(GOLDEN / f"{request.param.lower()}_tied.npz")
    return Golden({name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}, rnn_type=request.param)


def make(golden):
    params = golden.group("param")
    V, E = params["encoder.weight"].shape
    H = params["rnns.0.weight_hh_l0"].shape[1]
    model = RNNModel(golden["rnn_type"], V, E, H, 3, dropout=0, dropouth=0, dropouti=0, dropoute=0, wdrop=0)
    model.load_state_dict(params)
    return model


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-5, atol=1e-6)


def test_state_dict_has_the_documented_keys(golden):
    assert set(make(golden).state_dict()) == set(golden.group("param"))


def test_columns(golden):
    assert torch.equal(batchify(golden["tokens"], golden["columns"].shape[1], None), golden["columns"])


def test_first_window(golden):
    model = make(golden)
    bptt = int(golden["bptt"])
    data, targets = get_batch(golden["columns"], 0, None, bptt)
    features, hidden, raws, dropped = model(data, model.init_hidden(data.shape[1]), return_h=True)
    close(features, golden["features"])
    for layer, h in enumerate(hidden):
        for name, tensor in zip("hc", h if golden["rnn_type"] == "LSTM" else [h]):
            close(tensor, golden[f"hidden/{layer}/{name}"])
    loss = model.loss(features, targets)
    close(loss, golden["loss"])
    total = loss + 2 * dropped[-1].pow(2).mean() + (raws[-1][1:] - raws[-1][:-1]).pow(2).mean()
    close(total, golden["total_loss"])
    total.backward()
    for name, gradient in golden.group("grad").items():
        close(model.get_parameter(name).grad, gradient)


def test_eight_steps_of_sgd_and_averaging(golden):
    model = make(golden)
    optimizer = NTASGD(model.parameters(), lr=float(golden["lr"]), weight_decay=1.2e-6)
    step = TrainStep(model, optimizer, bptt=int(golden["bptt"]), clip=0.25, alpha=2, beta=1)
    hidden = model.init_hidden(golden["columns"].shape[1])
    row = 0
    for i, length in enumerate(golden["seq_lens"].tolist()):
        if i == 4:
            for name, weights in golden.group("after_sgd").items():
                close(model.get_parameter(name), weights)
            optimizer.start_averaging()
        _, hidden = step(*get_batch(golden["columns"], row, None, length), hidden)
        row += length
    for name, weights in golden.group("after_asgd").items():
        close(model.get_parameter(name), weights)
    with optimizer.averaged():
        for name, weights in golden.group("average").items():
            close(model.get_parameter(name), weights)


@pytest.mark.parametrize("which", ["nosplit", "split1", "split2"])
def test_softmax(golden, which):
    arrays = golden.group(which)
    weight, bias = golden["after_asgd/encoder.weight"], golden["after_asgd/decoder.bias"]
    V = len(weight)
    criterion = SplitCrossEntropyLoss(weight.shape[1], {"nosplit": [], "split1": [V // 4],
                                                        "split2": [V // 4, V // 2]}[which])
    with torch.no_grad():
        for name, parameter in criterion.named_parameters():
            parameter.copy_(arrays[name])
        close(criterion(weight, bias, arrays["hiddens"], arrays["targets"]), arrays["loss"])
        close(criterion.logprob(weight, bias, arrays["hiddens"]), arrays["logprob"])


def test_cache(golden):
    cache = golden.group("cache")
    found = cache_logprobs(cache["features"], cache["stream"][1:], cache["vocab_logprob"].float(),
                           float(cache["theta"]), float(cache["lambda"]), int(cache["window"]))
    close(found, cache["logprob"])


def test_when_averaging_starts():
    for case in json.loads((GOLDEN / "nonmono.json").read_text()):
        losses = case["val_losses"]
        switches = [t for t in range(1, len(losses) + 1) if has_stalled(losses[:t], case["nonmono"])]
        assert (switches[0] if switches else None) == case["switch_after_epoch"]
