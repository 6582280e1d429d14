"""The recurrence of the CPU and reduced precision, against torch's own modules and float64."""
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL, run_script, take_form
from steps_in_torch import Steps
from torch import nn

import ops.packed
from cells import CELLS
from model import RNNModel, build, set_precision
from nt_asgd import NTASGD
from ops import compiled, recurrence
from ops.packed import packed
from ops.recurrence import recur
from ops.window import Window
from runtime import devices
from training.step import TrainStep
from utils import flat_hidden

MODULES = {"LSTM": nn.LSTM, "GRU": nn.GRU}


def needs_compiler():
    """Skip where there is none; where there is one, it must be able to compile the kernels."""
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler here")
    assert all(map(compiled.library, ("cells", "window", "product")))


@pytest.fixture
def compiler():
    needs_compiler()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("steps_, columns, inputs, width",
                         [(9, 5, 37, 50), (1, 1, 3, 1), (3, 25, 8, 33), (40, 2, 70, 64)])
@pytest.mark.parametrize("dtype, tolerance", [(None, 3e-6), (torch.bfloat16, 1.5e-2)])
def test_equals_torchs_module(compiler, kind, steps_, columns, inputs, width, dtype, tolerance):
    torch.manual_seed(1)
    reference = MODULES[kind](inputs, width).double()
    weights = [reference.weight_ih_l0, reference.weight_hh_l0, reference.bias_ih_l0, reference.bias_hh_l0]
    leaves = [torch.randn(steps_, columns, inputs).double(), *torch.randn(2, 1, columns, width).double()]

    def run(function, dtype):
        x, h, c, *ws = [t.detach().to(dtype).requires_grad_() for t in (*leaves, *weights)]
        output, hidden = function(x, (h, c) if kind == "LSTM" else h, *ws)
        ends = hidden if kind == "LSTM" else (hidden, hidden)
        loss = (output * torch.arange(output.numel()).view_as(output).cos()).sum() + (ends[0] ** 2 - ends[1] ** 3).sum()
        used = [x, h, *([c] if kind == "LSTM" else []), *ws]
        return [output.detach(), *torch.autograd.grad(loss, used)]

    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    expected = run(lambda x, h, *ws: torch.func.functional_call(reference, dict(zip(names, ws)), (x, h)), torch.float64)
    found = run(lambda x, h, *ws: recur(kind, x, h, *ws, dtype=dtype), torch.float32)
    assert all(f.dtype == torch.float32 for f in found)
    for f, w in zip(found, expected):
        assert relative(f.double(), w) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [f"{kind}_{way}" for kind in ("lstm", "capped_lstm", "coupled_lstm", "gru")
                                  for way in ("forward", "backward")])
def test_compiled_steps_are_those_in_torch(name, dtype):
    """Also where the nonlinearities saturate, at zero, and where numbers have ceased to be numbers."""
    needs_compiler()
    columns, width = 7, 33
    gates = 3 if name.startswith(("gru", "coupled")) else 4
    shapes = {"lstm_forward": [gates, gates, 0, gates, 1, 1, 1, 1], "lstm_backward": [1, 1, 1, gates, 1, 1, gates],
              "gru_forward": [3, 3, 0, 0, 4, 1, 1, 1], "gru_backward": [1, 1, 1, 4, 1, 3, 3]}
    in_dtype = {"lstm_forward": (0, 1, 7), "lstm_backward": (1, 6), "gru_forward": (0, 1, 7), "gru_backward": (1, 5, 6)}
    shapes, in_dtype = (table[name.removeprefix("capped_").removeprefix("coupled_")] for table in (shapes, in_dtype))
    torch.manual_seed(2)
    given = numbers_of(shapes, in_dtype, columns, width, gates, dtype)
    if "backward" in name:
        given[3] = given[3].sigmoid()
    if name == "coupled_lstm_forward":      # its forget gate is 0 there, to rounding: no number times an infinite cell
        given[4][3, 2] = 1
    compare_steps(name, given, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "shapes", "in_dtype", "missing"), [
    ("highway_forward", [2, 2, 0, 1, 2, 1, 1, 1], (0, 1, 7), (0, 3)),
    ("highway_backward", [1, 1, 1, 2, 1, 1, 2], (1, 6), (0, 2)),
    ("scaling_forward", [1, 0, 1, 1, 1, 1], (0, 5), ()), ("scaling_backward", [1, 1, 1, 1, 1], (0, 4), (0,)),
    ("state_gradient", [1, 1, 1, 1, 1], (1,), (1, 3))])
