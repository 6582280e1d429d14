"""Passes over bfloat16 matrices, compiled and in torch, against float64."""
import pytest
import torch

from ops import compiled
from ops.matrices import column_sums, transposed

SIZES = [(1, 1), (3, 70), (70, 3), (33, 257), (64, 256), (700, 31)]


@pytest.fixture(params=["compiled", "in torch"])
def ways(request, monkeypatch):
    if request.param == "in torch":
        monkeypatch.setattr(compiled, "library", lambda name: None)
    elif compiled.library("matrices") is None:
        pytest.skip("no C++ compiler here")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_transpose(ways, size, dtype):
    x = torch.randn(size).to(dtype)
    for given in (x, torch.randn(size[::-1]).to(dtype).t()):         # in rows, and in columns
        turned = transposed(given)
        assert turned.is_contiguous() and torch.equal(turned, given.t())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "of_sums"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32),
                                                (torch.bfloat16, torch.float64)])
def test_the_sums_of_columns(ways, size, dtype, of_sums):
    x = torch.randn(size).to(dtype)
    sums = column_sums(x, of_sums)
    assert sums.dtype == of_sums
    torch.testing.assert_close(sums.double(), x.double().sum(0), rtol=1e-6, atol=2e-5)
    assert torch.equal(column_sums(x[:0], of_sums), torch.zeros(size[1], dtype=of_sums))


def test_what_is_not_a_number_is_seen(ways):
    x = torch.zeros(40, 5).bfloat16()
    x[33, 2] = torch.nan
    assert column_sums(x, torch.float32).isnan().tolist() == [False, False, True, False, False]
