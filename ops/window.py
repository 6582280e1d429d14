"""The loop over the steps of a window: the calls of a step are listed once, and made at every step.

Neighbours in the list that are compiled are called from C++ (ops/kernels/window.cpp), if all are, for the whole window
at a time: calling them from Python takes as long as the work of a narrow layer.

T window length, B batch size.
"""
from collections.abc import Callable
from ctypes import c_int64 as integer
from itertools import groupby, repeat
from typing import NamedTuple

from ops import compiled
from ops.packed import Panels, packed
from ops.steps import pointwise_steps

MOST = 12       # arguments of a compiled function, as in window.cpp


class Result:
    """What a product gives at each step, (B, ·): in `value`, which is another tensor at every step if it `changes`."""

    def __init__(self, value):
        self.value, self.changes = value, False


class Call(NamedTuple):
    """function(*arrays); native: the same as the address of a compiled function, its sizes and its arrays, or None."""
    function: Callable
    arrays: tuple
    native: tuple | None = None

    @property
    def is_compiled(self):
        return self.native is not None and not any(isinstance(each, Result) and each.changes for each in self.arrays)


class Window:
    """The calls of a step. Their arrays are each step's own, (T, B, ·), or the same at all, with fewer dimensions.

    dtype: the matmul dtype. like: a state, for its dtype and device. backwards: from the last step to the first.
    """

    def __init__(self, length, dtype, like, backwards=False):
        self.length, self.backwards, self.steps = length, backwards, pointwise_steps(dtype, like)
        self.calls = []

    def call(self, function, *arrays):
        """A function of torch."""
        self.calls.append(Call(function, arrays))

    def step(self, name, *arrays):
        """The function of that name in `steps.InTorch`."""
        function = getattr(self.steps, name)
        native = getattr(function, "native", None)
        self.calls.append(Call(function, arrays, native and (native, arrays[-3].shape[-2:], arrays)))

    def product(self, weight, x, out=None):
        """out = x @ weight.t(), for a weight (O, K) -> out: an array, or a Result, made where none is given."""
        rows = x.size(-2)
        out = Result(x.new_empty(rows, len(weight))) if out is None else out
        product = packed(weight, rows, self.length)
        if isinstance(product, Panels) and _value(out).dtype == x.dtype:
            native = product.native, (rows, *weight.shape), (x, product.panels, out)
            self.calls.append(Call(lambda x, out: out.copy_(product(x)), (x, out), native))
        elif isinstance(out, Result):
            self.result(product, x, out)
        else:
            self.call(lambda x, out: out.copy_(product(x)), x, out)
        return out

    def result(self, function, array, out=None):
        """A function of torch, of one array -> its Result: `out`, or a new one."""
        out = Result(None) if out is None else out
        out.changes = True
        self.call(lambda array: setattr(out, "value", function(array)), array)
        return out

    def run(self):
        """Make the calls."""
        library = compiled.library("window")
        groups = groupby(self.calls, lambda call: library is not None and call.is_compiled)
        runners = [self._compiled(library, calls) if native else self._in_turn(calls) for native, calls in groups]
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
        if array is None or array.dim() < 3:
            return repeat(array)
        return iter(array.unbind()[::-1 if self.backwards else 1])

    def _compiled(self, library, calls):
        words = [word for call in calls for word in self._words(*call.native)]
        count = len(words) // (2 + 2 * MOST)
        table = (integer * len(words))(*words)
        return lambda begin, end: library.run(table, integer(count), integer(begin), integer(end))

    def _words(self, function, sizes, arrays):
        """A `Call` of window.cpp."""
        places = [self._place(_value(array)) for array in arrays]
        first = [*sizes, *(place for place, _ in places)]
        stride = [0] * len(sizes) + [step for _, step in places]
        unused = [0] * (MOST - len(first))
        return [function, len(first), *first, *unused, *stride, *unused]

    def _place(self, array):
        """Where an array is at the first step, and how many bytes farther at the next."""
        if array is None:
            return 0, 0
        if array.dim() < 3:
            assert array.is_contiguous()
            return array.data_ptr(), 0
        assert array[0].is_contiguous()
        step = array.stride(0) * array.element_size()
        return (array[-1].data_ptr(), -step) if self.backwards else (array.data_ptr(), step)


def _value(array):
    return array.value if isinstance(array, Result) else array