def test_compiled_steps_of_other_cells_are_those_in_torch(name, shapes, in_dtype, missing, dtype):
    """With all that may be missing there, and without."""
    needs_compiler()
    gates = 2 if "highway" in name else 1
    given = numbers_of(shapes, in_dtype, 7, 33, gates, dtype)
    if "backward" in name:
        given[-4] = given[-4].sigmoid()
    else:               # a gate is 0 to rounding alone: no number times an infinite state
        given[-3].nan_to_num_(1, 1, 1)
    compare_steps(name, given, dtype)
    compare_steps(name, [None if place in missing else tensor for place, tensor in enumerate(given)], dtype)


def numbers_of(shapes, in_dtype, columns, width, gates, dtype):
    given = []
    for place, n in enumerate(shapes):
        tensor = torch.randn(gates * width)             # a bias
        if n:
            tensor = torch.randn(columns, n * width) * 10 ** torch.empty(columns, n * width).uniform_(-4, 2)
            tensor[0], tensor[1, 0], tensor[2, 1], tensor[3, 2] = 0, math.nan, math.inf, -math.inf
        given.append(tensor.to(dtype) if place in in_dtype else tensor)
    return given


def compare_steps(name, given, dtype):
    ours, theirs = ([None if t is None else t.clone() for t in given] for _ in range(2))
    window = Window(1, dtype)
    window.step(name, *ours)
    window.run()
    getattr(Steps, name)(*theirs)
    for a, b in zip(ours, theirs):
        if a is None:
            continue
        torch.testing.assert_close(a, b, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("rows", [1, 2, 6, 7, 12, 13, 20, 25, 80])
@pytest.mark.parametrize("outputs, inputs", [(1, 1), (31, 7), (32, 16), (33, 40), (200, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_torch", [False, True])
def test_packed_products(in_torch, rows, outputs, inputs, dtype, monkeypatch):
    take_form(in_torch, "product", monkeypatch)
    weight, x = torch.randn(outputs, inputs).to(dtype), torch.randn(rows, inputs).to(dtype)
    for w in (weight, weight.t().contiguous().t()):
        expected = x.double() @ w.double().t()
        assert relative(packed(w, rows)(x).double(), expected) < {torch.float64: 1e-14, torch.float32: 1e-6,
                                                                  torch.bfloat16: 1e-2}[dtype]


def test_small_weights_in_bfloat16_are_multiplied_by_our_own_product():
    needs_compiler()
    ways = ops.packed._ways(torch.zeros(100, 20, dtype=torch.bfloat16))
    assert next(iter(ways)) == "panels" and "panels" not in ops.packed._ways(torch.zeros(600, 200).bfloat16())


def test_a_second_backward_pass_is_refused(compiler):
    rnn, x = nn.LSTM(3, 4), torch.randn(2, 1, 3)
    output, _ = recur("LSTM", x, (torch.zeros(1, 1, 4),) * 2, *rnn.parameters())
    output.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        output.sum().backward()


@pytest.mark.parametrize("cell", MODULES)
@pytest.mark.parametrize("splits", [[], [20, 60]])
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 2e-2)])
def test_loss_and_gradients_against_float64(cell, splits, precision, tolerance):
    compare_with_float64(cell, 100, splits, 24, 40, 3, 12, 6, precision, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 2e-2)])
def test_loss_and_gradients_at_full_size(precision, tolerance):
    """Penn Treebank's size: relative error of the loss and of every single gradient."""
    torch.set_num_threads(2)
    compare_with_float64("LSTM", 10_000, [], 400, 1150, 3, 70, 20, precision, tolerance)
    torch.set_num_threads(1)


def compare_with_float64(cell, words, splits, emsize, nhid, nlayers, bptt, columns, precision, tolerance):
    torch.manual_seed(3)
    ours = RNNModel(cell, words, emsize, nhid, nlayers, 0, 0, 0, 0, 0, cutoffs=splits)
    exact = RNNModel(cell, words, emsize, nhid, nlayers, 0, 0, 0, 0, 0, cutoffs=splits).double()
    data, targets = torch.randint(words, (bptt, columns)), torch.randint(words, (bptt * columns,))
    exact.load_state_dict(ours.state_dict())
    set_precision(ours, precision)
    losses = []
    for model in (ours, exact):
        features, _ = model(data, model.init_hidden(columns))
        losses.append(model.loss(features, targets))
        losses[-1].backward()
    assert losses[0].dtype == torch.float32 and relative(losses[0].double(), losses[1]) < tolerance
    for (name, parameter), other in zip(ours.named_parameters(), exact.parameters()):
        assert relative(parameter.grad.double(), other.grad) < tolerance, name


