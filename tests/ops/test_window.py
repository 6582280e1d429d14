"""The calls of a step, made at every step of a window, in their order: compiled, in turn, and both mixed."""
import shutil

import pytest
import torch

from ops import compiled, packed
from ops.window import Result, Window

T, B, H = 7, 3, 5


pytestmark = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler here")


@pytest.fixture(params=["compiled", "by torch"])
def products(request, monkeypatch):
    """Of weights: compiled, or by torch, which gives another tensor at every step."""
    assert compiled.library("window") and compiled.library("product")
    if request.param == "by torch":
        monkeypatch.setattr(packed, "_ways", lambda weight: {"plain": lambda weight, rows: lambda x: x @ weight.t()})


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("between", ["nothing", "a function of torch", "another tensor at every step"])
def test_every_step_takes_what_the_one_before_has_written(products, between, backwards):
    """s ← (W s, then perhaps doubled) + x_t, all s kept, and the last one over again."""
    torch.manual_seed(0)
    weight, x, start, kept = torch.randn(H, H) / 3, torch.randn(T, B, H), torch.randn(B, H), torch.empty(T, B, H)
    state, at_all_steps = start.clone(), torch.empty(1, B, H).expand(T, B, H)
    window = Window(T, torch.float32, backwards)
    product = window.product(weight, state)
    if between == "a function of torch":
        window.call(lambda each: each.mul_(2), product)
    elif between == "another tensor at every step":
        product = window.result(lambda each: 2 * each, product)
    window.step("state_gradient", x, product, torch.zeros(B, H), None, state)
    for out in (kept, at_all_steps):
        window.step("state_gradient", state, None, torch.zeros(B, H), None, out)
    window.run()

    expected = start
    for t in reversed(range(T)) if backwards else range(T):
        expected = (1 if between == "nothing" else 2) * expected @ weight.t() + x[t]
        torch.testing.assert_close(kept[t], expected)
    torch.testing.assert_close(at_all_steps[0], expected)


def test_a_result_is_read_before_it_is_written(products):
    """As a gradient that a step takes from the step after it."""
    weight, carried = torch.full((H, H), 0.1), Result(torch.ones(B, H))
    x, seen = torch.arange(T * B * H, dtype=torch.float32).view(T, B, H), torch.empty(T, B, H)
    window = Window(T, torch.float32)
    window.step("state_gradient", torch.zeros(B, H), carried, torch.zeros(B, H), None, seen)
    window.product(weight, x, carried)
    window.run()
    assert seen[0].eq(1).all()
    torch.testing.assert_close(seen[1:], (x @ weight.t())[:-1])
    torch.testing.assert_close(carried.value, x[-1] @ weight.t())
