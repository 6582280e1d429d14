"""The linear map in a narrower type, against the product of the rounded numbers in float64."""
import pytest
import torch

from ops.linear import linear


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
def test_numbers_are_rounded_before_the_product_and_the_bias_is_not(dtype, biased):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 4, 50), torch.randn(6, 50), torch.randn(6) * 1e3 if biased else None
    narrow_x, narrow_weight = (tensor.to(dtype or torch.float32).double() for tensor in (x, weight))
    exact = torch.einsum("tbi,oi->tbo", narrow_x, narrow_weight)
    tolerance = 2 ** -8 if dtype == torch.bfloat16 else 1e-5          # of the product, which comes out in that type
    found = linear(x, weight, bias, dtype)
    assert found.dtype == torch.float32
    within = exact.abs() * tolerance + 1e-3 * (1 if biased else tolerance)
    assert ((found.double() - exact - (bias.double() if biased else 0)).abs() <= within).all()