@pytest.mark.parametrize("cell", MODULES)
def test_training_in_bf16_learns(cell):
    """Two words that take turns: the loss must fall to nearly nothing, with every dropout of the recipe's kind on."""
    torch.manual_seed(4)
    settings = dict(model=cell, emsize=16, nhid=32, nlayers=2, tied=True, cutoffs=[], dropout=0.1, dropouth=0.1,
                    dropouti=0.1, dropoute=0.1, wdrop=0.3, dropoutr=0.1)
    model = set_precision(build(settings, 10), "bf16")
    step = TrainStep(model, NTASGD(model.parameters(), lr=5), bptt=8, clip=0.25, alpha=0, beta=0)
    data = torch.arange(9)[:, None] % 2 + torch.tensor([[3, 3, 3, 3]])
    for _ in range(150):
        loss, _ = step(data[:-1], data[1:].flatten(), model.init_hidden(4))
    assert loss < 0.2 and all(p.dtype == torch.float32 for p in model.parameters())


def test_no_compiler_costs_nothing_but_time(tmp_path):
    """Without a compiler, and with one that fails, results are those of the compiled steps to rounding.

    It is said where compiling fails: another compiler, or folder, helps. A damaged file is compiled anew.
    """
    needs_compiler()
    program = ("import torch\nfrom cells import CELLS\nfrom ops import compiled\ntorch.manual_seed(0)\n"
               "r = CELLS['GRU'](5, 6, settings={'dropoutr': 0.5})\n"
               "y, h = r(torch.randn(4, 3, 5), torch.zeros(1, 3, 6))\n"
               "print(compiled.library('cells') is None, y.double().sum().item())")
    said = []
    (tmp_path / "file").touch()
    for folder, extra, warning in [
            ("a", {}, ""), ("a", {}, ""), ("b", {"AWD_LSTM_NATIVE": "0"}, ""),
            ("c", {"CXX": "false"}, "false does not compile them"),
            ("c", {"CXX": "/no/such/compiler"}, "/no/such/compiler does not compile them"),
            ("file", {}, f"{tmp_path}/file: File exists; $AWD_LSTM_CACHE names another folder")]:
        env = {**os.environ, "AWD_LSTM_CACHE": str(tmp_path / folder), **extra}
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True,
                              check=True)
        assert warning in done.stderr and done.stderr.count("UserWarning") == bool(warning)
        said.append(done.stdout.split())
        for kept in (tmp_path / folder).glob("*.so"):
            kept.write_bytes(b"")
    assert [missing for missing, _ in said] == ["False", "False", "True", "True", "True", "True"]
    assert all(abs(float(total) - float(said[0][1])) < 1e-5 for _, total in said)


@pytest.mark.parametrize(("features", "limit", "expected"), [
    ((), None, ""), (("avx512_bf16",), None, "AVX512_BF16"), (("avx512_bf16", "amx_tile"), None, "AMX"),
    (("avx512_bf16", "amx_tile"), "AVX512_CORE_BF16", "AVX512_BF16"), (("avx512_bf16", "amx_tile"), "AVX512_CORE", ""),
    (("avx512_bf16",), "AVX512_CORE_VNNI", ""), (("avx512_bf16",), "avx2", ""),
    (("avx512_bf16",), "ALL", "AVX512_BF16"),
    (("avx512_bf16", "amx_tile"), "AVX512_CORE_AMX", "AMX"), ((), "AVX512_CORE_AMX", "")])
def test_which_precision(features, limit, expected, monkeypatch):
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    for feature in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{feature}_supported", lambda there=feature in features: there)
    assert devices.bf16_instructions() == expected
    monkeypatch.setattr(devices, "bf16_speedup", lambda width, rows: 2.5)
    precision, reason = devices.pick_precision("auto", "cpu", False)
    assert precision == ("bf16" if expected else "fp32") and expected in reason
    assert devices.pick_precision("auto", "cpu", False, has_bf16=False)[0] == "fp32"
    assert devices.pick_precision("auto", "cuda", False)[0] == "fp32"
    assert devices.pick_precision("bf16", "cpu", True) == ("bf16", "")
    assert devices.pick_precision("tf32", "cpu", False)[0] == "fp32"    # of a model that was trained on a GPU


