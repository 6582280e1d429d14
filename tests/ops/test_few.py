"""Products of a weight with a few rows, compiled and in torch, against float64."""
import pytest
import torch
from conftest import take_form
from torch.nn import functional as F

from model import RNNModel
from ops import compiled, few, recurrence
from ops.update import update


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (3, 50), (31, 7), (402, 301)])
def test_products_with_a_few_rows(rows, outputs, inputs, in_torch, monkeypatch):
    """Along the weight, across it, and its gradient; the last weight is one that several threads share."""
    take_form(in_torch, "few", monkeypatch)
    torch.manual_seed(0)
    weight, x, g = torch.randn(outputs, inputs), torch.randn(rows, inputs), torch.randn(rows, outputs)
    for found, expected in ((few.times(weight)(x), x.double() @ weight.double().t()),
                            (few.times(weight.t())(g), g.double() @ weight.double()),
                            (few.times(weight.t().contiguous().t())(x), x.double() @ weight.double().t()),
                            (few.outer(g, x), g.double().t() @ x.double())):
        assert found.is_contiguous() and (found - expected).norm() <= 2e-6 * expected.norm()


def test_the_number_of_threads_changes_nothing(monkeypatch):
    take_form(False, "few", monkeypatch)
    weight, g = torch.randn(402, 301), torch.randn(3, 402)
    before, found = torch.get_num_threads(), []
    try:
        for threads in 1, 2, 3:
            torch.set_num_threads(threads)
            found.append(few.times(weight.t())(g))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("types", [(torch.float64, torch.float64), (torch.bfloat16, torch.bfloat16)])
def test_other_types_are_multiplied_by_torch(types):
    weight, x = torch.randn(9, 4).to(types[0]), torch.randn(3, 4).to(types[1])
    assert torch.equal(few.times(weight)(x), x @ weight.t()) and torch.equal(few.outer(x, x), x.t() @ x)


def test_a_short_window_is_not_asked_about(monkeypatch):
    """There a weight is read as it lies; what is timed lays it out."""
    if not compiled.library("cells"):
        pytest.skip("no C++ compiler here")
    monkeypatch.setattr(recurrence, "_pays", lambda *_: False)
    weight = torch.zeros(480, 120)
    assert recurrence.pays("LSTM", torch.zeros(5, 1, 8), weight)
    assert not recurrence.pays("LSTM", torch.zeros(recurrence.FEW, 1, 8), weight)
    assert not recurrence.pays("LSTM", torch.zeros(5, few.ROWS + 1, 8), weight)


def gradients_of(model, words, targets, unformed):
    """Of the mean loss of a segment, by each parameter's name: as `few.unformed` gives them, or as autograd does."""
    parameters = dict(model.named_parameters())

    def differentiate():
        features, _ = model(words, model.init_hidden(words.size(1)))
        return torch.autograd.grad(model.loss(features, targets), list(parameters.values()), allow_unused=True)

    if not unformed:
        return dict(zip(parameters, differentiate()))
    with few.unformed(list(parameters.values()), words.numel()) as whole:
        gradients = differentiate()
    return dict(zip(parameters, whole(gradients)))


CELLS = [("LSTM", {}), ("LSTM", {"gate": "capped", "skip_output": True}), ("GRU", {}), ("Mogrifier", {}), ("RHN", {}),
         ("QRNN", {})]


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("cell", "more"), CELLS)
def test_gradients_that_are_not_formed_are_those_of_autograd(cell, more, tied, in_torch, monkeypatch):
    """The last word of the vocabulary, which a tied encoder does not learn as an input, is among the words."""
    for name in "few", "cells":
        take_form(in_torch, name, monkeypatch)
    torch.manual_seed(0)
    model = RNNModel(cell, 30, 120, 120, 2, tie_weights=tied, **more).eval()
    words, targets = torch.tensor([[3], [29], [7], [3], [0]]), torch.tensor([29, 7, 3, 0, 12])
    found, expected = (gradients_of(model, words, targets, unformed) for unformed in (True, False))
    products = {name for name, gradient in found.items() if isinstance(gradient, few.Product)}
    if in_torch:
        assert not products
    else:
        assert "encoder.weight" in products and (tied or "decoder.weight" in products)
        assert cell == "QRNN" or any("weight_hh" in name or "weights" in name for name in products)
    for name, gradient in found.items():
        gradient, = few.formed([gradient])
        like = torch.zeros_like(gradient) if expected[name] is None else expected[name]
        torch.testing.assert_close(gradient, like, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("words", [torch.tensor([[1], [2]]), torch.arange(9).view(9, 1)])
def test_parameters_without_a_gradient_have_zeros_and_many_rows_are_formed(words):
    model = RNNModel("LSTM", 30, 10, 10, 1, tie_weights=False, pdr=0.1).eval()
    found = gradients_of(model, words, torch.zeros(len(words), dtype=torch.long), True)
    assert not found["past.bias"].any() and found["past.bias"].shape == model.past.bias.shape
    if compiled.library("few"):
        assert isinstance(found["encoder.weight"], few.Product) == (len(words) <= few.ROWS)


def test_outside_the_block_gradients_are_formed():
    weight, bias = torch.randn(7, 5, requires_grad=True), torch.randn(7, requires_grad=True)
    x = torch.randn(3, 5, requires_grad=True)
    arguments = (x, weight, bias)
    with few.unformed([weight], 3):
        assert few.is_unformed(weight)
    assert not few.is_unformed(weight)
    with few.unformed([weight], few.ROWS + 1):         # there a gradient formed by a vocabulary's rows would cost more
        assert not few.is_unformed(weight)
    for found, like in zip(torch.autograd.grad(few.linear(*arguments).cos().sum(), arguments),
                           torch.autograd.grad(F.linear(*arguments).cos().sum(), arguments)):
        torch.testing.assert_close(found, like)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 16, 17])
def test_an_update_by_factors_is_that_by_their_product(rows, alike):
    torch.manual_seed(0)
    weight, trained = torch.randn(200, 101), torch.randn(200, 101)
    decay, rate = (torch.rand(()) if alike else torch.rand(200, 101) for _ in range(2))
    product = few.Product(torch.randn(rows, 200), torch.randn(rows, 101))
    gradient = product.g.double().t() @ product.x.double()
    expected = weight + decay.double() * (trained - weight) - rate * gradient
    update([weight], [trained], [decay], [product], [rate])
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-5)
