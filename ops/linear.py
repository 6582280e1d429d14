"""A linear map in a narrower type than its input's."""
from torch.nn import functional as F


def linear(x, weight, bias=None, dtype=None):
    """`F.linear` of x (…, I), weight (O, I), bias (O,) -> (…, O) as `x` is.

    dtype: the matmul dtype, by default that of `x`. Accumulation is not narrower than x's type, nor is the bias.
    """
    if dtype in (None, x.dtype):
        return F.linear(x, weight, bias)
    product = F.linear(x.to(dtype), weight.to(dtype)).to(x.dtype)
    return product if bias is None else product + bias