@pytest.mark.parametrize(("large", "step", "expected"), [
    ((10, 3), (1, 0.5), "bf16"), ((10, 10), (1, 1), "fp32"), ((10, 20), (1, 1.9), "fp32"), ((10, 9), (1, 0.9), "fp32"),
    ((25.6, 25.6), (2, 0.5), "bf16"), ((25.6, 25.6), (1, 0.5), "fp32"), ((25.6, 12.8), (2, 3), "fp32"),
    ((25.6, 12.8), (0.2, 0.3), "bf16")])
def test_auto_takes_bf16_where_it_is_clearly_faster(large, step, expected, monkeypatch):
    """Of milliseconds, fp32's first: a large product counts four times for each of its 256 rows, that of a step twice
    for each of its rows."""
    rows, asked = 20, []

    def milliseconds(question, ways, seconds):
        asked.append(question)
        return dict(zip(ways, large if "(256, 100)" in question else step))

    monkeypatch.setattr(devices, "bf16_instructions", lambda: "AMX")
    monkeypatch.setattr(devices.fastest, "milliseconds", milliseconds)
    precision, reason = devices.pick_precision("auto", "cpu", False, width=100, rows=rows)
    fp32, bf16 = (4 * large[i] / 256 + 2 * step[i] / rows for i in (0, 1))
    assert precision == expected == ("bf16" if fp32 / bf16 >= devices.CLEARLY else "fp32")
    assert f"{fp32 / bf16:.2f} times as fast" in reason and "AMX" in reason
    assert len(asked) == 2 and "(20, 100)" in asked[1]


def test_what_the_products_really_take():
    """Both precisions of real products; the second answer is the remembered one."""
    first = devices.bf16_speedup(96, 4)
    assert first > 0 and devices.bf16_speedup(96, 4) == first


@pytest.mark.parametrize("limit", [None, "AVX512_CORE"])
def test_the_first_line_names_the_precision_and_why(limit, toy, tmp_path, monkeypatch):
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    instructions = devices.bf16_instructions()
    words = [word for pair in zip(SMALL[::2], SMALL[1::2]) if pair[0] != "--precision" for word in pair]
    line, *_ = run_script("main.py", "--data", toy, *words, "--epochs", 1, cwd=tmp_path).stdout.splitlines()
    if not instructions:
        assert line.endswith("on cpu in fp32 (auto: no bf16 instructions in use)")
        return
    precision, speedup = re.search(rf"on cpu in (\w+) \(auto: with {instructions} products in bf16 are (\d+\.\d+) "
                                   r"times as fast as in fp32\)$", line).groups()
    assert precision == ("bf16" if float(speedup) >= devices.CLEARLY else "fp32")
    again, *_ = run_script("main.py", "--data", toy, *words, "--epochs", 1, cwd=tmp_path).stdout.splitlines()
    assert again == line                       # remembered: the same command computes the same
    resumed = run_script("main.py", "--epochs", 2, "--resume", "auto", cwd=tmp_path).stdout.splitlines()[0]
    assert resumed.endswith(f"on cpu in {precision}")


def test_precision_goes_with_the_model(toy, call, tmp_path):
    refused = run_script("main.py", "--data", toy, *SMALL, "--precision", "tf32", cwd=tmp_path, status=1)
    assert refused.stderr.count("\n") == 1 and "use fp32, bf16 or auto" in refused.stderr
    assert "on cpu in bf16" in call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--precision", "bf16",
                                    "--save", "a.pt")
    assert "on cpu in bf16" in call("main.py", "--epochs", 2, "--save", "a.pt", "--resume", "auto")
    assert "on cpu in bf16" in call("finetune.py", "--epochs", 1, "--save", "a.pt")
    losses = {}
    for words in ([], ["--precision", "fp32"]):
        said = call("pointer.py", "--save", "a.pt", "--window", 50, *words)
        assert f"on cpu in {'fp32' if words else 'bf16'}" in said
        losses[len(words)] = float(said.split("test ppl")[-1].split("|")[0])
    assert losses[0] == pytest.approx(losses[2], rel=1e-2)


# ---- dropout on the state

