"""The loop over the steps of a window: the calls of a step are listed once, and made at every step.

Neighbours in the list that are compiled (ops/kernels/cells.cpp, product.cpp) are called from C++
(ops/kernels/window.cpp), if all are, for the whole window at a time: calling them from Python takes as long as the work
of a narrow layer.

T window length, B batch size.
"""
from collections.abc import Callable
from ctypes import c_int64 as integer
from ctypes import c_void_p, cast
from functools import cache
from itertools import groupby, repeat
from typing import NamedTuple

import torch

from ops import compiled
from ops.packed import Panels, packed

MOST = 12       # arguments of a compiled function, as in window.cpp


def has_compiled_steps(dtype, states):
    """Whether a window can be run for products of `dtype` and such `states`, compiling its functions if need be."""
    return (states.is_cpu and states.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16)
            and all(map(compiled.library, ("cells", "window"))))


class Result:
    """What a product gives at each step, (B, ·): in `value`, which may be another tensor at every step."""

    def __init__(self, value=None):
        self.value = value


class Call(NamedTuple):
    """function(*arrays), or what is compiled at an address, with sizes and arrays."""
    arrays: tuple
    function: Callable | None = None
    address: int | None = None
    sizes: tuple = ()


class Window:
    """The calls of a step. Their arrays are each step's own, (T, B, ·), or the same at all, with fewer dimensions.

    dtype: the matmul dtype. backwards: from the last step to the first.
    """

    def __init__(self, length, dtype, backwards=False):
        self.length, self.type, self.backwards = length, str(dtype).removeprefix("torch."), backwards
        self.calls = []

    def call(self, function, *arrays):
        """A function of torch."""
        self.calls.append(Call(arrays, function))

    def step(self, name, *arrays):
        """The function of that name in cells.cpp."""
        self.calls.append(Call(arrays, None, _address(f"{name}_{self.type}"), arrays[-3].shape[-2:]))

    def product(self, weight, x, out=None):
        """out = x @ weight.t(), for a weight (O, K) -> out: an array, or a Result, made where none is given."""
        rows = x.size(-2)
        out = Result(x.new_empty(rows, len(weight))) if out is None else out
        product, dtype = packed(weight, rows, self.length), (out.value if isinstance(out, Result) else out).dtype
        if isinstance(product, Panels) and dtype == x.dtype:
            self.calls.append(Call((x, product.panels, out), None, product.native, (rows, *weight.shape)))
        elif isinstance(out, Result):
            self.result(product, x, out)
        else:
            self.call(lambda x, out: out.copy_(product(x)), x, out)
        return out

    def result(self, function, array, out=None):
        """A function of torch, of one array -> its Result: `out`, or a new one."""
        out = Result() if out is None else out
        self.call(lambda array: setattr(out, "value", function(array)), array)
        return out

    def run(self):
        """Make the calls."""
        groups = groupby(self.calls, lambda call: call.function is None)
        runners = [self._compiled(list(calls)) if native else self._in_turn(calls) for native, calls in groups]
        if len(runners) == 1:
            return runners[0](0, self.length)
        for step in range(self.length):
            for runner in runners:
                runner(step, step + 1)

    def _in_turn(self, calls):
        calls = [(call.function, [self._of_each_step(array) for array in call.arrays]) for call in calls]

        def runner(begin, end):
            for _ in range(begin, end):
                for function, arrays in calls:
                    function(*map(next, arrays))
        return runner

    def _of_each_step(self, array):
        if isinstance(array, Result):
            return (array.value for _ in repeat(None))
        if array.dim() < 3:
            return repeat(array)
        return iter(array.unbind()[::-1 if self.backwards else 1])

    def _compiled(self, calls):
        words, results = [], []
        for call in calls:
            begin = len(words) + 2 + len(call.sizes)
            results += [(begin + i, array) for i, array in enumerate(call.arrays) if isinstance(array, Result)]
            words += self._words(call)
        table, run = (integer * len(words))(*words), compiled.library("window").run

        def runner(begin, end):
            for place, result in results:
                table[place] = result.value.data_ptr()
            run(table, integer(len(calls)), integer(begin), integer(end))
        return runner

    def _words(self, call):
        """A `Call` of window.cpp; where Results are is not known yet."""
        places = [self._place(array) for array in call.arrays]
        first = [*call.sizes, *(place for place, _ in places)]
        stride = [0] * len(call.sizes) + [step for _, step in places]
        unused = [0] * (MOST - len(first))
        return [call.address, len(first), *first, *unused, *stride, *unused]

    def _place(self, array):
        """Where an array is at the first step, and how many bytes farther at the next."""
        if array is None or isinstance(array, Result):
            return 0, 0
        if array.dim() < 3:
            assert array.is_contiguous()
            return array.data_ptr(), 0
        assert array.is_contiguous() or array[0].is_contiguous()
        step = array.stride(0) * array.element_size()
        return (array.data_ptr() + (len(array) - 1) * step, -step) if self.backwards else (array.data_ptr(), step)


@cache
def _address(name):
    return cast(getattr(compiled.library("cells"), name), c_void_p).value
