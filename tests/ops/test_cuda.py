"""What only a GPU can show. Without one, all of it is skipped.

Where a GPU is there for minutes, `-m essential` is a choice of a minute: arithmetic, graphs, no waiting, resuming.
"""
import functools
import itertools
import json
import math
import os
import warnings

import pytest
import torch
from conftest import SMALL, run_script

import splitcross
from evaluation.loss import evaluate, window_loss
from model import build, set_precision
from nt_asgd import NTASGD
from ops import fused_softmax
from ops.graphs import Graphs, Recording
from runtime.devices import pick_precision
from runtime.processes import single_process_group
from training import step as train_step
from training.compose import compose
from training.self_check import check_graphs
from utils import flat_hidden, get_batch

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
PTB = {"model": "LSTM", "emsize": 400, "nhid": 1150, "nlayers": 3, "tied": True, "cutoffs": []}
TOY = {**PTB, "emsize": 24, "nhid": 50, "nlayers": 2}
DROPOUTS = {"dropout": 0.4, "dropouth": 0.25, "dropouti": 0.4, "dropoute": 0.1, "wdrop": 0.5, "dropoutr": 0.0}
NO_DROPOUTS = dict.fromkeys(DROPOUTS, 0.0)
TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 2e-2}    # Hopper may truncate what tf32 drops
ON_GPU = [{"cpu": "cuda", "fp32": "auto"}.get(word, word) for word in SMALL]


def allow(precision):
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


@pytest.fixture(autouse=True)
def as_before():
    yield
    allow("fp32")


def make(settings, words, precision, dropouts, optimizer="sgd", graphs=False, seed=5, bptt=70, group=None):
    """A step on the GPU with weights that depend on the seed alone."""
    torch.manual_seed(seed)
    allow(precision)
    model = set_precision(build({**settings, **dropouts}, words).cuda(), precision)
    parameters = model.parameters()
    optimizer = (NTASGD(parameters, lr=10, weight_decay=1.2e-6) if optimizer == "sgd" else
                 torch.optim.Adam(parameters, lr=1e-3, fused=True))
    step = train_step.TrainStep(model, optimizer, bptt=bptt, clip=0.25, alpha=2, beta=1)
    return compose(step, group, Recording() if graphs else None)


def train(step, columns, lengths, bad=()):
    torch.manual_seed(6)
    hidden, losses, row = step.model.init_hidden(columns.size(1)), [], 0
    for i, length in enumerate(lengths):
        if i == len(lengths) // 2 and isinstance(step.optimizer, NTASGD):
            step.optimizer.start_averaging()
        if i in bad:
            for h in flat_hidden(hidden):
                h.fill_(math.nan)
        loss, hidden = step(*get_batch(columns, row, None, length), hidden)
        if i in bad:
            hidden = step.model.init_hidden(columns.size(1))
        losses.append(loss)
        row += length
    return torch.stack(losses)


def learnable(rows, columns):
    """A text of 30 words (rows, columns) in which a word leaves two successors."""
    torch.manual_seed(4)
    text = [torch.randint(30, (columns,))]
    for _ in range(rows - 1):
        text.append((7 * text[-1] + torch.randint(2, (columns,))) % 30)
    return torch.stack(text).cuda()


STEPS = [pytest.param(*case, marks=[pytest.mark.essential] if case in (
    ("LSTM", "sgd", "tf32"), ("LSTM", "adam", "tf32"), ("LSTM", "adam", "bf16"), ("GRU", "sgd", "tf32"),
    ("QRNN", "sgd", "tf32")) else [])
    for case in itertools.product(("LSTM", "GRU", "QRNN"), ("sgd", "adam"), ("fp32", "tf32", "bf16"))]


@pytest.mark.parametrize(("model", "optimizer", "precision"), STEPS)
def test_graphs_equal_eager_steps(model, optimizer, precision):
    """Losses over 200 steps with dropout on: the same random numbers, so the same curve within rounding."""
    columns, lengths = learnable(2400, 20), [12, 9, 12, 15, 9, 12, 12, 5, 9, 12] * 20
    eager, recorded = (train(make({**TOY, "model": model}, 30, precision, DROPOUTS, optimizer, graphs, bptt=12),
                             columns, lengths, bad=(7, 50, 120)) for graphs in (False, True))
    assert eager.isnan().nonzero().flatten().tolist() == recorded.isnan().nonzero().flatten().tolist() == [7, 50, 120]
    eager, recorded = eager[~eager.isnan()], recorded[~recorded.isnan()]
    assert eager[-20:].mean() < 0.95 * eager[:20].mean()                      # something was learnt: steps matter
    torch.testing.assert_close(recorded[:20], eager[:20], rtol=2e-3 if precision == "bf16" else 1e-4, atol=0)
    torch.testing.assert_close(recorded[-20:].mean(), eager[-20:].mean(), rtol=2e-2, atol=0)  # rounding has grown


