"""The QRNN against a naive loop in float64, and its kernel on the CPU, thread by thread."""
import ctypes
import json
import shlex
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT, SMALL

import main
from cells import QRNN
from model import RNNModel
from ops import compiled
from ops.pooling import pool
from runtime import options
from utils import flat_hidden


def naive(layer, x, hidden):
    """Bradbury et al. 2017, equations 3 to 5, one column and one step at a time."""
    c, before = hidden if layer.width == 2 else (hidden, None)
    H, outputs = layer.hidden_size, torch.empty(*x.shape[:2], layer.hidden_size, dtype=x.dtype)
    ends = torch.empty_like(c)
    for b in range(x.size(1)):
        state, last = c[0, b], None if before is None else before[0, b]
        for t in range(len(x)):
            seen = x[t, b] if last is None else torch.cat([x[t, b], last])
            gates = layer.linear.weight @ seen + layer.linear.bias
            z, f, o = gates[:H].tanh(), gates[H:2 * H].sigmoid(), gates[2 * H:].sigmoid()
            state = f * state + (1 - f) * z
            outputs[t, b] = o * state
            last = None if last is None else x[t, b]
        ends[0, b] = state
    return outputs, ends if before is None else (ends, x[-1:])


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("steps, columns, inputs, width", [(1, 1, 3, 2), (7, 3, 5, 4), (12, 2, 4, 9)])
def test_the_layer_equals_a_naive_loop(window, steps, columns, inputs, width):
    torch.manual_seed(0)
    layer = QRNN(inputs, width, layer=2 - window).double()
    x, c = torch.randn(steps, columns, inputs).double(), torch.randn(1, columns, width).double()
    before = torch.randn(1, columns, inputs).double()
    leaves = [t.requires_grad_() for t in ([x, c, before] if window == 2 else [x, c])]
    results = []
    for function in (layer, lambda *given: naive(layer, *given)):
        output, hidden = function(x, (c, before) if window == 2 else c)
        ends = flat_hidden(hidden)
        total = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
        total = total + sum(end.pow(2).sum() for end in ends)
        results.append([output, *ends, *torch.autograd.grad(total, [*leaves, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_pooling():
    shapes = (6, 2, 3), (6, 2, 3), (2, 3)
    f, z, start = (torch.rand(shape, dtype=torch.double, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(pool, (f, z, start))


def test_the_first_layer_sees_the_input_before_the_window():
    model = RNNModel("QRNN", 40, 10, 14, 3).eval()
    data = torch.randint(40, (12, 4))
    whole, end = model(data, model.init_hidden(4))
    first, hidden = model(data[:5], model.init_hidden(4))
    second, hidden = model(data[5:], hidden)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    for a, b in zip(flat_hidden(hidden), flat_hidden(end), strict=True):
        torch.testing.assert_close(a, b)
    other = [(hidden[0][0], hidden[0][1] + 1), *hidden[1:]]
    assert not torch.equal(model(data[:1], other)[0], model(data[:1], hidden)[0])


def test_weight_drop_is_on_the_linear_map_in_training_only():
    torch.manual_seed(0)
    model = RNNModel("QRNN", 40, 10, 14, 2, 0, 0, 0, 0, wdrop=0.5)
    data = torch.randint(40, (12, 4))
    one, other = (model(data, model.init_hidden(4))[0] for _ in range(2))
    assert not torch.equal(one, other)
    model.eval()
    assert torch.equal(*(model(data, model.init_hidden(4))[0] for _ in range(2)))


def test_bfloat16_is_near():
    torch.manual_seed(0)
    layer, x = QRNN(30, 50), torch.randn(9, 4, 30)
    hidden = (torch.randn(1, 4, 50), torch.randn(1, 4, 30))
    exact = layer(x, hidden)[0]
    layer.matmul_dtype = torch.bfloat16
    near = layer(x, hidden)[0]
    assert near.dtype == torch.float32 and 0 < (near - exact).norm() < 1e-2 * exact.norm()


COMMANDS = """
    --model QRNN --batch_size 20 --clip 0.2 --wdrop 0.1 --nhid 1550 --nlayers 4 --emsize 400 --dropouth 0.3 --seed 9001 --dropouti 0.4 --epochs 550 --save PTB.pt
    --epochs 14 --nlayers 4 --emsize 400 --nhid 2500 --alpha 0 --beta 0 --dropoute 0 --dropouth 0.1 --dropouti 0.1 --dropout 0.1 --wdrop 0 --wdecay 0 --bptt 140 --batch_size 60 --optimizer adam --lr 1e-3 --data data/wikitext-103 --save WT103.12hr.QRNN.pt --when 12 --model QRNN
""".strip().splitlines()  # noqa: E501 - as people have them in their notes


@pytest.mark.parametrize("command", COMMANDS)
def test_published_commands(command, toy, call, tmp_path):
    """As they stand, and run on a small text in a small size."""
    words = shlex.split(command)
    args = options.parse(main.make_parser(), words)
    assert (args.model, args.nlayers, args.nhid) in (("QRNN", 4, 1550), ("QRNN", 4, 2500))
    small = ["--data", toy, *SMALL[:4], "--nlayers", 4, *SMALL[6:10], "--device", "cpu", "--epochs", 1,
             "--save", "q.pt"]
    call("main.py", *words, *small)
    state = torch.load(tmp_path / "q.pt", weights_only=True)["model"]
    assert state["rnns.0.linear.weight"].shape == (3 * 48, 2 * 24) and state["rnns.3.linear.weight"].shape == (72, 48)
    call("finetune.py", "--save", "q.pt", "--epochs", 1, "--device", "cpu")
    assert "End of pointer" in call("pointer.py", "--save", "q.pt", "--window", 40, "--device", "cpu")
    call("generate.py", "--save", "q.pt", "--words", 5, "--outf", "a.txt", "--device", "cpu")
    assert json.loads((tmp_path / "q.jsonl").read_text())["valid_loss"] < 10


# ---- the kernel

def test_pooling_by_the_kernel(tmp_path, monkeypatch):
    if not shutil.which("g++"):
        pytest.skip("no g++ here")
    pointers = ["const float*"] * 3 + ["float*"], ["const float*"] * 5 + ["float*"] * 3
    program = f'#include "{ROOT}/tests/ops/block_of_threads.h"\n#include "{ROOT}/ops/kernels/pooling.cu"\n'
    for name, kinds in zip(("pool_forward", "pool_backward"), pointers):
        named = [f"{kind} p{i}" for i, kind in enumerate(kinds)]
        program += (f'extern "C" void run_{name}(unsigned blocks, unsigned threads, {", ".join(named)}, int s, int u)\n'
                    f'{{ launch(blocks, threads, {name}, {", ".join(f"p{i}" for i in range(len(kinds)))}, s, u); }}\n')
    (tmp_path / "a.cpp").write_text(program)
    subprocess.run(["g++", "-std=c++20", "-O1", "-pthread", "-shared", "-fPIC", "-o", tmp_path / "a.so",
                    tmp_path / "a.cpp"], check=True)
    library, runs = ctypes.CDLL(str(tmp_path / "a.so")), []

    def launch(source, name, threads, *arguments, block=8):
        runs.append(name)
        getattr(library, f"run_{name}")(-(-threads // block), block, *(
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in arguments))
        return True

    f, z, start = torch.rand(9, 3, 7), torch.randn(9, 3, 7), torch.randn(3, 7)
    results = []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(compiled, "launch", launch)
        leaves = [t.clone().requires_grad_() for t in (f, z, start)]
        c = pool(*leaves)
        results.append([c, *torch.autograd.grad((c * torch.linspace(-1, 1, c.numel()).view_as(c)).sum(), leaves)])
    assert runs == ["pool_forward", "pool_backward"]
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
