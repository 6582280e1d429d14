"""A Mogrifier layer over a window on the CPU, forward and backward; compare recurrence.py.

T window length, B batch size, I width of the input, H hidden units, G gates, W width of what a round scales, N = T·B.
"""
import torch
from torch.autograd.function import once_differentiable

from ops.matrices import column_sums
from ops.packed import packed
from ops.recurrence import every_step, states_from, take, weight_gradient
from ops.steps import pointwise_steps


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
    """What a round reads and writes, for all steps.

    It scales `before` to `after` by `gate`, all (T, B, W) and exact; `after` again in the matmul dtype in `state`. The
    gate is of `source` (T, B, ·), in that dtype; of two factors what is between them is kept in `inner`.
    """

    def __init__(self, turn, exact, states, gate):
        """exact, states: of input and state all versions so far, the last of which are scaled and multiplied."""
        to, of = turn % 2, 1 - turn % 2
        self.to, self.of, self.gate = to, of, gate
        self.before, self.after = exact[to][-2:]
        self.state, self.source = states[to][-1], states[of][-1]
        self.inner = [None] * len(gate)

    def by_step(self):
        return zip(*(each.unbind() for each in (self.source, self.gate, self.before, self.after, self.state)))


class _Mogrifier(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, keep, mask, structure, x, h, c, weight_ih, weight_hh, bias, *rest):
        kind, factors = structure
        steps = pointwise_steps(dtype, x)
        lstm, scale = getattr(steps, f"{kind}_forward"), steps.scaling_forward
        weight_ih, weight_hh = weight_ih.to(dtype), weight_hh.to(dtype)
        turns = [rest[first:first + factors + 1] for first in range(0, len(rest), factors + 1)]
        weights = [[weight.to(dtype) for weight in turn[:-1]] for turn in turns]       # (W, ·), or (k, ·) and (W, k)
        x, length, narrow = x.contiguous(), len(x), dtype != x.dtype
        outputs, cells = states_from(h, length, x.dtype), states_from(c, length, x.dtype)      # (T + 1, B, H)
        masked = outputs if mask is None else states_from(h * mask, length, x.dtype)
        exact, states = [[x], [masked]], [[x.to(dtype)], [states_from(masked[0], length, dtype) if narrow else masked]]
        rounds = []
        for turn, _ in enumerate(turns):
            to = turn % 2
            shape = (length, *exact[to][0].shape[1:])
            exact[to].append(every_step(shape, x, keep))
            states[to].append(every_step(shape, weight_ih, keep) if narrow else exact[to][-1])
            rounds.append(_Round(turn, exact, states, every_step(shape, x, keep)))
        gates = every_step((*x.shape[:2], len(weight_ih)), x, keep)                    # (T, B, G·H)
        products = [[packed(weight, len(h), length) for weight in each] for each in weights]
        from_x, from_h = packed(weight_ih, len(h), length), packed(weight_hh, len(h), length)
        by_step = [each.by_step() for each in rounds]
        for t in range(length):
            for each, values, maps, turn in zip(rounds, by_step, products, turns):
                source, gate, before, after, state = next(values)
                for product in maps[:-1]:
                    source = product(source)                                           # (B, k)
                    each.inner[t] = source if keep else None
                scale(maps[-1](source), turn[-1], gate, before, after, state)
            lstm(from_x(states[0][-1][t]), from_h(states[1][-1][t]), bias, gates[t], cells[t], cells[t + 1],
                 outputs[t + 1], states[1][0][t + 1])
            if mask is not None:
                torch.mul(outputs[t + 1], mask, out=masked[t + 1])
                if narrow:
                    states[1][0][t + 1].copy_(masked[t + 1])
        ctx.save_for_backward(weight_ih, weight_hh)
        ctx.kept = weights, rounds, gates, cells, states[0][-1], states[1][-1][:length]
        ctx.dtype, ctx.mask, ctx.cell_kind = dtype, mask, kind
        return outputs[1:], outputs[-1].clone(), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, dh, dc):
        weight_ih, weight_hh = ctx.saved_tensors
        weights, rounds, gates, cells, inputs, states = take(ctx)
        dtype, float_type, length, rows = ctx.dtype, dc.dtype, len(d_output), len(dc)
        steps = pointwise_steps(dtype, dc)
        lstm, scale = getattr(steps, f"{ctx.cell_kind}_backward"), steps.scaling_backward
        d_gates = gates if dtype == float_type else torch.empty_like(gates, dtype=dtype)
        d_products = [each.gate if dtype == float_type else torch.empty_like(each.gate, dtype=dtype) for each in rounds]
        d_inner = [[None] * length for _ in rounds]
        back = [[packed(weight.t(), rows, length) for weight in each] for each in weights]
        to_x, to_h = packed(weight_ih.t(), rows, length), packed(weight_hh.t(), rows, length)
        dc, nothing, d_x = dc.clone(), torch.zeros_like(dc, dtype=dtype), torch.empty_like(inputs, dtype=float_type)
        turns = list(reversed(list(zip(rounds, back, d_products, d_inner))))
        for t in reversed(range(length)):
            lstm(d_output[t] + dh, nothing, dc, gates[t], cells[t], cells[t + 1], d_gates[t])
            carry = [to_x(d_gates[t]).to(float_type), to_h(d_gates[t]).to(float_type)]         # (B, I), (B, H)
            later = None                        # what the round after has passed back to what this one scales
            for each, maps, d_product, inner in turns:
                scale(later, each.gate[t], each.before[t], carry[each.to], d_product[t])
                later = maps[-1](d_product[t])
                for product in maps[-2::-1]:
                    inner[t], later = later, product(later)
            d_x[t] = carry[0]
            dh = carry[1] if later is None else carry[1] + later
            if ctx.mask is not None:
                dh = dh * ctx.mask
        gradients = []
        for each, maps, d_product, inner in zip(rounds, weights, d_products, d_inner):
            source, d_product = each.source[:length].flatten(0, 1), d_product.flatten(0, 1)    # (N, ·), (N, W)
            if inner[0] is not None:
                gradients.append(weight_gradient(maps[0], torch.cat(inner), source, float_type))
                source = torch.cat(each.inner)                                                 # (N, k)
            gradients += [weight_gradient(maps[-1], d_product, source, float_type), column_sums(d_product, float_type)]
        d_gates, inputs, states = (each.flatten(0, 1) for each in (d_gates, inputs, states))   # (N, ·)
        return (None, None, None, None, d_x, dh, dc, weight_gradient(weight_ih, d_gates, inputs, float_type),
                weight_gradient(weight_hh, d_gates, states, float_type), column_sums(d_gates, float_type), *gradients)
