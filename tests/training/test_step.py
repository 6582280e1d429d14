"""The training step against its equations: clipping, weight decay and its order, gradients that share memory."""
import pytest
import torch

from model import RNNModel, set_precision
from nt_asgd import NTASGD
from training.step import TrainStep


class OneWeight(torch.nn.Module):
    """A loss whose gradient by the one weight, 10, is 4."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([10.0]))

    def forward(self, data, hidden, return_h):
        outputs = self.weight.new_zeros(1, 1, 1)
        return self.weight, hidden, [outputs], [outputs]

    def loss(self, features, targets):
        return 4 * features.sum()

    def past_loss(self, features, data):
        return 0.0


@pytest.mark.parametrize(("settings", "own", "expected"), [
    ({}, 0.1, 8.0),                         # clipped to 1, then 0.1 · 10 more
    ({"l2": 0.1}, 0.0, 9.0),                # 4 + 1, clipped to 1
    ({"decay": 0.1}, 0.0, 8.0), ({"decay": 1e-3}, 0.0, 8.99)])     # 10 · (1 - decay), then clipped to 1
@pytest.mark.parametrize("kind", [NTASGD, torch.optim.SGD])
def test_where_weight_decay_enters(settings, own, expected, kind):
    model = OneWeight()
    step = TrainStep(model, kind(model.parameters(), lr=1.0, weight_decay=own), bptt=1, clip=1.0, alpha=0, beta=0,
                     **settings)
    step(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long), [])
    assert model.weight.item() == pytest.approx(expected, abs=1e-5)


def test_a_step_that_is_not_finite_takes_no_share_of_the_weights():
    model = OneWeight()
    model.loss = lambda features, targets: features.sum() * torch.inf
    step = TrainStep(model, NTASGD(model.parameters(), lr=1.0), bptt=1, clip=1.0, alpha=0, beta=0, decay=0.1)
    loss, _ = step(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long), [])
    assert loss.isnan() and model.weight.item() == 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [
    lambda p: NTASGD(p, lr=1.0), lambda p: torch.optim.Adagrad(p, lr=1.0), lambda p: torch.optim.SGD(p, lr=1.0),
    lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.0, 0.0), eps=1.0, fused=True)],
    ids=["ntasgd", "adagrad", "sgd", "fused adam"])
def test_the_two_biases_of_a_layer_are_clipped_once(make, precision):
    """Their gradients are equal, and so are the steps that they take."""
    torch.manual_seed(0)
    model = set_precision(RNNModel("LSTM", 50, 16, 400, 2, 0, 0, 0, 0, 0), precision)
    before = [p.detach().clone() for p in model.parameters()]
    step = TrainStep(model, make(list(model.parameters())), bptt=5, clip=0.01, alpha=0, beta=0)
    step(torch.randint(50, (5, 4)), torch.randint(50, (20,)), model.init_hidden(4))
    moved = {name: p.detach() - old for (name, p), old in zip(model.named_parameters(), before)}
    for layer in range(2):
        one, other = (moved[f"rnns.{layer}.bias_{which}_l0"] for which in ("ih", "hh"))
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-8)
