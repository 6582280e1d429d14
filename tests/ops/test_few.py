"""Products of a weight with a few rows, compiled and in torch, against float64."""
import pytest
import torch
from conftest import take_form

from ops import compiled, few, recurrence


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


def test_the_number_of_threads_changes_nothing():
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
