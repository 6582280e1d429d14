"""States that are dropped between windows of training (--state-drop), and dropout masks anew at every step."""
import pytest
import torch

from model import RNNModel
from nt_asgd import NTASGD
from training.step import TrainStep, drop_states
from utils import flat_hidden, map_hidden

V, T, B = 11, 6, 40
NO_DROPOUT = dict.fromkeys(["dropout", "dropouth", "dropouti", "dropoute"], 0)


def states(model):
    torch.manual_seed(0)
    return map_hidden(torch.randn_like, model.init_hidden(B))


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN", "RHN"])
def test_a_stream_is_dropped_as_a_whole_or_not_at_all(cell):
    model, data = RNNModel(cell, V, 5, 7, 2, **NO_DROPOUT), torch.randint(V, (T, B))
    hidden = states(model)
    dropped = drop_states(hidden, data, 0.5)
    gone = {tuple((h == 0).all(2)[0].tolist()) for h in flat_hidden(dropped)}
    assert len(gone) == 1 and 5 < sum(*gone) < 35
    for before, after in zip(flat_hidden(hidden), flat_hidden(dropped), strict=True):
        stays = ~torch.tensor(*gone)
        assert torch.equal(after[:, stays], before[:, stays])


def test_without_it_nothing_is_drawn():
    model, data = RNNModel("LSTM", V, 5, 7, 2, **NO_DROPOUT), torch.randint(V, (T, B))
    hidden, before = states(model), torch.get_rng_state()
    assert drop_states(hidden, data, 0) is hidden and torch.equal(torch.get_rng_state(), before)


def test_a_step_starts_from_what_is_left():
    model = RNNModel("LSTM", V, 5, 7, 2, **NO_DROPOUT)
    data, targets, hidden = torch.randint(V, (T, B)), torch.randint(V, (T * B,)), states(model)

    def step(p):
        return TrainStep(model, NTASGD(model.parameters(), lr=1e-9), bptt=T, clip=0, alpha=0, beta=0, state_drop=p)
    torch.manual_seed(1)
    start = drop_states(hidden, data, 0.5)
    torch.manual_seed(1)
    dropped, _ = step(0.5)(data, targets, hidden)
    plain, _ = step(0)(data, targets, hidden)
    torch.testing.assert_close(dropped, step(0)(data, targets, start)[0])
    assert abs(dropped - plain) > 1e-4


def test_masks_for_every_step():
    model = RNNModel("LSTM", V, 50, 7, 1, 0.5, 0, 0, 0, per_step_dropout=True)
    data = torch.randint(V, (T, B))
    _, _, (raw,), (dropped,) = model(data, model.init_hidden(B), return_h=True)
    masks = dropped / raw
    assert {0, 2} == {*masks.round(decimals=3).unique().tolist()} and not torch.equal(masks[0] == 0, masks[1] == 0)
    model.eval()
    _, _, (raw,), (dropped,) = model(data, model.init_hidden(B), return_h=True)
    assert torch.equal(raw, dropped)
