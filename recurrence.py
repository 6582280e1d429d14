"""A recurrent layer over a window on the CPU, forward and backward.

What is usually done step by step is put together here: the products with the input are one for all steps, made before
the loop; the loop itself holds the product with the state, whose weight is packed once per window, and one pass of
pointwise work; the gradients of both weights are one product each, made after it.

T window length, B columns, I width of the input, H hidden units, G gates (4 in an LSTM, 3 in a GRU), N = T·B.
"""
import torch
from torch.autograd.function import once_differentiable

import pointwise
from packed import packed


def recur(kind, x, hidden, weight_ih, weight_hh, bias_ih, bias_hh, dtype=None, mask=None):
    """One layer of `kind`, "LSTM" or "GRU" -> output (T, B, H), new hidden.

    x (T, B, I); hidden h (1, B, H), for an LSTM the pair (h, c); weight_ih (G·H, I), weight_hh (G·H, H) and the biases
    (G·H,) as in `torch.nn.LSTM` and `torch.nn.GRU`. dtype: the type of the numbers that matrix products multiply, by
    default that of `x`; with torch.bfloat16 their sums, the states, the gates and all that is returned stay as `x` is.
    mask (B, H): factors on the state wherever weight_hh is multiplied by it, the same at every step.
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    if kind == "LSTM":
        output, h, c = _LSTM.apply(dtype or x.dtype, mask, x, hidden[0][0], hidden[1][0], *weights)
        return output, (h[None], c[None])
    output, h = _GRU.apply(dtype or x.dtype, mask, x, hidden[0], *weights)
    return output, h[None]


def pays(x, weight_hh):
    """Whether `recur` is faster than torch's own module where precision is not reduced.

    It is where its parts are compiled, for layers wide enough that a step's work outweighs calling it from Python:
    measured, from between 200 and 400 hidden units on.
    """
    return weight_hh.size(1) >= 350 and pointwise.compiled(x.dtype, x)


class _LSTM(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, mask, x, h, c, weight_ih, weight_hh, bias_ih, bias_hh):
        bias = bias_ih + bias_hh
        inputs, x_gates = _input_gates(x, weight_ih, dtype)                            # (N, I), (T, B, 4H)
        gates = torch.empty_like(x_gates, dtype=x.dtype) if dtype != x.dtype else x_gates
        cells = _from(c, len(x), x.dtype)                                              # (T + 1, B, H)
        outputs, states = _states(h, len(x), dtype, mask)
        product = packed(weight_hh.to(dtype), len(h))
        step = pointwise.steps(dtype, x).lstm_forward
        cell, output, state = cells.unbind(), outputs.unbind(), states.unbind()
        for t, (x_gate, gate) in enumerate(zip(x_gates.unbind(), gates.unbind())):
            step(x_gate, product(state[t]), bias, gate, cell[t], cell[t + 1], output[t + 1], state[t + 1])
            if mask is not None:
                state[t + 1].mul_(mask)
        ctx.save_for_backward(weight_ih, weight_hh)
        ctx.kept, ctx.dtype, ctx.mask = (inputs, gates, cells, states), dtype, mask
        return outputs[1:], outputs[-1].clone(), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, dh, dc):
        weight_ih, weight_hh = ctx.saved_tensors
        inputs, gates, cells, states = _take(ctx)
        d_gates = torch.empty_like(gates, dtype=ctx.dtype) if ctx.dtype != gates.dtype else gates   # overwritten
        dc = dc.clone()
        product = packed(weight_hh.to(ctx.dtype).t(), len(dc))
        step = pointwise.steps(ctx.dtype, gates).lstm_backward
        dh, above = dh.to(ctx.dtype).contiguous(), d_output.contiguous().unbind()
        gate, d_gate, cell = gates.unbind(), d_gates.unbind(), cells.unbind()
        for t in reversed(range(len(above))):
            step(above[t], dh, dc, gate[t], cell[t], cell[t + 1], d_gate[t])
            dh = _masked(product(d_gate[t]), ctx.mask)                                 # (B, H)
        d_gates, float_type = d_gates.flatten(0, 1), dc.dtype                          # (N, 4H)
        d_bias = d_gates.sum(0, dtype=float_type)
        return (None, None, _input_gradient(ctx, d_gates, weight_ih, d_output), dh.to(float_type), dc,
                _weight_gradient(d_gates, inputs, float_type),
                _weight_gradient(d_gates, states[:-1].flatten(0, 1), float_type), d_bias, d_bias)


class _GRU(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, mask, x, h, weight_ih, weight_hh, bias_ih, bias_hh):
        inputs, x_gates = _input_gates(x, weight_ih, dtype)                            # (N, I), (T, B, 3H)
        gates = x.new_empty(len(x), len(h), 4 * h.size(1))
        outputs, states = _states(h, len(x), dtype, mask)                                    # (T + 1, B, H)
        product = packed(weight_hh.to(dtype), len(h))
        step = pointwise.steps(dtype, x).gru_forward
        output, state = outputs.unbind(), states.unbind()
        for t, (x_gate, gate) in enumerate(zip(x_gates.unbind(), gates.unbind())):
            step(x_gate, product(state[t]), bias_ih, bias_hh, gate, output[t], output[t + 1], state[t + 1])
            if mask is not None:
                state[t + 1].mul_(mask)
        ctx.save_for_backward(weight_ih, weight_hh)
        ctx.kept, ctx.dtype, ctx.mask = (inputs, gates, outputs, states), dtype, mask
        return outputs[1:], outputs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, dh):
        weight_ih, weight_hh = ctx.saved_tensors
        inputs, gates, outputs, states = _take(ctx)
        dx_gates = gates.new_empty(*gates.shape[:2], len(weight_hh), dtype=ctx.dtype)  # (T, B, 3H)
        dh_gates = torch.empty_like(dx_gates)
        carry, product = torch.zeros_like(dh), packed(weight_hh.to(ctx.dtype).t(), len(dh))
        step = pointwise.steps(ctx.dtype, gates).gru_backward
        dh, above = dh.to(ctx.dtype).contiguous(), d_output.contiguous().unbind()
        gate, dx_gate, dh_gate, output = gates.unbind(), dx_gates.unbind(), dh_gates.unbind(), outputs.unbind()
        for t in reversed(range(len(above))):
            step(above[t], dh, carry, gate[t], output[t], dx_gate[t], dh_gate[t])
            dh = _masked(product(dh_gate[t]), ctx.mask)                                # (B, H)
        dx_gates, dh_gates, float_type = dx_gates.flatten(0, 1), dh_gates.flatten(0, 1), carry.dtype   # (N, 3H)
        return (None, None, _input_gradient(ctx, dx_gates, weight_ih, d_output), dh.to(float_type) + carry,
                _weight_gradient(dx_gates, inputs, float_type),
                _weight_gradient(dh_gates, states[:-1].flatten(0, 1), float_type),
                dx_gates.sum(0, dtype=float_type), dh_gates.sum(0, dtype=float_type))


def _input_gates(x, weight_ih, dtype):
    """The input as products take it (N, I), and its products with its weight for all steps (T, B, G·H)."""
    inputs = x.flatten(0, 1).to(dtype)
    return inputs, (inputs @ weight_ih.to(dtype).t()).view(*x.shape[:2], -1)


def _from(start, steps, dtype):
    """Room for a state at every step (T + 1, B, H), with `start` (B, H) before the first."""
    states = start.new_empty(steps + 1, *start.shape, dtype=dtype)
    states[0] = start
    return states


def _states(h, steps, dtype, mask):
    """Room for the outputs as they are and as products take them (T + 1, B, H): one and the same if that is so."""
    outputs = _from(h, steps, h.dtype)
    if dtype == h.dtype and mask is None:
        return outputs, outputs
    return outputs, _from(_masked(h, mask), steps, dtype)


def _masked(state, mask):
    return state if mask is None else (state * mask).to(state.dtype)


def _take(ctx):
    """What the forward pass kept, once: the backward pass writes over it."""
    if ctx.kept is None:
        raise RuntimeError("the backward pass of a recurrent layer can be run only once")
    kept, ctx.kept = ctx.kept, None
    return kept


def _input_gradient(ctx, d_gates, weight_ih, like):
    if not ctx.needs_input_grad[2]:
        return None
    return (d_gates @ weight_ih.to(d_gates.dtype)).to(like.dtype).view(*like.shape[:2], -1)    # (T, B, I)


def _weight_gradient(d_gates, inputs, float_type):
    """d_gates (N, G·H), inputs (N, I or H) -> (G·H, I or H)."""
    return (d_gates.t() @ inputs).to(float_type)
