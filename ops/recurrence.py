"""A recurrent layer over a window on the CPU, forward and backward.

What is usually done step by step is put together here: the products with the input are one for all steps, made before
the loop; the loop itself holds the product with the state, whose weight is packed once per window, and one pass of
pointwise work; the gradients of both weights are one product each, made after it.

The product is in ops/packed.py, the pointwise work in ops/kernels/cells.cpp, the loop in ops/window.py, which has to be
asked whether it is compiled here (`has_compiled_steps`).

T window length, B batch size, I width of the input, H hidden units, G gates (4 in an LSTM, 3 in a GRU), N = T·B.
"""
from functools import cache

import torch
from torch.autograd.function import once_differentiable

from ops import few
from ops.cudnn import recur_by_torch
from ops.matrices import column_sums
from ops.packed import FEW, power_of_two
from ops.window import Result, Window, has_compiled_steps
from runtime.fastest import milliseconds

NARROW = {"LSTM": 64, "GRU": 1}             # hidden units of a layer from which on it is measured what is faster
TYPICALLY_PAYS = {"LSTM": 350, "GRU": 1}    # from which on `recur` is, where it cannot be remembered


def input_gates(x, weight_ih, dtype):
    """x (T, B, I), weight (G·H, I) -> their products (T, B, G·H) in `dtype`, differentiable in both."""
    return few.linear(x.to(dtype), weight_ih.to(dtype))


def states_from(start, steps, dtype):
    """A buffer for a state at every step (T + 1, B, H), with `start` (B, H) before the first."""
    states = start.new_empty(steps + 1, *start.shape, dtype=dtype)
    states[0] = start
    return states


def every_step(shape, like, keep):
    """A buffer (T, B, ·) that is written step by step; each step writes over the one before if none is to be kept."""
    return like.new_empty(shape if keep else (1, *shape[1:])).expand(shape)


def _states(h, steps, dtype, mask):
    """Buffers for the outputs and for the states in the matmul dtype (T + 1, B, H): one and the same if that is so."""
    outputs = states_from(h, steps, h.dtype)
    if dtype == h.dtype and (mask is None or _of_each_gate(mask)):
        return outputs, outputs
    return outputs, states_from(h if _of_each_gate(mask) else _masked(h, mask), steps, dtype)


def _masked(state, mask):
    return state if mask is None else (state * mask).to(state.dtype)


def _of_each_gate(mask):
    """Whether each gate has a mask of its own: states are then kept without, else as they are multiplied."""
    return mask is not None and mask.dim() == 3


def _mask_states(window, states, mask):
    """In `window`: the new states (T, B, H) as the next step multiplies them."""
    if mask is not None and not _of_each_gate(mask):
        window.call(lambda state: state.mul_(mask), states)


def _multiply_state(window, weight, states, mask):
    """In `window`: weight (G·H, H), states as they are kept (T, B, H) -> their product (B, G·H)."""
    if not _of_each_gate(mask):
        return window.product(weight, states)
    weights = weight.unflatten(0, (len(mask), -1)).mT                                         # (G, H, H)

    def product(state):
        return torch.bmm(_masked(state, mask), weights).transpose(0, 1).flatten(1).contiguous()
    return window.result(product, states)


def _multiply_back(window, weight, d_gates, d_state, mask):
    """In `window`: weight (G·H, H), d_gates (T, B, G·H) -> d_state, a Result (B, H): that of the state before masks."""
    if not _of_each_gate(mask):
        window.product(weight.t(), d_gates, d_state)
        if mask is not None:
            window.result(lambda gradient: _masked(gradient, mask), d_state, d_state)
        return
    weights = weight.unflatten(0, (len(mask), -1))                                            # (G, H, H)

    def back(gradient):
        parts = gradient.unflatten(1, (len(mask), -1)).transpose(0, 1)                        # (G, B, H)
        return (torch.bmm(parts, weights) * mask).sum(0).to(gradient.dtype)
    window.result(back, d_gates, d_state)


def _state_weight_gradient(weight, d_gates, states, mask, float_type):
    """d_gates (N, G·H), states as they are kept (T, B, H) -> (G·H, H)."""
    if not _of_each_gate(mask):
        return weight_gradient(weight, d_gates, states.flatten(0, 1), float_type)
    seen = _masked(states, mask[:, None]).flatten(1, 2)                                       # (G, N, H)
    parts = d_gates.unflatten(1, (len(mask), -1)).permute(1, 2, 0)                            # (G, H, N)
    return torch.bmm(parts, seen).flatten(0, 1).to(float_type)


def take(ctx):
    """What the forward pass kept, once: the backward pass writes over it."""
    if ctx.kept is None:
        raise RuntimeError("the backward pass of a recurrent layer can be run only once")
    arrays, ctx.kept = ctx.kept, None
    return arrays


def weight_gradient(weight, d_gates, inputs, float_type):
    """weight (G·H, I or H), d_gates (N, G·H), inputs (N, I or H) -> as weight; None where `few.unformed` has it."""
    gradient = few.gradient(weight, d_gates, inputs)
    return None if gradient is None else gradient.to(float_type)


