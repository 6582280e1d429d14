"""A product that is made at every step of a loop, against the same loop in torch."""
import pytest
import torch

from ops.repeated import repeated


def loop(linear, x, steps=5):
    outputs = []
    for _ in range(steps):
        x = linear(x).tanh()
        outputs.append(x)
    return torch.stack(outputs)


def leaves(dtype=torch.double, width=6):
    torch.manual_seed(1)
    shapes = (width, width), (width,), (3, width)
    return [(torch.randn(shape, dtype=dtype) * width**-0.5).requires_grad_() for shape in shapes]


def plain(weight, bias):
    return lambda x: x @ weight.t() + (0 if bias is None else bias)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("dtype", "width"), [(torch.double, 6), (torch.float, 70)])
def test_outputs_and_gradients(dtype, width, with_bias):
    weight, bias, x = leaves(dtype, width)
    bias = bias if with_bias else None
    given = [leaf for leaf in (weight, bias, x) if leaf is not None]
    found = []
    for linear in repeated(weight, 3, bias), plain(weight, bias):
        outputs = loop(linear, x)
        total = (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=dtype).view_as(outputs)).sum()
        found.append([outputs, *torch.autograd.grad(total, given)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_uses_that_the_loss_does_not_depend_on_and_a_second_pass():
    weight, bias, x = leaves()
    ours, theirs = (loop(linear, x) for linear in (repeated(weight, 3, bias), plain(weight, bias)))
    for step in 1, 4, 4, 0:
        for a, b in zip(*(torch.autograd.grad(outputs[step].sum(), [weight, bias, x], retain_graph=True)
                          for outputs in (ours, theirs))):
            torch.testing.assert_close(a, b)


def test_only_what_is_asked_for():
    weight, bias, x = leaves()
    outputs = loop(repeated(weight.detach(), 3, bias.detach()), x)
    assert torch.autograd.grad(outputs.sum(), [x])[0].shape == x.shape
    outputs = repeated(weight, 3, bias)(x.detach())
    torch.testing.assert_close(torch.autograd.grad(outputs.sum(), [weight])[0],
                               x.detach().sum(0).expand(len(weight), -1))
    never = repeated(weight, 3, bias)
    assert never and torch.autograd.grad(x.sum(), [weight], allow_unused=True) == (None,)
    with torch.no_grad():
        assert not repeated(weight, 3, bias)(x).requires_grad


def test_in_bfloat16_sums_stay_as_they_were():
    weight, bias, x = leaves(torch.float, 40)
    exact, near = loop(repeated(weight, 3, bias), x), loop(repeated(weight, 3, bias, torch.bfloat16), x)
    assert near.dtype == torch.float32 and 0 < (near[0] - exact[0]).norm() < 2e-2 * exact[0].norm()
    gradients = [torch.autograd.grad(outputs[0].sum(), [weight, bias, x]) for outputs in (exact, near)]
    for a, b in zip(*gradients):
        assert b.dtype == torch.float32 and (a - b).norm() < 5e-2 * a.norm()
