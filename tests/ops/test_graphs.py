"""Steps that are decided on the device and recorded as graphs, as far as a machine without a GPU can tell."""
import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import main
from embed_regularize import embedded_dropout
from evaluation.loss import evaluate, window_loss
from model import RNNModel, WordVectors
from nt_asgd import NTASGD
from ops import graphs
from ops.cudnn import recur_flat
from runtime import options
from training import optimizers
from training import step as train_step
from training.compose import compose
from utils import flat_hidden, get_batch


class StandIn:
    """CUDA's recorder without CUDA: a replay runs the function on the recorded inputs and fills the recorded outputs.

    It also spoils what a caller may not rely on: the outputs of a graph that is replayed are poisoned first.
    """

    def __init__(self, device):
        self.ran, self.recorded = 0, []

    def run(self, function, arguments):
        self.ran += 1
        return function(*arguments)

    def record(self, function, arguments):
        graph = Replay(function, arguments)
        self.recorded.append(graph)
        return graph, graph.outputs


class Replay:
    def __init__(self, function, arguments):
        self.function, self.arguments, self.outputs, self.replays = function, arguments, [], 0

    def replay(self):
        self.replays += 1
        for own in tree_leaves(self.outputs):
            own.fill_(math.nan)
        found = list(self.function(*self.arguments))
        if not self.outputs:
            self.outputs.extend(tree_map(torch.clone, found))
        for own, new in zip(tree_leaves(self.outputs), tree_leaves(found)):
            own.copy_(new)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(graphs, "Recorder", StandIn)


def make(cell="LSTM", optimizer="sgd", splits=(), recorded=False, **dropouts):
    torch.manual_seed(5)
    model = RNNModel(cell, 40, 10, 14, 2, **dropouts, cutoffs=list(splits))
    parameters = model.parameters()
    optimizer = (NTASGD(parameters, lr=3, weight_decay=1e-3) if optimizer == "sgd" else
                 torch.optim.Adam(parameters, lr=1e-2, weight_decay=1e-3, fused=optimizer == "fused adam"))
    step = train_step.TrainStep(model, optimizer, bptt=9, clip=0.25, alpha=2, beta=1)
    return compose(step, recording=graphs.Recording() if recorded else None)


LENGTHS = [9, 9, 5, 9, 12, 5, 9, 9, 5, 7]


def train(step, columns, lengths=LENGTHS, bad=()):
    """Train over `columns`, averaging from the middle on; windows in `bad` start from a state that is not finite."""
    torch.manual_seed(6)
    hidden, losses, row = step.model.init_hidden(columns.size(1)), [], 0
    for i, length in enumerate(lengths):
        if i == len(lengths) // 2 and isinstance(step.optimizer, NTASGD):
            step.optimizer.start_averaging()
        given = tree_map(lambda h: torch.full_like(h, math.nan), hidden) if i in bad else hidden
        loss, new = step(*get_batch(columns, row, None, length), given)
        hidden = hidden if i in bad else new
        losses.append(loss)
        row += length
    state = step.optimizer.state_dict()["state"]
    return [torch.stack(losses), *flat_hidden(hidden), *step.parameters,
            *(value for index in state for value in state[index].values())]