class _Layer(torch.autograd.Function):
    """An LSTM, whose state is h and c and whose bias the sum of both, or a GRU, which has h and two biases.

    kind: how the names of its steps in cells.cpp begin. rest: c, if there is such, and biases. The products with the
    input, x_gates (T, B, G·H) in the matmul dtype, are written over.
    """

    @staticmethod
    def forward(ctx, kind, keep, mask, x_gates, weight_hh, h, *rest):
        length, dtype = len(x_gates), x_gates.dtype
        weight_hh = weight_hh.to(dtype)
        outputs, states = _states(h, length, dtype, mask)                              # (T + 1, B, H)
        if kind == "gru":
            biases, carried = rest, [outputs]
            gates = every_step((length, len(h), 4 * h.size(1)), h, keep)               # (T, B, 4H)
        else:
            biases, carried = rest[1:], [states_from(rest[0], length, h.dtype), outputs]
            gates = every_step(x_gates.shape, h, keep) if dtype != h.dtype else x_gates
        window = Window(length, dtype)
        window.step(f"{kind}_forward", x_gates, _multiply_state(window, weight_hh, states[:-1], mask), *biases, gates,
                    carried[0][:-1], *(each[1:] for each in carried), states[1:])
        _mask_states(window, states[1:], mask)
        window.run()
        ctx.save_for_backward(weight_hh)
        ctx.kept, ctx.dtype, ctx.mask, ctx.kind = (gates, carried[0], states), dtype, mask, kind
        return outputs[1:], *(each[-1].clone() for each in reversed(carried))

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, dh, *dc):
        weight_hh, = ctx.saved_tensors
        gates, carried, states = take(ctx)
        float_type, contiguous = dh.dtype, {"memory_format": torch.contiguous_format}
        if dc:
            carry = dc[0].clone(**contiguous)                                          # (B, H)
            dx_gates = torch.empty_like(gates, dtype=ctx.dtype) if ctx.dtype != float_type else gates  # overwritten
            dh_gates, written = dx_gates, (carried[1:], dx_gates)
        else:
            carry = torch.zeros_like(dh, **contiguous)
            dx_gates = gates.new_empty(*gates.shape[:2], len(weight_hh), dtype=ctx.dtype)              # (T, B, 3H)
            dh_gates = torch.empty_like(dx_gates)
            written = dx_gates, dh_gates
        dh = Result(dh.to(ctx.dtype, copy=True, **contiguous))
        window = Window(len(d_output), ctx.dtype, backwards=True)
        window.step(f"{ctx.kind}_backward", d_output.contiguous(), dh, carry, gates, carried[:-1], *written)
        _multiply_back(window, weight_hh, dh_gates, dh, ctx.mask)
        window.run()
        dh, rows = dh.value.to(float_type), dh_gates.flatten(0, 1)                     # (N, G·H)
        d_state = (dh, carry) if dc else (dh + carry, column_sums(dx_gates.flatten(0, 1), float_type))
        return (None, None, None, dx_gates, _state_weight_gradient(weight_hh, rows, states[:-1], ctx.mask, float_type),
                *d_state, column_sums(rows, float_type))


def recur(kind, x, hidden, weight_ih, weight_hh, bias_ih, bias_hh, dtype=None, mask=None):
    """One layer of `kind`, "LSTM", "capped LSTM", "coupled LSTM" or "GRU" -> output (T, B, H), new hidden.

    x (T, B, I); hidden h (1, B, H), for an LSTM the pair (h, c); weight_ih (G·H, I), weight_hh (G·H, H) and the biases
    (G·H,) as in `torch.nn.LSTM` and `torch.nn.GRU`; bias_hh may be None in an LSTM. The input gate of a capped LSTM is
    at most 1 minus the forget gate; a coupled one's is that, and G is 3: f, g, o (1707.05589). dtype: the matmul dtype,
    by default that of `x`; with torch.bfloat16 accumulation, states, gates and all that is returned stay as `x` is.
    mask (B, H): factors on the state wherever weight_hh is multiplied by it, the same at every step; or (G, B, H), for
    each gate its own. weight_ih may be None: then x (T, B, G·H) are the products that it would make, and are lost.
    """
    dtype = dtype or x.dtype
    x_gates = x.to(dtype).contiguous() if weight_ih is None else input_gates(x, weight_ih, dtype)
    given = kind.lower().replace(" ", "_"), torch.is_grad_enabled(), mask, x_gates, weight_hh
    if kind == "GRU":
        output, h = _Layer.apply(*given, hidden[0], bias_ih, bias_hh)
        return output, h[None]
    bias = bias_ih if bias_hh is None else bias_ih + bias_hh
    output, h, c = _Layer.apply(*given, hidden[0][0], hidden[1][0], bias)
    return output, (h[None], c[None])


def pays(kind, x, weight_hh):
    """Whether `recur` is faster here than torch's own module where precision is not reduced.

    A forward and a backward pass of such a layer are timed once on a machine. Where steps are not compiled, and for
    LSTMs so narrow that it makes no difference, the answer is no without timing.
    """
    if weight_hh.size(1) < NARROW[kind] or not has_compiled_steps(x.dtype, x):
        return False
    if len(x) < FEW and x.size(1) <= few.ROWS:          # then weights are read as they lie, once for a product
        return True
    return _pays(kind, power_of_two(x.size(1)), x.size(2), weight_hh.size(1), x.dtype, torch.get_num_threads())


@cache
def _pays(kind, columns, inputs, width, dtype, threads):
    gates = 4 if kind == "LSTM" else 3
    x, state = torch.full((10, columns, inputs), 0.5, dtype=dtype), torch.zeros(1, columns, width, dtype=dtype)
    weights = [torch.full((gates * width, *size), 0.01, dtype=dtype, requires_grad=True)
               for size in ((inputs,), (width,), (), ())]
    hidden = (state, state) if kind == "LSTM" else state

    def passes(layer):
        with torch.enable_grad():
            layer()[0].sum().backward(inputs=weights)

    times = milliseconds(f"{kind} of {width} units over a window, {inputs} inputs, batch size {columns} in {dtype}",
                         {"compiled": lambda: passes(lambda: recur(kind, x, hidden, *weights)),
                          "torch": lambda: passes(lambda: recur_by_torch(kind, x, hidden, weights))}, must_be_kept=True)
    return times["compiled"] < times["torch"] if times else width >= TYPICALLY_PAYS[kind]