@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("types, tolerance", [((torch.float64, None), 1e-13), ((torch.float32, None), 3e-6),
                                              ((torch.float32, torch.bfloat16), 1.5e-2)])
def test_a_mask_on_the_state_against_a_naive_loop(kind, in_torch, types, tolerance, monkeypatch):
    """The same mask at every step, wherever the hidden-to-hidden weight meets the state, and nowhere else."""
    take_form(in_torch, "cells", monkeypatch)
    torch.manual_seed(1)
    T, B, E, H = 6, 5, 7, 33
    layer = CELLS[kind](E, H).to(types[0])
    layer.matmul_dtype, layer.state_mask = types[1], lambda state: mask.to(types[0])
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    weights = [getattr(layer, name).double() for name in names]
    leaves = [torch.randn(T, B, E).double(), *torch.randn(2, 1, B, H).double()]
    mask = (torch.rand(B, H) > 0.4).double() / 0.6

    def naive(x, hidden, w_ih, w_hh, b_ih, b_hh):
        h, c = (s[0] for s in hidden) if kind == "LSTM" else (hidden[0], None)
        outputs = []
        for x_t in x:
            a, b = x_t @ w_ih.t() + b_ih, (h * mask) @ w_hh.t() + b_hh
            if kind == "LSTM":
                i, f, g, o = (a + b).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
                z = (az + bz).sigmoid()
                h = (1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * h
            outputs.append(h)
        return torch.stack(outputs), (h[None], c[None]) if kind == "LSTM" else h[None]

    def run(function, dtype):
        x, h, c, *ws = [t.detach().to(dtype).requires_grad_() for t in (*leaves, *weights)]
        output, hidden = function(x, (h, c) if kind == "LSTM" else h, *ws)
        ends = hidden if kind == "LSTM" else (hidden,)
        total = (output * torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)).sum()
        total = total + sum(end.pow(2).sum() for end in ends)
        return [output, *ends, *torch.autograd.grad(total, [x, h, *([c] if kind == "LSTM" else []), *ws])]

    found = run(lambda x, h, *ws: torch.func.functional_call(layer, dict(zip(names, ws)), (x, h)), types[0])
    for a, b in zip(found, run(naive, torch.float64), strict=True):
        assert relative(a.double(), b) <= tolerance


# ---- which of several ways is taken

def test_a_processor_without_the_instructions_multiplies_without_onednn(monkeypatch):
    """As one with AVX2 alone does, where oneDNN refuses bf16: an error there is no end of a run."""
    def refuse(weight, rows):
        raise RuntimeError("bf16 path needs the cpu support avx512bw")

    ops.packed._onednn_multiplies.cache_clear()
    monkeypatch.setattr(ops.packed, "_by_onednn", refuse)
    try:
        assert "oneDNN" not in ops.packed._ways(torch.zeros(600, 200).bfloat16())
        weight, x = torch.randn(600, 200).bfloat16(), torch.randn(9, 200).bfloat16()
        assert torch.allclose(ops.packed.packed(weight, 9, 70)(x).float(), (x @ weight.t()).float(), atol=0.5)
    finally:
        ops.packed._onednn_multiplies.cache_clear()


@pytest.mark.parametrize(("times", "way"), [((1, 2, 3), "panels"), ((2, 1, 3), "oneDNN"), ((3, 2, 1), "plain"),
                                            (None, "panels")])
def test_the_fastest_product_is_taken(times, way, monkeypatch):
    """By replaced times; where these cannot be kept, the first. A small weight is not asked about."""
    needs_compiler()
    asked = []

    def milliseconds(question, ways, must_be_kept):
        assert must_be_kept
        asked.append(question)
        return times and dict(zip(ways, times))

    used = []
    ways = ops.packed._ways(torch.zeros(1, 1))
    assert list(ways) == ["panels", "oneDNN", "plain"]
    monkeypatch.setattr(ops.packed, "milliseconds", milliseconds)
    monkeypatch.setattr(ops.packed, "_ways", lambda weight: {
        name: lambda weight, rows, name=name: used.append(name) or ways[name](weight, rows) for name in ways})
    ops.packed._fastest_way.cache_clear()
    weight, x = torch.randn(300, 256), torch.randn(5, 256)
    assert relative(packed(weight, 5)(x), x @ weight.t()) < 1e-6 and used[-1] == way
    packed(weight, 7)(x)
    packed(weight[:3], 5)(x)
    assert len(asked) == 1 and used[-1] == "panels"          # 5 and 7 rows are both asked about as 8
    packed(weight, 9)(x)
    assert len(asked) == 2
    ops.packed._fastest_way.cache_clear()


