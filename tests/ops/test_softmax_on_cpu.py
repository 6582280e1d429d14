"""The compiled softmax of the CPU, ops/kernels/softmax.cpp, against torch in float64."""
import math
import shutil

import pytest
import torch

import splitcross
from model import RNNModel, set_precision
from ops import compiled
from ops.fused_softmax import fused_softmax, kernel_on

CPU = torch.device("cpu")
TYPES = [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)]


@pytest.fixture(autouse=True)
def needs_compiler():
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler here")
    assert compiled.library("softmax")


@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("words, spread", [(1, 1), (3, 1), (33, 5), (1023, 30), (1025, 2), (5000, 1), (70, 300)])
def test_equals_the_softmax_in_float64(types, words, spread):
    torch.manual_seed(words)
    logits = (spread * torch.randn(7, words)).to(types[0])
    bias, targets = torch.randn(words), torch.randint(words, (7,))
    exact = (logits.double() + bias.double()).log_softmax(1)
    logprobs, at_target, slope = fused_softmax(logits.clone(), bias, targets, types[1])
    expected = exact.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=1e-6 * spread)
    torch.testing.assert_close(at_target.double(), expected.exp() - 1, rtol=1e-5, atol=1e-6)
    elsewhere = exact.exp().scatter(1, targets[:, None], 0)
    assert slope.dtype == types[1]
    torch.testing.assert_close(slope.double(), elsewhere, rtol=5e-3 if types[1] == torch.bfloat16 else 1e-4, atol=1e-6)
    alone, _, nothing = fused_softmax(logits, bias, targets)
    assert nothing is None and torch.equal(alone, logprobs)


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_the_gradient_takes_the_place_of_logits_of_its_type(types):
    logits = torch.randn(2, 9).to(types[0])
    slope = fused_softmax(logits, torch.zeros(9), torch.tensor([0, 8]), types[1])[2]
    assert (slope.data_ptr() == logits.data_ptr()) == (types[0] == types[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("types", TYPES, ids=str)
def test_a_logit_that_is_not_finite_is_seen(types, bad):
    logits = torch.zeros(2, 40, dtype=types[0])
    logits[1, 17] = bad
    logprobs, _, slope = fused_softmax(logits, torch.zeros(40), torch.tensor([3, 3]), types[1])
    assert math.isfinite(logprobs[0]) and not math.isfinite(logprobs[1])
    assert slope[0].isfinite().all() and slope[1].isnan().any()


@pytest.mark.parametrize("splits", [[], [20, 50]])
@pytest.mark.parametrize("dtype, tolerance", [(None, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("advsoft", [0.0, 0.01])
def test_the_loss_with_the_kernel(dtype, tolerance, splits, advsoft):
    if splits and advsoft:
        pytest.skip("adversarial noise is for the full softmax")
    torch.manual_seed(0)
    criterion = splitcross.SplitCrossEntropyLoss(8, splits)
    criterion.matmul_dtype, criterion.advsoft = dtype, advsoft
    for parameter in criterion.parameters():
        torch.nn.init.normal_(parameter)
    weight, bias = torch.randn(90, 8, requires_grad=True), torch.randn(90, requires_grad=True)
    x, targets = torch.randn(30, 8, requires_grad=True), torch.randint(90, (30,))
    results = []
    for criterion.fused in (None, kernel_on(CPU)):
        loss = criterion(weight, bias, x, targets)
        results.append([loss, criterion.target_logprob(weight, bias, x, targets),
                        *torch.autograd.grad(loss, [x, weight, bias, *criterion.parameters()])])
    for plain, compiled_ in zip(*results):
        assert (plain - compiled_).norm() <= tolerance * plain.norm()


@pytest.mark.parametrize("softmax", ["split", "mixture"])
def test_a_model_uses_it_in_fp32_and_not_in_float64(softmax):
    model = set_precision(RNNModel("LSTM", 40, 8, 8, 1, softmax=softmax, mixtures=2), "fp32")
    x, targets = torch.randint(40, (5, 2)), torch.randint(40, (10,))
    calls = []

    def counted(*given):
        calls.append(given)
        return fused_softmax(*given)

    model.softmax.fused = counted
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        calls.clear()
        features = model(x, model.init_hidden(2))[0]
        model.loss(features, targets).backward()
        model.target_logprob(features, targets)
        assert bool(calls) == (dtype == torch.float32)
