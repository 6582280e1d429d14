"""A layer of a recurrent highway network over a window on the CPU, forward and backward; compare recurrence.py.

T window length, B batch size, I width of the input, H hidden units, D depth, N = T·B.
"""
import torch
from torch.autograd.function import once_differentiable

from ops.matrices import column_sums
from ops.recurrence import every_step, input_gates, states_from, take, weight_gradient
from ops.window import Result, Window


def recur_highway(x, s, weight_ih, weights, biases, dtype=None, mask=None):
    """At every step and depth d, s ← s + (h - s) · t: h = tanh(·), t = sigmoid(·) of R_d s + b_d, first also of W x
    (1607.03474, section 3) -> output (T, B, H), s (1, B, H).

    x (T, B, I), s (1, B, H), weight_ih W (2H, I); weights, biases: D of R_d (2H, H) and b_d (2H,), the rows of h first.
    dtype: the matmul dtype, by default that of `x`. mask (B, H): factors on the state wherever R_d is multiplied by it.
    """
    x_gates = input_gates(x, weight_ih, dtype or x.dtype)
    output, s = _Highway.apply(torch.is_grad_enabled(), mask, x_gates, s[0], *weights, *biases)
    return output, s[None]


class _Highway(torch.autograd.Function):
    """Depth d takes in states[d][t] at step t and gives states[d + 1][t]; what the last one gives is the output, which
    the first takes in a step later."""

    @staticmethod
    def forward(ctx, keep, mask, x_gates, s, *rest):
        depth, length, dtype, float_type = len(rest) // 2, len(x_gates), x_gates.dtype, s.dtype
        weights, biases = [weight.to(dtype) for weight in rest[:depth]], rest[depth:]
        gates = [every_step(x_gates.shape, s, keep) for _ in weights]                  # (T, B, 2H) each
        later = [every_step((length, *s.shape), s, keep) for _ in weights[1:]]         # (T, B, H) each
        first = states_from(s, length, float_type)                                     # (T + 1, B, H)
        exact = [first[:-1], *later, first[1:]]
        states = exact
        if dtype != float_type or mask is not None:     # what is multiplied: in the matmul dtype, masked
            first = states_from(s if mask is None else s * mask, length, dtype)
            states = [first[:-1], *(every_step(each.shape, x_gates, keep) for each in later), first[1:]]
        window = Window(length, dtype)
        for d, weight in enumerate(weights):
            window.step("highway_forward", None if d else x_gates, window.product(weight, states[d]), biases[d], mask,
                        gates[d], exact[d], exact[d + 1], states[d + 1])
        window.run()
        ctx.save_for_backward(*weights)
        ctx.kept, ctx.dtype, ctx.mask = (gates, exact, states), dtype, mask
        return exact[-1][:], exact[-1][-1].clone()          # not what is kept: that would hold on to itself

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, carry):
        weights, (gates, exact, states) = ctx.saved_tensors, take(ctx)
        carry, float_type, depth = carry.clone(memory_format=torch.contiguous_format), carry.dtype, len(weights)
        d_gates = gates if ctx.dtype == float_type else [torch.empty_like(g, dtype=ctx.dtype) for g in gates]
        d_state = Result(torch.zeros_like(carry, dtype=ctx.dtype))                     # (B, H)
        window, above = Window(len(d_output), ctx.dtype, backwards=True), d_output.contiguous()
        for d in reversed(range(depth)):
            window.step("highway_backward", above if d == depth - 1 else None, d_state, ctx.mask, gates[d], exact[d],
                        carry, d_gates[d])
            window.product(weights[d].t(), d_gates[d], d_state)
        window.run()
        d_state, rows = d_state.value, [each.flatten(0, 1) for each in d_gates]        # (N, 2H) each
        return (None, None, d_gates[0], carry + (d_state if ctx.mask is None else d_state * ctx.mask),
                *(weight_gradient(weight, d, state.flatten(0, 1), float_type)
                  for weight, d, state in zip(weights, rows, states)),
                *(column_sums(d, float_type) for d in rows))
