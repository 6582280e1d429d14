"""The building blocks: what each promises, on its own."""
import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nt_asgd
import splitcross
from embed_regularize import embedded_dropout
from evaluation.loss import evaluate
from locked_dropout import LockedDropout
from model import RNNModel, count_parameters
from nt_asgd import NTASGD
from runtime import devices
from runtime.errors import InputError
from splitcross import SplitCrossEntropyLoss
from training import step as train_step
from training.schedules import one_cycle
from training.windows import window_length
from utils import batchify, flat_hidden, get_batch, repackage_hidden
from weight_drop import WeightDrop, drop_weight


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


# ---- weight drop

MODULES = {
    "LSTM": (lambda: nn.LSTM(5, 12), ["weight_hh_l0"], (4, 3, 5)),
    "LSTM of two layers, both ways": (lambda: nn.LSTM(5, 12, 2, bidirectional=True),
                                      ["weight_hh_l0", "weight_ih_l1_reverse"], (4, 3, 5)),
    "GRU": (lambda: nn.GRU(5, 12), ["weight_hh_l0", "weight_ih_l0"], (4, 3, 5)),
    "Linear": (lambda: nn.Linear(5, 30), ["weight"], (3, 5)),
    "Conv": (lambda: nn.Conv1d(5, 30, 2), ["weight"], (3, 5, 4)),
    "nested": (lambda: nn.Sequential(nn.Linear(5, 40), nn.Linear(40, 30)), ["1.weight", "0.weight"], (3, 5)),
}


def output(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_weight_drop_trains_evaluates_and_trains_again(name, variational):
    make, weights, shape = MODULES[name]
    module = make()
    plain = copy.deepcopy(module)
    dropped = WeightDrop(module, weights, dropout=0.5, variational=variational)
    x = torch.randn(shape)
    optimizer = torch.optim.SGD(dropped.parameters(), lr=0.1)
    for _ in range(2):
        dropped.train()
        first, second = output(dropped(x)), output(dropped(x))
        assert not torch.equal(first, second)                      # a mask of its own for each pass
        before = {weight: module.get_parameter(weight).clone() for weight in weights}
        optimizer.zero_grad()
        (first.pow(2).sum() + second.pow(2).sum()).backward()
        optimizer.step()
        for weight in weights:
            assert module.get_parameter(weight).grad.abs().sum() > 0
            assert not torch.equal(before[weight], module.get_parameter(weight))
        dropped.eval()
        plain.load_state_dict(module.state_dict())                 # the keys are those of the module without dropout
        assert torch.equal(output(dropped(x)), output(plain(x)))   # nothing is dropped
        assert torch.equal(output(dropped(x)), output(dropped(x)))
    copy.deepcopy(dropped)                                         # no graph left behind in the module


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_a_dropped_weight_is_what_the_module_computes_with(cell):
    module = cell(2, 3)
    dropped = WeightDrop(module, ["weight_hh_l0"], 0.5)
    x, state = torch.randn(6, 2, 2), [torch.randn(1, 2, 3) for _ in range(2)]
    state = tuple(state) if cell is nn.LSTM else state[0]
    torch.manual_seed(1)
    found = dropped(x, state)[0]
    torch.manual_seed(1)
    plain = copy.deepcopy(module)
    with torch.no_grad():
        plain.weight_hh_l0.copy_(drop_weight(module.weight_hh_l0, 0.5))
    assert torch.equal(found, plain(x, state)[0])                  # one mask for all time steps


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_weight_drop_drops_that_share_and_scales_the_rest(dropout):
    linear = nn.Linear(400, 500, bias=False)
    nn.init.ones_(linear.weight)
    weight = WeightDrop(linear, ["weight"], dropout)(torch.eye(400)).T      # (500, 400): the weight itself
    kept = weight != 0
    assert abs(1 - kept.float().mean().item() - dropout) < 0.005
    torch.testing.assert_close(weight[kept], torch.full_like(weight[kept], 1 / (1 - dropout)))


def test_variational_weight_drop_drops_rows():
    linear = nn.Linear(40, 50, bias=False)
    nn.init.ones_(linear.weight)
    weight = WeightDrop(linear, ["weight"], 0.5, variational=True)(torch.eye(40)).T
    assert (weight == weight[:, :1]).all() and set(weight.unique().tolist()) == {0, 2}


def test_weight_drop_refuses_nonsense():
    with pytest.raises(AttributeError):
        WeightDrop(nn.Linear(2, 2), ["weight_hh_l0"])
    with pytest.raises(ValueError, match="1.5"):
        WeightDrop(nn.Linear(2, 2), ["weight"], 1.5)


# ---- dropout of activations and words

def test_locked_dropout_repeats_its_mask_over_time_and_draws_a_new_one_per_window():
    drop = LockedDropout()
    x = torch.ones(7, 4, 50)
    first, second = drop(x, 0.4), drop(x, 0.4)
    assert (first == first[0]).all() and not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])               # columns have masks of their own
    torch.testing.assert_close(first[first != 0], torch.full_like(first[first != 0], 1 / 0.6))
    assert drop(x, 0) is x and drop.eval()(x, 0.4) is x


