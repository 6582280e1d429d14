"""A layer of a recurrent highway network over a window on the CPU, forward and backward; compare recurrence.py.

T window length, B batch size, I width of the input, H hidden units, D depth, N = T·B.
"""
import torch
from torch.autograd.function import once_differentiable

from ops.matrices import column_sums
from ops.packed import packed
from ops.recurrence import every_step, input_gates, states_from, take, weight_gradient
from ops.steps import pointwise_steps


def recur_highway(x, s, weight_ih, weights, biases, dtype=None, mask=None):
    """At every step and depth d, s ← s + (h - s) · t: h = tanh(·), t = sigmoid(·) of R_d s + b_d, first also of W x
    (1607.03474, section 3) -> output (T, B, H), s (1, B, H).

    x (T, B, I), s (1, B, H), weight_ih W (2H, I); weights, biases: D of R_d (2H, H) and b_d (2H,), the rows of h first.
    dtype: the matmul dtype, by default that of `x`. mask (B, H): factors on the state wherever R_d is multiplied by it.
    """
    output, s = _Highway.apply(dtype or x.dtype, torch.is_grad_enabled(), mask, x, s[0], weight_ih, *weights, *biases)
    return output, s[None]


class _Highway(torch.autograd.Function):
    """What depth d takes in at step t is states[d][t]; the outputs are what the first depth takes in a step later."""

    @staticmethod
    def forward(ctx, dtype, keep, mask, x, s, weight_ih, *rest):
        depth = len(rest) // 2
        weight_ih, weights, biases = weight_ih.to(dtype), [weight.to(dtype) for weight in rest[:depth]], rest[depth:]
        inputs, x_gates = input_gates(x, weight_ih)                                    # (N, I), (T, B, 2H)
        shape = (len(x) + 1, *s.shape)
        gates = [every_step(x_gates.shape, x, keep) for _ in weights]                  # (T, B, 2H) each
        exact = [states_from(s, len(x), x.dtype), *(every_step(shape, x, keep) for _ in weights[1:])]
        states = exact                                                                 # (T + 1, B, H) each
        if dtype != x.dtype or mask is not None:        # what is multiplied: in the matmul dtype, masked
            like = weight_ih
            states = [states_from(s if mask is None else s * mask, len(x), dtype),
                      *(every_step(shape, like, keep) for _ in weights[1:])]
        products = [packed(weight, len(s)) for weight in weights]
        step = pointwise_steps(dtype, x).highway_forward
        gate, before, state = ([each.unbind() for each in buffers] for buffers in (gates, exact, states))
        for t, x_gate in enumerate(x_gates.unbind()):
            for d, product in enumerate(products):
                later = (0, t + 1) if d == depth - 1 else (d + 1, t)
                step(None if d else x_gate, product(state[d][t]), biases[d], mask, gate[d][t], before[d][t],
                     before[later[0]][later[1]], state[later[0]][later[1]])
        ctx.save_for_backward(weight_ih, *weights)
        ctx.kept, ctx.dtype, ctx.mask = (inputs, gates, exact, states), dtype, mask
        return exact[0][1:], exact[0][-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, carry):
        weight_ih, *weights = ctx.saved_tensors
        inputs, gates, exact, states = take(ctx)
        carry, float_type, depth = carry.clone(memory_format=torch.contiguous_format), carry.dtype, len(weights)
        d_gates = gates if ctx.dtype == float_type else [torch.empty_like(g, dtype=ctx.dtype) for g in gates]
        products = [packed(weight.t(), len(carry)) for weight in weights]
        step = pointwise_steps(ctx.dtype, carry).highway_backward
        d_state, above = torch.zeros_like(carry, dtype=ctx.dtype), d_output.contiguous().unbind()
        gate, d_gate, before = ([each.unbind() for each in buffers] for buffers in (gates, d_gates, exact))
        for t in reversed(range(len(above))):
            for d in reversed(range(depth)):
                step(above[t] if d == depth - 1 else None, d_state, ctx.mask, gate[d][t], before[d][t], carry,
                     d_gate[d][t])
                d_state = products[d](d_gate[d][t])                                    # (B, H)
        d_gates = [each.flatten(0, 1) for each in d_gates]                             # (N, 2H)
        d_x = (d_gates[0] @ weight_ih).to(float_type).view(*d_output.shape[:2], -1) if ctx.needs_input_grad[3] else None
        return (None, None, None, d_x, carry + (d_state if ctx.mask is None else d_state * ctx.mask),
                weight_gradient(weight_ih, d_gates[0], inputs, float_type),
                *(weight_gradient(weight, d, state[:-1].flatten(0, 1), float_type)
                  for weight, d, state in zip(weights, d_gates, states)),
                *(column_sums(d, float_type) for d in d_gates))