@pytest.mark.essential
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_does_not_wait_for_the_gpu_nor_copy_its_weights(optimizer, graphs, precision):
    step = make(PTB, 10_000, precision, DROPOUTS, optimizer, graphs)
    columns = torch.randint(10_000, (300, 20), device="cuda")
    hidden = step.model.init_hidden(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")       # torch warns of weights that are not one chunk of memory
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        for i in range(4):
            data, targets = get_batch(columns, 0, None, 70)
            try:
                if i >= 2:
                    torch.cuda.set_sync_debug_mode("error")
                loss, hidden = step(data, targets, hidden)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_all_reduce_can_be_recorded(optimizer):
    """NCCL's sum over all processes, of which there is one: the steps are those without it."""
    alone, found = single_process_group(), []
    try:
        for group in (None, alone):
            step = make(TOY, 30, "fp32", NO_DROPOUTS, optimizer, graphs=True, group=group)
            found.append(train(step, learnable(400, 20), [9, 7] * 12))
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(*found, rtol=1e-4, atol=0)
    assert found[0][-1] < found[0][0]


def test_wide_batches_can_be_recorded():
    """More than 3072 words in a window: torch's own gradient of an embedding cannot be."""
    step = make(TOY, 500, "tf32", DROPOUTS, graphs=True)
    assert train(step, torch.randint(500, (400, 80), device="cuda"), [70] * 5).isfinite().all()


@functools.cache
def in_float64(model):
    """A window, its targets, and the loss and gradients that the CPU computes in float64, at the paper's size."""
    exact = make({**PTB, "model": model}, 10_000, "fp32", NO_DROPOUTS)
    exact.model.cpu().double()
    exact.model.softmax.fused = None
    exact.parameters = list(exact.model.parameters())
    data, targets = torch.randint(10_000, (35, 20)), torch.randint(10_000, (700,))
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, os.cpu_count() // 4))     # tests run four at a time
    loss, _, gradients = exact.forward_backward(data, targets, exact.model.init_hidden(20), 1)
    torch.set_num_threads(threads)
    return data, targets, loss, gradients


@pytest.mark.essential
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("model", ["LSTM", "GRU", "QRNN"])
def test_gradients_against_float64(model, precision):
    """At the paper's size, padded widths and all."""
    data, targets, exact_loss, exact = in_float64(model)
    step = make({**PTB, "model": model}, 10_000, precision, NO_DROPOUTS)
    loss, _, gradients = step.forward_backward(data.cuda(), targets.cuda(), step.model.init_hidden(20), 1)
    assert abs(loss.cpu() - exact_loss) <= TOLERANCES[precision] * exact_loss
    for a, b in zip(gradients, exact):
        assert (a.cpu() - b).norm() <= TOLERANCES[precision] * b.norm()


@pytest.mark.essential
def test_the_softmax_kernel_is_there_and_right():
    assert fused_softmax.available(0)        # which has compared it with torch
    x, weight = torch.randn(300, 40, device="cuda"), torch.randn(33_278, 40, device="cuda")
    bias, targets = torch.randn(33_278, device="cuda"), torch.randint(33_278, (300,), device="cuda")
    expected = splitcross._softmax(*(t.double() for t in (x, weight, bias)), targets, torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        found = fused_softmax.fused_softmax(x @ weight.t(), bias, targets, dtype)
        for a, b in zip(found, expected):
            assert (a - b).norm() <= (1e-5 if a.dtype == torch.float32 else 4e-3) * b.norm()


def test_evaluation_by_graphs():
    step = make(TOY, 200, "fp32", NO_DROPOUTS)
    columns = torch.randint(200, (300, 10), device="cuda")
    score = Graphs(window_loss(step.model), "cuda")
    for _ in range(3):
        plain = evaluate(step.model, columns, 70)
        assert evaluate(step.model, columns, 70, loss_of=score) == pytest.approx(plain, rel=1e-5)
        train(step, columns, [10] * 4)


def test_auto_is_tf32_on_cards_that_have_it():
    has_tf32 = torch.cuda.get_device_capability()[0] >= 8
    assert pick_precision("auto", "cuda", False)[0] == ("tf32" if has_tf32 else "fp32")


ADAM = ["--optimizer", "adam", "--lr", "0.01"]


@pytest.mark.parametrize("flags", [
    pytest.param([], marks=pytest.mark.essential), ["--no-graphs"], ADAM,
    pytest.param([*ADAM, "--one-cycle", "1", "1", "1", "1"], marks=pytest.mark.essential), ["--model", "GRU"],
    ["--model", "QRNN"], ["--dropoutr", "0.2"], ["--dropoutr", "0.2", "--dropouti", "0.2", "--untied-masks"],
    ["--cutoffs", "10", "20"], ["--precision", "bf16"]], ids=" ".join)
def test_a_run_continued_on_the_gpu(flags, toy, call, tmp_path):
    """Stopped between epochs and continued: the curve of a run never stopped, within rounding."""
    def losses(name):
        return [json.loads(line)["valid_loss"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]

    common = ["--data", toy, *ON_GPU, *flags]
    call("main.py", *common, "--epochs", 4, "--save", "whole.pt")
    call("main.py", *common, "--epochs", 2, "--save", "parts.pt")
    call("main.py", *common, "--epochs", 4, "--save", "parts.pt", "--resume", "auto")
    assert losses("parts") == pytest.approx(losses("whole"), rel=5e-2)    # rounding grows, and differs: sums by atomics


def test_scripts_on_the_gpu(toy, tmp_path):
    """As a user runs them, in processes of their own, and from the GPU to the CPU and back."""
    run_script("main.py", "--data", toy, *ON_GPU, "--epochs", 2, "--save", "a.pt", cwd=tmp_path)
    run_script("finetune.py", "--save", "a.pt", "--epochs", 2, cwd=tmp_path)
    for device in ("cuda", "cpu"):
        run_script("pointer.py", "--save", "a.pt", "--window", 50, "--device", device, cwd=tmp_path)
    run_script("dynamiceval.py", "--save", "a.pt", "--split", "test", cwd=tmp_path)
    run_script("generate.py", "--save", "a.pt", "--words", 20, "--outf", "-", cwd=tmp_path)


@pytest.mark.essential
def test_the_self_check_agrees():
    assert check_graphs(torch.device("cuda", 0)) is None