def test_embedding_dropout_equals_masking_the_whole_table():
    embed = nn.Embedding(30, 8)
    words, grad = torch.randint(30, (9, 5)), torch.randn(9, 5, 8)
    torch.manual_seed(3)
    found = embedded_dropout(embed, words, 0.3)
    found.backward(grad)
    found_grad, embed.weight.grad = embed.weight.grad, None
    torch.manual_seed(3)
    mask = F.dropout(torch.ones(30, 1), 0.3)                       # (V, 1)
    assert 0 < (mask == 0).sum() < 30
    expected = F.embedding(words, embed.weight * mask)
    expected.backward(grad)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_grad, embed.weight.grad)


def test_embedding_dropout_none_and_scale():
    embed, words = nn.Embedding(30, 8), torch.randint(30, (9, 5))
    assert torch.equal(embedded_dropout(embed, words, 0), embed(words))
    scale = torch.rand(30, 1)
    torch.testing.assert_close(embedded_dropout(embed, words, 0, scale), F.embedding(words, embed.weight * scale))


# ---- softmax

@pytest.mark.parametrize("splits", [[], [5], [5, 9], [3, 7, 15, 20]])
def test_softmax_is_a_distribution_and_its_loss_is_the_target_s_share(splits):
    criterion = SplitCrossEntropyLoss(6, splits)
    for parameter in criterion.parameters():
        nn.init.normal_(parameter)
    weight, bias = torch.randn(25, 6), torch.randn(25)
    hiddens, targets = torch.randn(700, 6), torch.randint(25, (700,))
    logprob = criterion.logprob(weight, bias, hiddens)
    torch.testing.assert_close(logprob.exp().sum(1), torch.ones(700))
    at_target = logprob.gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(criterion(weight, bias, hiddens, targets), -at_target.mean())
    torch.testing.assert_close(criterion.target_logprob(weight, bias, hiddens, targets), at_target)


def test_unsplit_loss_is_cross_entropy():
    weight, bias = torch.randn(25, 6), torch.randn(25)
    hiddens, targets = torch.randn(40, 6), torch.randint(25, (40,))
    torch.testing.assert_close(SplitCrossEntropyLoss(6, [])(weight, bias, hiddens, targets),
                               F.cross_entropy(hiddens @ weight.T + bias, targets))


@pytest.mark.parametrize("splits", [[], [5, 9]])
def test_loss_in_pieces_has_the_gradient_of_the_whole(splits, monkeypatch):
    """Against autograd through `logprob`, which makes all logits at once."""
    monkeypatch.setattr(splitcross, "chunks", lambda hiddens, weight: [slice(n, n + 7) for n in range(0, 40, 7)
                                                                        if n < len(hiddens)])
    criterion = SplitCrossEntropyLoss(6, splits).double()
    for parameter in criterion.parameters():
        nn.init.normal_(parameter)
    weight, bias, hiddens = (torch.randn(shape, dtype=torch.float64, requires_grad=True)
                             for shape in ((25, 6), (25,), (40, 6)))
    targets, inputs = torch.randint(25, (40,)), [weight, bias, hiddens, *criterion.parameters()]
    found = torch.autograd.grad(3 * criterion(weight, bias, hiddens, targets), inputs)
    whole = criterion.logprob(weight, bias, hiddens).gather(1, targets[:, None]).mean()
    for a, b in zip(found, torch.autograd.grad(-3 * whole, inputs)):
        torch.testing.assert_close(a, b)


def test_cutoffs_beyond_the_vocabulary_change_nothing():
    weight, bias = torch.randn(25, 6), torch.randn(25)
    hiddens, targets = torch.randn(40, 6), torch.randint(25, (40,))
    near, far = SplitCrossEntropyLoss(6, [9]), SplitCrossEntropyLoss(6, [9, 25, 76000])
    torch.testing.assert_close(far(weight, bias, hiddens, targets), near(weight, bias, hiddens, targets))
    torch.testing.assert_close(far.logprob(weight, bias, hiddens).exp().sum(1), torch.ones(40))