def test_a_weight_that_is_used_a_few_times_is_not_laid_out(monkeypatch):
    """In float32, as by a segment of dynamic evaluation: forward, and backward with the weight across."""
    laid_out = []
    plain = {"plain": ops.packed._ways(torch.zeros(1, 1))["plain"]}
    monkeypatch.setattr(ops.packed, "_ways", lambda weight: {"panels": lambda *_: laid_out.append(1), **plain})
    weight, x = torch.randn(300, 256), torch.randn(1, 256)
    for w in (weight, weight.t().contiguous().t()):
        assert relative(packed(w, 1, 5)(x).double(), x.double() @ weight.double().t()) < 1e-6 and not laid_out
    monkeypatch.setattr(ops.packed, "_fastest_way", lambda *_: "panels")
    packed(weight, 1, recurrence.FEW)
    packed(weight.bfloat16(), 1, 5)
    assert len(laid_out) == 2


@pytest.mark.parametrize(("times", "pays"), [((1, 2), True), ((2, 1), False), (None, None)])
def test_a_layer_is_computed_by_what_is_faster(times, pays, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(recurrence, "milliseconds", lambda question, ways, **_: times and dict(zip(ways, times)))
    x = torch.zeros(recurrence.FEW, 2, 8)

    def answers(kind, gates):
        recurrence._pays.cache_clear()
        return [recurrence.pays(kind, x, torch.zeros(gates * width, width)) for width in (20, 120, 400)]

    assert answers("LSTM", 4) == [False, *([False, True] if pays is None else [pays, pays])]
    assert answers("GRU", 3) == [True if pays is None else pays] * 3
    recurrence._pays.cache_clear()
    assert not recurrence.pays("GRU", x.double(), torch.zeros(1200, 400).double())


@pytest.mark.parametrize("kind", MODULES)
def test_both_layers_that_are_timed_run(kind):
    """They are those of a model of that size, and what they are timed with leaves no gradient behind."""
    needs_compiler()
    state = torch.get_rng_state()
    with torch.no_grad():
        assert recurrence.pays(kind, torch.zeros(3, 2, 8), torch.zeros(480 if kind == "LSTM" else 360, 120)) in (0, 1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", MODULES)
def test_dropout_on_the_state_is_of_training_and_learns(kind):
    torch.manual_seed(0)
    model = RNNModel(kind, 40, 10, 14, 2, 0, 0, 0, 0, dropoutr=0.5)
    data, targets = torch.randint(40, (9, 4)), torch.randint(40, (36,))
    one, other = (model(data, model.init_hidden(4))[0] for _ in range(2))
    assert not torch.equal(one, other)
    step = TrainStep(model, NTASGD(model.parameters(), lr=2), bptt=9, clip=0.25, alpha=0, beta=0)
    losses = [step(data, targets, model.init_hidden(4))[0] for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    model.eval()
    plain = RNNModel(kind, 40, 10, 14, 2).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(*(m(data, m.init_hidden(4))[0] for m in (model, plain)))


def test_a_qrnn_has_no_state_to_drop(toy, tmp_path):
    said = run_script("main.py", "--data", toy, *SMALL, "--model", "QRNN", "--dropoutr", 0.2, "--save", "a.pt",
                      cwd=tmp_path, status=1).stderr
    assert "--dropoutr" in said and said.count("\n") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_without_a_graph_the_same_comes_out(compiler, kind, dtype):
    """There the gates of one step are written over by the next."""
    torch.manual_seed(4)
    gates, states = (4, 2) if kind == "LSTM" else (3, 1)
    hidden = [torch.randn(1, 3, 20) for _ in range(states)]
    x, weights = torch.randn(7, 3, 12), [torch.randn(gates * 20, *width) for width in ((12,), (20,), (), ())]
    start = tuple(hidden) if kind == "LSTM" else hidden[0]
    expected, expected_after = recur(kind, x, start, *(w.requires_grad_() for w in weights), dtype=dtype)
    with torch.no_grad():
        found, after = recur(kind, x, start, *weights, dtype=dtype)
    assert expected.requires_grad and not found.requires_grad
    assert torch.equal(found, expected) and all(map(torch.equal, flat_hidden(after), flat_hidden(expected_after)))
