"""A product with a weight that is used many times: laid out once, in the way that is the fastest on this machine."""
from ctypes import c_void_p, cast
from functools import cache, partial

import torch

from ops import compiled, few
from ops.matrices import transposed
from runtime.fastest import choice, milliseconds

SMALL = 2**16           # elements of a weight below which one way is as good as another
FEW = 8                 # products for which laying a weight out, which reads and writes it all, does not pay


def packed(weight, rows, uses=FEW):
    """weight (O, K), in any strides -> a function x (rows, K) -> x @ weight.t(), a new tensor (rows, O).

    The weight is laid out once so that each product reads it from front to back. General matrix products, which order
    the matrix anew or read it across at every call, take up to twice as long for that. Of the ways to do it that there
    are here, the fastest is taken: the products are timed once on a machine (`runtime.fastest`).
    uses: how many products will be made; for few in float32 the weight is read as it lies. With a dimension before the
    others in weight and x it is torch's product.
    Not differentiable: for use inside an autograd function. The weight may not change while the function is in use.
    """
    ways = _ways(weight)
    first = next(iter(ways))
    if len(ways) == 1 or weight.numel() < SMALL:
        return ways[first](weight, rows)
    if uses < FEW and weight.dtype == torch.float32:
        return few.times(weight) if weight.is_cpu else ways["plain"](weight, rows)
    way = _fastest_way(first, *weight.shape, power_of_two(rows), weight.dtype, torch.get_num_threads())
    return ways[way](weight, rows)


def power_of_two(rows):
    """The next one from `rows` on: batches of sentences have many sizes, and each that is asked about takes time."""
    return 1 << (rows - 1).bit_length()


def _ways(weight):
    """The functions (weight, rows) -> product that can be used for such a weight, by name."""
    ways = {"plain": lambda weight, rows: lambda x: x @ weight.mT}
    if not weight.is_cpu or weight.dim() > 2:
        return ways
    if weight.dtype == torch.bfloat16 and weight.numel() < SMALL and compiled.library("product"):
        return {"panels": Panels, **ways}           # oneDNN takes longer for a call than for the product
    if weight.dtype in (torch.float32, torch.bfloat16) and _onednn_multiplies(weight.dtype):
        ways = {"oneDNN": _by_onednn, **ways}
    if weight.dtype == torch.float32 and compiled.library("product"):
        ways = {"panels": Panels, **ways}
    return ways


@cache
def _onednn_multiplies(dtype):
    """Whether oneDNN has such a product here: in bf16 it asks for instructions that not every processor has."""
    try:
        _by_onednn(torch.zeros(16, 16, dtype=dtype), 2)(torch.zeros(2, 16, dtype=dtype))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


@cache
def _fastest_way(first, outputs, inputs, rows, dtype, threads):
    weight, x = torch.full((outputs, inputs), 0.5, dtype=dtype), torch.full((rows, inputs), 0.5, dtype=dtype)
    ways = {name: partial(pack(weight, rows), x) for name, pack in _ways(weight).items()}
    times = milliseconds(f"product of ({rows}, {inputs}) and a packed ({inputs}, {outputs}) in {dtype}", ways,
                         must_be_kept=True)
    return choice(times, first)


def _by_onednn(weight, rows):
    weight = transposed(weight.t()) if weight.t().is_contiguous() else weight
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, blocked, None, "none", [], "")


class Panels:
    """Our own product, ops/kernels/product.cpp: a function as `packed` gives it.

    native: the address of its function of rows, O and K, then x, `panels` and out.
    """

    def __init__(self, weight, rows):
        library, name = compiled.library("product"), str(weight.dtype).removeprefix("torch.")
        (self.outputs, self.inputs), width = weight.shape, library.panel_width()
        self.panels = torch.empty(-(-self.outputs // width) * self.inputs * width)
        compiled.call(getattr(library, f"pack_{name}"), *weight.shape, weight, *weight.stride(), self.panels)
        self._multiply = getattr(library, f"product_{name}")
        self.native = cast(self._multiply, c_void_p).value

    def __call__(self, x):
        x, out = x.contiguous(), x.new_empty(len(x), self.outputs)
        compiled.call(self._multiply, len(x), self.outputs, self.inputs, x, self.panels, out)
        return out