def test_split_softmax_gives_every_part_a_gradient():
    criterion = SplitCrossEntropyLoss(6, [5, 9])
    weight, bias = torch.randn(25, 6, requires_grad=True), torch.randn(25, requires_grad=True)
    criterion(weight, bias, torch.randn(200, 6), torch.arange(200) % 25).backward()
    assert (weight.grad.abs().sum(1) > 0).all() and (criterion.tail_vectors.grad.abs().sum(1) > 0).all()
    assert (criterion.tail_bias.grad != 0).all()


@pytest.mark.parametrize("splits", [[0, 5], [5, 5], [9, 5], [-1]])
def test_softmax_refuses_cutoffs_that_are_none(splits):
    with pytest.raises(ValueError, match="increasing"):
        SplitCrossEntropyLoss(6, splits)


# ---- the network

@pytest.mark.parametrize(("words", "parameters"), [(10_000, 24_221_600), (33_278, 33_556_078)])
def test_published_sizes(words, parameters):
    with torch.device("meta"):
        assert count_parameters(RNNModel("LSTM", words, 400, 1150, 3)) == parameters


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("tied", [True, False])
def test_shapes_and_state_dict(cell, tied):
    model = RNNModel(cell, 40, 10, 14, 3, wdrop=0.5, tie_weights=tied)
    words = torch.randint(40, (7, 4))
    features, hidden, raws, dropped = model(words, model.init_hidden(4), return_h=True)
    assert features.shape == (28, 10 if tied else 14)
    assert [raw.shape for raw in raws] == [(7, 4, 14), (7, 4, 14), (7, 4, 10 if tied else 14)]
    assert torch.equal(dropped[-1].flatten(0, 1), features)
    assert len(hidden) == 3 and (model.decoder.weight is model.encoder.weight) == tied
    own = (["linear.weight", "linear.bias"] if cell == "QRNN" else
           [f"{kind}_{way}_l0" for kind in ("weight", "bias") for way in ("ih", "hh")])
    keys = {"encoder.weight", "decoder.bias"} | {f"rnns.{layer}.{name}" for layer in range(3) for name in own}
    assert set(model.state_dict()) == keys | (set() if tied else {"decoder.weight"})
    other = RNNModel(cell, 40, 10, 14, 3, wdrop=0, tie_weights=tied)
    other.load_state_dict(model.state_dict())
    assert (other.decoder.weight is other.encoder.weight) == tied
    assert torch.equal(other.eval()(words, other.init_hidden(4))[0], model.eval()(words, model.init_hidden(4))[0])


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
def test_every_weight_learns_also_after_an_evaluation(cell):
    model = RNNModel(cell, 40, 10, 14, 2, 0.1, 0.1, 0.1, 0.1, 0.5, cutoffs=[20])
    optimizer = NTASGD(model.parameters(), lr=1)
    step = train_step.TrainStep(model, optimizer, bptt=9, clip=0.25, alpha=2, beta=1)
    columns = torch.randint(40, (60, 4))
    for _ in range(2):
        before = {name: p.clone() for name, p in model.named_parameters()}
        step(*get_batch(columns, 0, None, 9), model.init_hidden(4))
        assert "softmax.tail_vectors" in before
        for name, p in model.named_parameters():
            assert not torch.equal(before[name], p), name
        assert evaluate(model, columns, 7) == evaluate(model, columns, 7)
        assert model.training
        optimizer.start_averaging()


# ---- the optimizer

def test_average_is_the_mean_of_the_weights_after_each_step():
    params = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4))]
    optimizer = NTASGD(params, lr=0.5, weight_decay=0.01)
    naive, sums = [p.detach().double() for p in params], None
    for n in range(60):
        if n == 20:
            optimizer.start_averaging()
            assert optimizer.averaging
            with optimizer.averaged():                             # nothing averaged yet: nothing changes
                torch.testing.assert_close(params[0].double(), naive[0], rtol=1e-5, atol=1e-6)
            sums = [0, 0]
        for i, p in enumerate(params):
            p.grad = torch.randn_like(p)
            naive[i] = naive[i] - 0.5 * (p.grad.double() + 0.01 * naive[i])
            if sums:
                sums[i] = sums[i] + naive[i]
        optimizer.step()
    raw = [p.clone() for p in params]
    places = [p.data_ptr() for p in params]
    with pytest.raises(KeyError), optimizer.averaged():
        for p, total in zip(params, sums):
            torch.testing.assert_close(p.double(), total / 40, rtol=1e-5, atol=1e-6)
        raise KeyError
    assert all(torch.equal(p, r) for p, r in zip(params, raw))     # bit for bit, also after an error
    assert places == [p.data_ptr() for p in params]


