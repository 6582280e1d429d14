"""A Mogrifier layer over a window on the CPU, forward and backward; compare recurrence.py.

T window length, B batch size, I width of the input, H hidden units, G gates, W width of what a round scales, N = T·B.
"""
import torch
from torch.autograd.function import once_differentiable

from ops.matrices import column_sums
from ops.recurrence import every_step, states_from, take, weight_gradient
from ops.window import Window


def recur_mogrifier(kind, x, hidden, weight_ih, weight_hh, bias, rounds, dtype=None, mask=None):
    """Before each step of an LSTM x ← 2σ(Q h) · x, h ← 2σ(R x) · h, x ← … (1909.01792, equations 1 and 2)
    -> output (T, B, H), new h and c.

    kind, x, hidden, weights and bias (G·H,) as in `recurrence.recur`, kind not "GRU". rounds: for each the weights that
    are multiplied by one after another, (W, ·) or (k, ·) and (W, k), and a bias (W,). dtype: the matmul dtype, by
    default that of `x`. mask (B, H): factors on the state before the first round, the same at every step.
    """
    step = kind.lower().replace(" ", "_")
    factors = len(rounds[0]) - 1 if rounds else 1
    options = dtype or x.dtype, torch.is_grad_enabled(), mask, (step, factors)
    output, h, c = _Mogrifier.apply(*options, x, hidden[0][0], hidden[1][0], weight_ih, weight_hh, bias,
                                    *(each for turn in rounds for each in turn))
    return output, (h[None], c[None])


class _Round:
    """What a round reads and writes at all steps.

    It scales `before` to `after` by `gate`, all (T, B, W) and exact; `after` again in the matmul dtype in `state`. The
    gate is of `source` (T, B, ·), in that dtype; of two factors, what is between them is `inner` (T, B, k), else None.
    """

    def __init__(self, turn, exact, states, gate, inner):
        """exact, states: of input and state all versions so far, the last of which are scaled and multiplied."""
        self.to, of = turn % 2, 1 - turn % 2
        self.gate, self.inner = gate, inner
        self.before, self.after = exact[self.to][-2:]
        self.state, self.source = states[self.to][-1], states[of][-1]


class _Mogrifier(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, keep, mask, structure, x, h, c, weight_ih, weight_hh, bias, *rest):
        kind, factors = structure
        weight_ih, weight_hh = weight_ih.to(dtype), weight_hh.to(dtype)
        turns = [rest[first:first + factors + 1] for first in range(0, len(rest), factors + 1)]
        weights = [[weight.to(dtype) for weight in turn[:-1]] for turn in turns]       # (W, ·), or (k, ·) and (W, k)
        x, length, narrow = x.contiguous(), len(x), dtype != x.dtype
        outputs, cells = states_from(h, length, x.dtype), states_from(c, length, x.dtype)      # (T + 1, B, H)
        masked = outputs if mask is None else states_from(h * mask, length, x.dtype)
        states = states_from(masked[0], length, dtype) if narrow else masked                   # in the matmul dtype
        gates = every_step((*x.shape[:2], len(weight_ih)), x, keep)                    # (T, B, G·H)

        window = Window(length, dtype)
        exact, multiplied, rounds = [[x], [masked[:-1]]], [[x.to(dtype)], [states[:-1]]], []
        for turn, (maps, bias_of_turn) in enumerate(zip(weights, (turn[-1] for turn in turns))):
            versions, shape = exact[turn % 2], exact[turn % 2][0].shape
            versions.append(every_step(shape, x, keep))
            multiplied[turn % 2].append(every_step(shape, weight_ih, keep) if narrow else versions[-1])
            inner = every_step((*shape[:2], len(maps[0])), weight_ih, keep) if factors == 2 else None
            rounds.append(each := _Round(turn, exact, multiplied, every_step(shape, x, keep), inner))
            source = each.source if inner is None else window.product(maps[0], each.source, inner)
            window.step("scaling_forward", window.product(maps[-1], source), bias_of_turn, each.gate, each.before,
                        each.after, each.state)
        inputs, last = multiplied[0][-1], multiplied[1][-1]                            # of the LSTM's weights
        window.step(f"{kind}_forward", window.product(weight_ih, inputs), window.product(weight_hh, last), bias, gates,
                    cells[:-1], cells[1:], outputs[1:], states[1:])
        if mask is not None:
            window.call(lambda state, masked: torch.mul(state, mask, out=masked), outputs[1:], masked[1:])
            if narrow:
                window.call(lambda masked, state: state.copy_(masked), masked[1:], states[1:])
        window.run()

        ctx.save_for_backward(weight_ih, weight_hh)
        ctx.kept = weights, rounds, gates, cells, inputs, last
        ctx.dtype, ctx.mask, ctx.cell_kind = dtype, mask, kind
        return outputs[1:], outputs[-1].clone(), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, dh, dc):
        weight_ih, weight_hh = ctx.saved_tensors
        weights, rounds, gates, cells, inputs, last = take(ctx)
        dtype, float_type, length = ctx.dtype, dc.dtype, len(d_output)
        d_output, dc = d_output.contiguous(), dc.clone(memory_format=torch.contiguous_format)
        d_gates = gates if dtype == float_type else torch.empty_like(gates, dtype=dtype)
        d_products = [each.gate if dtype == float_type else torch.empty_like(each.gate, dtype=dtype) for each in rounds]
        d_inner = [None if each.inner is None else torch.empty_like(each.inner) for each in rounds]
        carry = [torch.empty_like(inputs, dtype=float_type), torch.empty_like(dc)]             # (T, B, I), (B, H)
        before = torch.cat([torch.zeros_like(d_output[:1]), d_output[:-1]])            # of the output a step earlier
        dh, nothing = d_output[-1] + dh, torch.zeros_like(dc, dtype=dtype)             # (B, H)

        window = Window(length, dtype, backwards=True)
        window.step(f"{ctx.cell_kind}_backward", dh, nothing, dc, gates, cells[:-1], cells[1:], d_gates)
        window.product(weight_ih.t(), d_gates, carry[0])
        window.product(weight_hh.t(), d_gates, carry[1])
        later = None                            # what the round after has passed back to what this one scales
        for each, maps, d_product, inner in reversed(list(zip(rounds, weights, d_products, d_inner))):
            window.step("scaling_backward", later, each.gate, each.before, carry[each.to], d_product)
            later = window.product(maps[-1].t(), d_product, inner)
            if inner is not None:
                later = window.product(maps[0].t(), inner)
        window.step("state_gradient", before, later, carry[1], ctx.mask, dh)
        window.run()

        gradients = []
        for each, maps, d_product, inner in zip(rounds, weights, d_products, d_inner):
            source, d_product = each.source.flatten(0, 1), d_product.flatten(0, 1)             # (N, ·), (N, W)
            if inner is not None:
                gradients.append(weight_gradient(maps[0], inner.flatten(0, 1), source, float_type))
                source = each.inner.flatten(0, 1)                                              # (N, k)
            gradients += [weight_gradient(maps[-1], d_product, source, float_type), column_sums(d_product, float_type)]
        d_gates, inputs, last = (each.flatten(0, 1) for each in (d_gates, inputs, last))       # (N, ·)
        return (None, None, None, None, carry[0], dh, dc, weight_gradient(weight_ih, d_gates, inputs, float_type),
                weight_gradient(weight_hh, d_gates, last, float_type), column_sums(d_gates, float_type), *gradients)
