"""What layers do with memory: arrays may have any layout, a caller's batch being in front, and nothing is kept."""
import gc
import weakref

import pytest
import torch

from cells import CELLS

T, B, H = 3, 4, 6
LAYERS = [("LSTM", {}), ("LSTM", {"gate": "capped"}), ("LSTM", {"gate": "coupled"}), ("GRU", {}), ("QRNN", {}),
          ("RHN", {"rhn_depth": 2}), ("Mogrifier", {"mogrifier_rounds": 3}),
          ("Mogrifier", {"mogrifier_rounds": 3, "mogrifier_rank": 2})]


def outputs_and_gradients(layer, given, weights, layout):
    """layout: a function of each array that goes in, and of each that comes out with its gradient."""
    given = [each.clone().requires_grad_() for each in given]
    x, *states = map(layout, given)
    output, states = layer(x, tuple(states) if len(states) > 1 else states[0])
    outputs = [output, *([states] if isinstance(states, torch.Tensor) else states)]
    loss = sum((layout(each) * layout(weight)).sum() for each, weight in zip(outputs, weights, strict=True))
    return outputs + list(torch.autograd.grad(loss, [*given, *layer.parameters()]))


def turned(x):
    """The same numbers, the last dimension outermost in memory."""
    return x.permute(2, 0, 1).contiguous().permute(1, 2, 0)


@pytest.mark.parametrize(("kind", "settings"), LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_no_layout_changes_what_comes_out(kind, settings, dtype):
    torch.manual_seed(0)
    layer = CELLS[kind](H, H, 1, {**settings, "wdrop": 0})
    layer.matmul_dtype = dtype
    state = layer.zero_state(B)
    count = 1 if isinstance(state, torch.Tensor) else len(state)
    given = [torch.randn(T, B, H), *(torch.randn(1, B, H) for _ in range(count))]
    weights = [torch.randn(T, B, H), *(torch.randn(1, B, H) for _ in range(count))]
    expected = outputs_and_gradients(layer, given, weights, torch.Tensor.contiguous)
    for found, wanted in zip(outputs_and_gradients(layer, given, weights, turned), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("kind", "settings"), LAYERS, ids=str)
def test_what_is_dropped_without_a_backward_pass_is_free_at_once(kind, settings):
    layer = CELLS[kind](H, H, 0, settings)
    gc.disable()
    try:
        output, _ = layer(torch.randn(T, B, H), layer.zero_state(B))
        alive = weakref.ref(output)
        del output, _
        assert alive() is None
    finally:
        gc.enable()