@pytest.mark.parametrize("found_inf", [None, 0.0, 1.0])
@pytest.mark.parametrize("scale", [None, 1.0, 3.0])
def test_the_step_of_gpus_is_that_of_cpus(scale, found_inf):
    """Also where nothing may change because a gradient is not a number."""
    torch.manual_seed(0)
    weights = [torch.randn(5, 3), torch.randn(4)]
    gradients = [torch.full((5, 3), math.nan if found_inf else 0.3), torch.randn(4)]
    scale, found_inf = (None if value is None else torch.tensor(value) for value in (scale, found_inf))
    results = []
    for descend in (nt_asgd._descend, nt_asgd._descend_in_passes):
        params = [w.clone() for w in weights]
        descend(params, [g.clone() for g in gradients], torch.tensor(0.7), 0.01, scale, found_inf)
        results.append(params)
    torch.testing.assert_close(*results)
    assert torch.equal(results[1][0], weights[0]) == bool(found_inf)


def test_optimizer_state_goes_on_where_it_was():
    def run(steps, optimizer, p):
        for n in steps:
            p.grad = torch.full_like(p, math.sin(n))
            optimizer.step()

    p = nn.Parameter(torch.randn(5))
    optimizer = NTASGD([p], lr=0.5)
    optimizer.start_averaging()
    run(range(5), optimizer, p)
    q = nn.Parameter(p.detach().clone())
    other = NTASGD([q], lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(range(5, 9), optimizer, p)
    run(range(5, 9), other, q)
    with optimizer.averaged(), other.averaged():
        assert torch.equal(p, q)


# ---- windows

def test_columns_and_windows():
    columns = batchify(torch.arange(23), 4, None)
    assert columns.tolist() == [[0, 5, 10, 15], [1, 6, 11, 16], [2, 7, 12, 17], [3, 8, 13, 18], [4, 9, 14, 19]]
    data, targets = get_batch(columns, 1, None, 2)
    assert data.tolist() == [[1, 6, 11, 16], [2, 7, 12, 17]]
    assert targets.tolist() == [2, 7, 12, 17, 3, 8, 13, 18]
    assert get_batch(columns, 3, None, 99)[0].tolist() == [[3, 8, 13, 18]]  # the last row is only a target


def test_repackaged_hidden_is_cut_off():
    h = [(torch.ones(2, requires_grad=True) * 2, torch.ones(1, requires_grad=True) * 3)]
    found = repackage_hidden(h)
    assert isinstance(found, list) and isinstance(found[0], tuple)
    assert not found[0][0].requires_grad and found[0][0].tolist() == [2, 2]


def test_window_lengths_are_as_published():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([window_length(70, 15, generator) for _ in range(20_000)])
    assert lengths.min() >= 5 and lengths.max() <= 85
    short = lengths < 53
    assert abs(short.float().mean() - 0.05) < 0.006
    assert abs(lengths[~short].float().mean() - 69.5) < 0.15       # int() rounds down
    assert abs(lengths[~short].float().std() - 5) < 0.15
    assert abs(lengths[short].float().mean() - 34.5) < 0.6
    assert max(window_length(70, 3, generator) for _ in range(500)) == 73
    assert min(window_length(4, 40, generator) for _ in range(500)) == 5


@pytest.mark.parametrize("columns", [1, 3])
def test_evaluation_scores_every_token_once_whatever_the_window(columns):
    model = RNNModel("LSTM", 40, 10, 14, 2).double()
    data = torch.randint(40, (50, columns))
    hidden, total = model.init_hidden(columns), 0.0
    model.eval()
    for t in range(49):
        features, hidden = model(data[t:t + 1], hidden)
        logits = features @ model.decoder.weight.T + model.decoder.bias
        total += F.cross_entropy(logits, data[t + 1], reduction="sum").item()
    for bptt in (1, 7, 49, 1000):
        assert evaluate(model, data, bptt) == pytest.approx(total / (49 * columns), rel=1e-12)


def test_a_bad_step_changes_nothing():
    model = RNNModel("LSTM", 40, 10, 14, 2)
    optimizer = NTASGD(model.parameters(), lr=1)
    optimizer.start_averaging()
    step = train_step.TrainStep(model, optimizer, bptt=9, clip=0.25, alpha=2, beta=1)
    data, targets = get_batch(torch.randint(40, (60, 4)), 0, None, 9)
    hidden = model.init_hidden(4)
    before = copy.deepcopy(model.state_dict())
    bad = [(h.fill_(math.nan), c) for h, c in model.init_hidden(4)]
    loss, kept = step(data, targets, bad)
    assert math.isnan(loss) and all(torch.equal(a.nan_to_num(7), b.nan_to_num(7))
                                    for a, b in zip(flat_hidden(kept), flat_hidden(bad)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with optimizer.averaged():
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert optimizer.state_dict()["param_groups"][0]["averaged_steps"] == 0
    assert math.isfinite(step(data, targets, hidden)[0])
    assert optimizer.state_dict()["param_groups"][0]["averaged_steps"] == 1


# ---- other ways to train

def test_one_cycle_goes_up_stays_comes_back_and_fades():
    phases, momentum = [2, 4, 4, 1], (0.8, 0.7)
    points = {0: (0.1, 0.8), 1: (0.55, 0.75), 2: (1, 0.7), 4: (1, 0.7), 6: (1, 0.7), 8: (0.55, 0.75), 10: (0.1, 0.8),
              10.5: (0.0505, 0.8), 11: (0.001, 0.8), 50: (0.001, 0.8)}
    for epoch, expected in points.items():
        assert one_cycle(epoch, phases, momentum) == pytest.approx(expected)
    assert one_cycle(0, [0, 0, 0, 5], momentum) == pytest.approx((0.1, 0.8))    # phases may be left out


def test_windows_of_one_length():
    generator = torch.Generator()
    assert {window_length(70, 40, generator, variable=False) for _ in range(100)} == {70}


# ---- devices

@pytest.mark.parametrize(("there", "picked"), [((), "cpu"), (("mps",), "mps"), (("mps", "cuda"), "cuda"),
                                               (("xpu",), "xpu")])
def test_a_device_is_picked(there, picked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(there[0]) if there else None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: bool(there))
    monkeypatch.setattr(devices, "why_unusable", lambda device: None)
    assert devices.pick_device("auto") == picked == devices.pick_device(picked)
    assert devices.pick_precision("auto", "mps", False)[0] == "fp32"
    with pytest.raises(InputError, match="abacus"):
        devices.pick_device("abacus")


# ---- as parts of somebody else's model

def test_locked_dropout_with_a_probability_of_its_own_and_the_batch_first():
    x = torch.ones(5, 7, 11)
    torch.manual_seed(0)
    expected = LockedDropout()(x, 0.3)
    torch.manual_seed(0)
    assert torch.equal(LockedDropout(0.3)(x), expected)
    first = LockedDropout(0.5, batch_first=True)(x)
    assert torch.equal(first, first[:, :1].expand_as(x)) and not torch.equal(first, first[:1].expand_as(x))
    assert LockedDropout(0.5).eval()(x) is x and LockedDropout(0.5)(x, 0) is x
    with pytest.raises(ValueError, match="dropout"):
        LockedDropout(1.5)


def test_weight_drop_has_what_its_module_has():
    layer = WeightDrop(nn.LSTM(5, 6, num_layers=2, batch_first=True), ["weight_hh_l0"], 0.5)
    assert (layer.hidden_size, layer.num_layers, layer.batch_first) == (6, 2, True)
    layer.flatten_parameters()
    with pytest.raises(AttributeError, match="nonsense"):
        layer.nonsense  # noqa: B018
    assert copy.deepcopy(layer).hidden_size == 6


@pytest.mark.parametrize("averaging", [False, True])
def test_parameters_added_to_the_optimizer_later(averaging):
    """Gradual unfreezing: before averaging has started, and after it."""
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = NTASGD([first], lr=1)
    if averaging:
        optimizer.start_averaging()
        first.grad = torch.ones(3)
        optimizer.step()
    optimizer.add_param_group({"params": [second], "lr": 0.5})
    if not averaging:
        optimizer.start_averaging()
    for _ in range(2):
        first.grad, second.grad = torch.ones(3), torch.ones(2)
        optimizer.step()
    assert torch.equal(second, torch.zeros(2))                       # two steps of a half
    with optimizer.averaged():
        assert torch.equal(second, torch.full((2,), 0.25))           # the mean of 0.5 and 0
        assert torch.equal(first, torch.full((3,), -1.0 if averaging else -0.5))
    again = NTASGD([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=1)
    again.load_state_dict(optimizer.state_dict())
    with again.averaged():
        assert torch.equal(second, torch.full((2,), 0.25))
