"""CUDA kernels without a GPU: compiled for Hopper where there is nvcc, and run on the CPU, thread by thread."""
import ctypes
import math
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT
from torch.cuda._utils import _nvrtc_compile
from torch.utils import cpp_extension

import splitcross
from ops import compiled

SOURCE = ROOT / "ops" / "kernels" / "softmax.cu"
TYPES = {torch.float32: "softmax_float32", torch.bfloat16: "softmax_bfloat16"}


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc here")
@pytest.mark.parametrize("source", [SOURCE, ROOT / "ops" / "kernels" / "pooling.cu"], ids=lambda source: source.name)
def test_kernels_compile_for_hopper(source, tmp_path):
    done = subprocess.run(["nvcc", "-arch=sm_90", "-cubin", "-Xptxas", "-v", "-o", tmp_path / "kernel.cubin", source],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores" in done.stderr and "warning" not in done.stderr


@pytest.mark.skipif(torch.version.cuda is None, reason="torch comes without NVRTC")
@pytest.mark.parametrize("source, name", [("softmax", name) for name in TYPES.values()]
                                         + [("pooling", "pool_forward"), ("pooling", "pool_backward")])
def test_torchs_own_compiler_takes_the_kernels(source, name, monkeypatch):
    """As on a machine with a GPU and no CUDA toolkit; loading them is all that is left out."""
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    with compiled._nvrtc():
        text = (ROOT / "ops" / "kernels" / f"{source}.cu").read_text()
        binary, found = _nvrtc_compile(text, name, compute_capability="90")
    assert found == name and len(binary) > 1000


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernel as a library for the CPU: `emulated(name)(blocks, threads, *arguments)`."""
    if not shutil.which("g++"):
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("kernels")
    included = f'#include "{ROOT}/tests/ops/block_of_threads.h"\n#include "{SOURCE}"\n'
    (folder / "kernel.cpp").write_text(included + "".join(
        f'extern "C" void run_{name}(unsigned blocks, unsigned threads, const float* a, const float* b,\n'
        f"        const long long* c, float* d, float* e, {kind}* f, int g) {{\n"
        f"    launch(blocks, threads, {name}, a, b, c, d, e, f, g);\n}}\n"
        for name, kind in (("softmax_float32", "float"), ("softmax_bfloat16", "unsigned short"))))
    library = folder / "kernel.so"
    subprocess.run(["g++", "-std=c++20", "-O1", "-pthread", "-shared", "-fPIC", "-o", library, folder / "kernel.cpp"],
                   check=True)
    return ctypes.CDLL(str(library))


def launch(library, threads, logits, bias, targets, dtype, slope):
    logprobs, at_target = torch.full((2, len(logits)), 7.0)
    pointers = [ctypes.c_void_p(0 if tensor is None else tensor.data_ptr())
                for tensor in (logits, bias, targets, logprobs, at_target, slope)]
    getattr(library, f"run_{TYPES[dtype]}")(len(logits), threads, *pointers, logits.size(1))
    return logprobs, at_target


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("words, threads, spread", [(1, 4, 1), (3, 8, 1), (100, 16, 5), (333, 64, 30), (64, 64, 200)])
def test_the_kernel_computes_the_softmax(emulated, dtype, words, threads, spread):
    torch.manual_seed(words)
    n = 5
    x, weight = torch.randn(n, 6), spread * torch.randn(words, 6)
    bias, targets = torch.randn(words), torch.randint(words, (n,))
    logits = x @ weight.t()
    expected = splitcross._softmax(*(t.double() for t in (x, weight, bias)), targets, torch.float64)
    in_place = logits.clone()
    slope = in_place if dtype == torch.float32 else torch.full((n, words), 7, dtype=dtype)
    tolerance = {"rtol": 1e-5 * spread, "atol": 1e-5 * spread}
    for given, where in ((logits, None), (in_place, slope)):
        logprobs, at_target = launch(emulated, threads, given, bias, targets, dtype, where)
        torch.testing.assert_close(logprobs.double(), expected[0], **tolerance)
        torch.testing.assert_close(at_target.double(), expected[1], **tolerance)
    if dtype == torch.float32:
        torch.testing.assert_close(slope.double(), expected[2], **tolerance)
    else:   # rounded as torch rounds
        exact = launch(emulated, threads, again := logits.clone(), bias, targets, torch.float32, again)
        assert exact and torch.equal(slope, again.to(dtype))


def test_a_logit_that_is_not_a_number_is_seen(emulated):
    for bad in (math.nan, math.inf):
        logits = torch.zeros(2, 40)
        logits[1, 17] = bad
        slope = torch.zeros(2, 40, dtype=torch.bfloat16)
        logprobs, _ = launch(emulated, 8, logits, torch.zeros(40), torch.tensor([3, 3]), torch.bfloat16, slope)
        assert math.isfinite(logprobs[0]) and not math.isfinite(logprobs[1])
        assert slope[0].isfinite().all() and slope[1].isnan().any()


@pytest.mark.parametrize("splits", [[], [20, 50]])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_loss_with_the_kernel(emulated, dtype, tolerance, splits):
    def fused(logits, bias, targets, dtype=None):
        logits, bias = logits.float().contiguous(), bias.contiguous()       # a GPU's product is fp32
        slope = None if dtype is None else logits if dtype == torch.float32 else torch.empty_like(logits, dtype=dtype)
        return *launch(emulated, 16, logits, bias, targets, dtype or torch.float32, slope), slope

    criterion = splitcross.SplitCrossEntropyLoss(8, splits)
    for parameter in criterion.parameters():
        torch.nn.init.normal_(parameter)
    weight, bias = torch.randn(90, 8, requires_grad=True), torch.randn(90, requires_grad=True)
    x, targets = torch.randn(30, 8, requires_grad=True), torch.randint(90, (30,))
    criterion.matmul_dtype = dtype
    results = []
    for criterion.fused in (None, fused):
        loss = criterion(weight, bias, x, targets)
        results.append([loss, criterion.target_logprob(weight, bias, x, targets),
                        *torch.autograd.grad(loss, [x, weight, bias, *criterion.parameters()])])
    for a, b in zip(*results):
        assert (a - b).norm() <= tolerance * a.norm()