@pytest.mark.parametrize("bad", [(), (1, 3, 6, 7)])
@pytest.mark.parametrize("optimizer", ["sgd", "fused adam"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
def test_recorded_steps_equal_plain_ones(stand_in, cell, optimizer, bad):
    columns = torch.randint(40, (100, 4))
    plain = train(make(cell, optimizer), columns, bad=bad)
    step = make(cell, optimizer, recorded=True)
    for a, b in zip(plain, train(step, columns, bad=bad), strict=True):
        assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
    assert plain[0].isnan().nonzero().flatten().tolist() == list(bad)
    if optimizer == "sgd":    # of 9 9 5 9 12 | 5 9 9 5 7, recorded anew where averaging starts
        assert step.graphs._recorder.ran == 3 and [g.replays for g in step.graphs._recorder.recorded] == [1, 1]


def test_past_decode_regularisation_is_recorded(stand_in):
    columns = torch.randint(40, (100, 4))
    plain, step = train(make(pdr=0.5), columns), make(pdr=0.5, recorded=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, train(step, columns), strict=True))
    assert not torch.equal(plain[0], train(make(), columns)[0])


def test_a_learning_rate_that_changes_reaches_recorded_steps(stand_in):
    columns = torch.randint(40, (100, 4))
    results = []
    for recorded in (False, True):
        step = make(recorded=recorded)
        first = train(step, columns)
        step.optimizer.param_groups[0]["lr"] /= 10
        results.append([*first, *train(step, columns)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_an_evaluation_by_graphs(stand_in):
    step, columns = make(), torch.randint(40, (58, 3))
    score = graphs.Graphs(window_loss(step.model), "cpu")
    for _ in range(3):
        plain = evaluate(step.model, columns, 10)
        assert evaluate(step.model, columns, 10, loss_of=score) == plain
        train(step, columns, LENGTHS[:4])       # the same graphs see the weights as they are now
    assert score._recorder.ran == 2 and len(score._recorder.recorded) == 2    # windows of 10 rows, and one of 7


@pytest.mark.parametrize("splits", [(), (20,)])
@pytest.mark.parametrize("optimizer", ["sgd", "fused adam", "adam"])
def test_clipping_and_updating_equal_torchs_own(optimizer, splits):
    """clip_grad_norm_ and then a step, in float64 and without the scalars on the device."""
    columns = torch.randint(40, (100, 4))
    quiet = dict(dropout=0, dropouth=0, dropouti=0, dropoute=0)
    ours = make(optimizer=optimizer, splits=splits, **quiet)
    ours.model.double()
    theirs = copy.deepcopy(ours)
    kind, settings = ((torch.optim.SGD, {"lr": 3}) if optimizer == "sgd" else
                      (torch.optim.Adam, {"lr": 1e-2, "foreach": False}))
    reference = kind(theirs.parameters, weight_decay=1e-3, **settings)
    hidden = other = ours.model.init_hidden(4)
    rates = {}
    for row in range(0, 90, 9):
        data, targets = get_batch(columns, row, None, 9)
        _, hidden = ours(data, targets, hidden)
        reference.zero_grad()
        _, other, gradients = theirs.forward_backward(data, targets, other, share=1)
        for p, gradient in zip(theirs.parameters, gradients):
            p.grad = gradient
        torch.nn.utils.clip_grad_norm_(theirs.parameters, 0.25)
        rates[row] = reference.step()
    for a, b in zip(ours.parameters, theirs.parameters):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)     # the learning rate is a float32


class HostReads(TorchDispatchMode):
    """Notes every operation that on a GPU would make the host wait for a value."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal") or (
                name.startswith("index") and any(getattr(i, "dtype", None) == torch.bool for i in tree_leaves(args))):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("optimizer", ["sgd", "fused adam"])
@pytest.mark.parametrize("pdr", [0, 0.5])
def test_the_host_reads_nothing_in_a_step(cell, optimizer, pdr):
    step, columns = make(cell, optimizer, pdr=pdr), torch.randint(40, (100, 4))
    hidden = step.model.init_hidden(4)
    if optimizer == "sgd":
        step.optimizer.start_averaging()
    for row in (0, 9):
        data, targets = get_batch(columns, row, None, 9)
        with HostReads() as reads:
            _, hidden = step(data, targets, hidden)
        assert reads.found == []
    step = make(cell, "adam")                 # which cannot follow scalars on the device
    with HostReads() as reads:
        step(data, targets, hidden)
    assert reads.found


# ---- the layer whose weights lie in one padded buffer

@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("steps, columns, inputs, width",
                         [(9, 5, 37, 50), (1, 1, 3, 1), (3, 25, 8, 33), (4, 2, 16, 64)])
@pytest.mark.parametrize("types, tolerance", [((torch.float64, None), 1e-13), ((torch.float32, None), 1e-6),
                                              ((torch.float32, torch.bfloat16), 3e-2)])
def test_a_padded_layer_equals_torchs_module(kind, steps, columns, inputs, width, types, tolerance):
    torch.manual_seed(1)
    reference = getattr(nn, kind)(inputs, width).double()
    weights = [reference.weight_ih_l0, reference.weight_hh_l0, reference.bias_ih_l0, reference.bias_hh_l0]
    leaves = [torch.randn(steps, columns, inputs).double(), *torch.randn(2, 1, columns, width).double()]

    def run(function, dtype):
        x, h, c, *ws = [t.detach().to(dtype).requires_grad_() for t in (*leaves, *weights)]
        output, hidden = function(x, (h, c) if kind == "LSTM" else h, *ws)
        ends = flat_hidden(hidden)
        total = (output * torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)).sum()
        total = total + sum((end.pow(2)).sum() for end in ends)
        differentiated = [x, h, *([c] if kind == "LSTM" else []), *ws]
        return [output, *ends, *torch.autograd.grad(total, differentiated)]

    def module(x, hidden, *ws):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return torch.func.functional_call(reference, dict(zip(names, ws)), (x, hidden))

    found = run(lambda x, hidden, *ws: recur_flat(kind, x, hidden, *ws, dtype=types[1]), types[0])
    for a, b in zip(found, run(module, torch.float64), strict=True):
        assert a.dtype == types[0] and a.shape == b.shape
        assert (a.double() - b).norm() <= tolerance * b.norm().clamp(min=0.1)


def test_the_buffer_is_as_cudnn_wants_it():
    """Matrices, then biases, one after another from the start of one buffer, in rows aligned to 16 bytes."""
    from ops.cudnn import _Flat
    layer = nn.LSTM(30, 21)
    for dtype in (torch.float32, torch.bfloat16):
        views = _Flat.apply(dtype, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
        assert [tuple(view.shape) for view in views] == [(96, 32), (96, 24), (96,), (96,)]
        end = views[0].untyped_storage().data_ptr()
        for view in views:
            assert view.data_ptr() == end and view.is_contiguous() and view.dtype == dtype
            end += view.numel() * view.element_size()
        assert end == views[0].untyped_storage().data_ptr() + views[0].untyped_storage().nbytes()
        assert torch.count_nonzero(views[1].view(4, 24, 24)[:, 21:]) == torch.count_nonzero(views[0][:, 30:]) == 0


def test_word_vectors_as_on_a_gpu(monkeypatch):
    """What a GPU computes for an embedding, here by telling it that its weight were there."""
    table, words = WordVectors(20, 6, padding_idx=19), torch.randint(20, (7, 3))
    words[2, 1] = 19
    plain = nn.Embedding(20, 6, padding_idx=19)
    plain.load_state_dict(table.state_dict())
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    results = []
    for embed in (table, plain):
        torch.manual_seed(2)
        vectors = embedded_dropout(embed, words, 0.3)
        results.append((vectors, *torch.autograd.grad(vectors.pow(3).sum(), embed.weight)))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
    assert torch.count_nonzero(results[0][0][2, 1] == table.weight[19] / 0.7) in (0, 6)
    assert not results[0][1][19].any()


def test_main_leaves_adam_as_this_machine_computes_it():
    args = optimizers.resolve(options.parse(main.make_parser(), ["--optimizer", "adam"]))
    optimizer = optimizers.make(args, nn.Linear(3, 2))
    assert optimizer.param_groups[0]["fused"]
