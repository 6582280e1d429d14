"""A recurrent layer over a window on the CPU, forward and backward.

What is usually done step by step is put together here: the products with the input are one for all steps, made before
the loop; the loop itself holds the product with the state, whose weight is packed once per window, and one pass of
pointwise work; the gradients of both weights are one product each, made after it.

From leaf to root: a product with a weight that is used many times, the arithmetic of one time step without its products
(compiled where there is a compiler, ops/kernels/cells.cpp, else in torch), and the loops over time.

T window length, B batch size, I width of the input, H hidden units, G gates (4 in an LSTM, 3 in a GRU), N = T·B.
"""
from ctypes import c_int64 as integer
from ctypes import c_void_p as pointer
from functools import cache, partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ops import compiled, few
from ops.cudnn import recur_by_torch
from ops.matrices import column_sums, transposed
from runtime.fastest import choice, milliseconds

TYPICALLY_PAYS = 350    # hidden units of a layer, where it cannot be remembered what was measured

# ---- the product with the state


SMALL = 2**16           # elements of a weight below which one way is as good as another


FEW = 8                 # products for which laying a weight out, which reads and writes it all, does not pay


def packed(weight, rows, uses=FEW):
    """weight (O, K), in any strides -> a function x (rows, K) -> x @ weight.t(), a new tensor (rows, O).

    The weight is laid out once so that each product reads it from front to back. General matrix products, which order
    the matrix anew or read it across at every call, take up to twice as long for that. Of the ways to do it that there
    are here, the fastest is taken: the products are timed once on a machine (`runtime.fastest`).
    uses: how many products will be made; for few in float32 the weight is read as it lies.
    Not differentiable: for use inside an autograd function. The weight may not change while the function is in use.
    """
    ways = _ways(weight)
    first = next(iter(ways))
    if len(ways) == 1 or weight.numel() < SMALL:
        return ways[first](weight, rows)
    if uses < FEW and weight.dtype == torch.float32:
        return few.times(weight) if weight.is_cpu else ways["plain"](weight, rows)
    way = _fastest_way(first, *weight.shape, _power_of_two(rows), weight.dtype, torch.get_num_threads())
    return ways[way](weight, rows)


def _power_of_two(rows):
    """The next one from `rows` on: batches of sentences have many sizes, and each that is asked about takes time."""
    return 1 << (rows - 1).bit_length()


def _ways(weight):
    """The functions (weight, rows) -> product that can be used for such a weight, by name."""
    ways = {"plain": lambda weight, rows: lambda x: x @ weight.t()}
    if not weight.is_cpu:
        return ways
    if weight.dtype == torch.bfloat16 and weight.numel() < SMALL and compiled.library("product"):
        return {"panels": _in_panels, **ways}           # oneDNN takes longer for a call than for the product
    if (weight.dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        ways = {"oneDNN": _by_onednn, **ways}
    if weight.dtype == torch.float32 and compiled.library("product"):
        ways = {"panels": _in_panels, **ways}
    return ways


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


def _in_panels(weight, rows):
    """Our own product, ops/kernels/product.cpp."""
    library = compiled.library("product")
    (outputs, inputs), width, name = weight.shape, library.panel_width(), str(weight.dtype).removeprefix("torch.")
    panels = torch.empty(-(-outputs // width), inputs, width)
    pack, multiply = getattr(library, f"pack_{name}"), getattr(library, f"product_{name}")
    pack(integer(outputs), integer(inputs), pointer(weight.data_ptr()), *map(integer, weight.stride()),
         pointer(panels.data_ptr()))

    def product(x):
        x, out = x.contiguous(), x.new_empty(len(x), outputs)
        multiply(integer(len(x)), integer(outputs), integer(inputs), pointer(x.data_ptr()),
                 pointer(panels.data_ptr()), pointer(out.data_ptr()))
        return out
    return product


# ---- one time step without its matrix products
#
# `x_gates` and `h_gates` are the products with the input and with the state before, in the matmul dtype; all else is in
# the dtype of the states. The torch form is the definition that the compiled form is tested against.

class InTorch:
    """The arithmetic. Every tensor (B, n·H) named in the comment on the right is written."""

    @staticmethod
    def lstm_forward(x_gates, h_gates, bias, gates, c_before, c, out, h):       # -> gates (B, 4H), c, out, h (B, H)
        i, f, g, o = _lstm_gates(bias + x_gates + h_gates, 4, gates)
        _lstm_state(i, f, g, o, c_before, c, out, h)

    @staticmethod
    def capped_lstm_forward(x_gates, h_gates, bias, gates, c_before, c, out, h):            # gates: i before the cap
        i, f, g, o = _lstm_gates(bias + x_gates + h_gates, 4, gates)
        _lstm_state(torch.minimum(i, 1 - f), f, g, o, c_before, c, out, h)

    @staticmethod
    def coupled_lstm_forward(x_gates, h_gates, bias, gates, c_before, c, out, h):           # -> gates (B, 3H)
        f, g, o = _lstm_gates(bias + x_gates + h_gates, 3, gates)
        _lstm_state(1 - f, f, g, o, c_before, c, out, h)

    @staticmethod
    def lstm_backward(d_out, d_h, dc, gates, c_before, c, d_gates):             # -> d_gates (B, 4H), dc (B, H)
        i, f, g, o = gates.chunk(4, 1)
        d_i, *d_rest = _lstm_gradients(d_out, d_h, dc, i, f, g, o, c_before, c)
        d_gates.copy_(torch.cat([d_i * i * (1 - i), *d_rest], 1))               # may be `gates`: written last

    @staticmethod
    def capped_lstm_backward(d_out, d_h, dc, gates, c_before, c, d_gates):
        i, f, g, o = gates.chunk(4, 1)
        capped = i >= 1 - f
        d_i, d_f, *d_rest = _lstm_gradients(d_out, d_h, dc, torch.where(capped, 1 - f, i), f, g, o, c_before, c)
        d_f = torch.where(capped, d_f - d_i * f * (1 - f), d_f)
        d_gates.copy_(torch.cat([(d_i * i * (1 - i)).masked_fill_(capped, 0), d_f, *d_rest], 1))

    @staticmethod
    def coupled_lstm_backward(d_out, d_h, dc, gates, c_before, c, d_gates):     # -> d_gates (B, 3H), dc (B, H)
        f, g, o = gates.chunk(3, 1)
        d_i, d_f, *d_rest = _lstm_gradients(d_out, d_h, dc, 1 - f, f, g, o, c_before, c)
        d_gates.copy_(torch.cat([d_f - d_i * f * (1 - f), *d_rest], 1))

    @staticmethod
    def gru_forward(x_gates, h_gates, x_bias, h_bias, gates, before, out, h):   # -> gates (B, 4H), out, h (B, H)
        x, (y_r, y_z, m) = (x_bias + x_gates).chunk(3, 1), (h_bias + h_gates).chunk(3, 1)
        r, z = (x[0] + y_r).sigmoid_(), (x[1] + y_z).sigmoid_()
        n = torch.addcmul(x[2], r, m).tanh_()
        torch.cat([r, z, n, m], 1, out=gates)
        torch.addcmul(n, z, before - n, out=out)
        h.copy_(out)

    @staticmethod
    def gru_backward(d_out, d_h, carry, gates, before, dx_gates, dh_gates):     # -> carry (B, H), d*_gates (B, 3H)
        r, z, n, m = gates.chunk(4, 1)
        dh = d_out + d_h + carry
        dn = dh * (1 - z) * (1 - n * n)
        dr, dz = dn * m * r * (1 - r), dh * (before - n) * z * (1 - z)
        dx_gates.copy_(torch.cat([dr, dz, dn], 1))
        dh_gates.copy_(torch.cat([dr, dz, dn * r], 1))
        torch.mul(dh, z, out=carry)

    @staticmethod
    def highway_forward(x_gates, h_gates, bias, mask, gates, before, after, state):     # -> gates (B, 2H), else (B, H)
        """x_gates and mask may be None; gates: h and t; state: what the next product takes."""
        h, t = (bias + h_gates if x_gates is None else bias + h_gates + x_gates).chunk(2, 1)
        torch.cat([h.tanh_(), t.sigmoid_()], 1, out=gates)
        torch.lerp(before, h, t, out=after)
        state.copy_(after if mask is None else after * mask)

    @staticmethod
    def highway_backward(d_out, d_state, mask, gates, before, carry, d_gates):  # -> carry (B, H), d_gates (B, 2H)
        """d_out and mask may be None. carry: the gradient that went past the product, on return past this depth's."""
        h, t = gates.chunk(2, 1)
        ds = carry + (d_state if mask is None else d_state * mask)
        ds = ds if d_out is None else ds + d_out
        torch.mul(ds, 1 - t, out=carry)
        d_gates.copy_(torch.cat([ds * t * (1 - h * h), ds * (h - before) * t * (1 - t)], 1))    # may be `gates`: last

    @staticmethod
    def scaling_forward(products, bias, gate, before, after, state):            # -> gate, after, state (B, W)
        """A round of a Mogrifier: after = 2σ(products + bias) · before, again in the matmul dtype in `state`."""
        torch.mul((bias + products).sigmoid_(), 2, out=gate)
        torch.mul(gate, before, out=after)
        state.copy_(after)

    @staticmethod
    def scaling_backward(d_state, gate, before, carry, d_products):             # -> carry, d_products (B, W)
        """d_state may be None. carry: the gradient of `after` but for that part; on return that of `before`."""
        total = carry if d_state is None else carry + d_state
        d = total * before * gate * (1 - gate / 2)
        torch.mul(total, gate, out=carry)
        d_products.copy_(d)                                                     # may be `gate`: written last


def _lstm_gates(sums, count, gates):
    """sums (B, count·H), the last but one of which is g's -> gates after their nonlinearities, also in `gates`."""
    *sigmoids, g, o = sums.chunk(count, 1)
    activated = [*(gate.sigmoid_() for gate in sigmoids), g.tanh_(), o.sigmoid_()]
    torch.cat(activated, 1, out=gates)
    return activated


def _lstm_state(i, f, g, o, c_before, c, out, h):
    torch.addcmul(f * c_before, i, g, out=c)
    torch.mul(o, c.tanh(), out=out)
    h.copy_(out)


def _lstm_gradients(d_out, d_h, dc, i, f, g, o, c_before, c):
    """-> the gradient of i after its nonlinearity, those of f, g and o before; dc becomes that of c_before."""
    t = c.tanh()
    dh = d_out + d_h
    d_cell = torch.addcmul(dc, dh * o, 1 - t * t)
    torch.mul(d_cell, f, out=dc)
    return d_cell * g, d_cell * c_before * f * (1 - f), d_cell * i * (1 - g * g), dh * t * o * (1 - o)


class Compiled:
    """The same functions on the same tensors, contiguous ones, by one call into the library each."""

    def __init__(self, library, name):
        for kind in ("lstm", "capped_lstm", "coupled_lstm", "gru", "highway", "scaling"):
            for step in (f"{kind}_forward", f"{kind}_backward"):
                setattr(self, step, _on_tensors(getattr(library, f"{step}_{name}")))


def _on_tensors(function):
    function.restype = None
    address = Tensor.data_ptr

    def step(*tensors):
        rows, width = tensors[-3].shape         # in each of them the third from the end is (B, H)
        function(integer(rows), integer(width), *[pointer(each if each is None else address(each)) for each in tensors])
    return step


def pointwise_steps(dtype, states):
    """The functions of `InTorch` for products of `dtype` and such `states`."""
    if has_compiled_steps(dtype, states):
        return Compiled(compiled.library("cells"), str(dtype).removeprefix("torch."))
    return InTorch


def has_compiled_steps(dtype, states):
    """Whether the steps are compiled for products of `dtype` and such `states`, compiling them if need be."""
    return (states.is_cpu and states.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16)
            and compiled.library("cells") is not None)


# ---- the loops over time

def input_gates(x, weight_ih):
    """The input in the weight's dtype (N, I), and its products with the weight for all steps (T, B, G·H)."""
    inputs = x.flatten(0, 1).to(weight_ih.dtype)
    return inputs, (inputs @ weight_ih.t()).view(*x.shape[:2], -1)


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
    if dtype == h.dtype and mask is None:
        return outputs, outputs
    return outputs, states_from(_masked(h, mask), steps, dtype)


def _masked(state, mask):
    return state if mask is None else (state * mask).to(state.dtype)


def take(ctx):
    """What the forward pass kept, once: the backward pass writes over it."""
    if ctx.kept is None:
        raise RuntimeError("the backward pass of a recurrent layer can be run only once")
    kept, ctx.kept = ctx.kept, None
    return kept


def _input_gradient(ctx, d_gates, weight_ih, like):
    if not ctx.needs_input_grad[3]:
        return None
    return (d_gates @ weight_ih).to(like.dtype).view(*like.shape[:2], -1)    # (T, B, I)


def weight_gradient(d_gates, inputs, float_type):
    """d_gates (N, G·H), inputs (N, I or H) -> (G·H, I or H)."""
    return few.outer(d_gates, inputs).to(float_type)


class _LSTM(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, keep, mask, x, h, c, weight_ih, weight_hh, bias_ih, bias_hh, kind):
        weight_ih, weight_hh = weight_ih.to(dtype), weight_hh.to(dtype)
        bias = bias_ih if bias_hh is None else bias_ih + bias_hh
        inputs, x_gates = input_gates(x, weight_ih)                                   # (N, I), (T, B, 4H)
        gates = every_step(x_gates.shape, x, keep) if dtype != x.dtype else x_gates
        cells = states_from(c, len(x), x.dtype)                                              # (T + 1, B, H)
        outputs, states = _states(h, len(x), dtype, mask)
        product = packed(weight_hh, len(h), len(x))
        step = getattr(pointwise_steps(dtype, x), f"{kind}_forward")
        cell, output, state = cells.unbind(), outputs.unbind(), states.unbind()
        for t, (x_gate, gate) in enumerate(zip(x_gates.unbind(), gates.unbind())):
            step(x_gate, product(state[t]), bias, gate, cell[t], cell[t + 1], output[t + 1], state[t + 1])
            if mask is not None:
                state[t + 1].mul_(mask)
        ctx.save_for_backward(weight_ih, weight_hh)
        ctx.kept, ctx.dtype, ctx.mask = (inputs, gates, cells, states), dtype, mask
        ctx.cell_kind, ctx.biases = kind, 1 if bias_hh is None else 2
        return outputs[1:], outputs[-1].clone(), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, dh, dc):
        weight_ih, weight_hh = ctx.saved_tensors
        inputs, gates, cells, states = take(ctx)
        d_gates = torch.empty_like(gates, dtype=ctx.dtype) if ctx.dtype != gates.dtype else gates   # overwritten
        dc = dc.clone()
        product = packed(weight_hh.t(), len(dc), len(d_output))
        step = getattr(pointwise_steps(ctx.dtype, gates), f"{ctx.cell_kind}_backward")
        dh, above = dh.to(ctx.dtype).contiguous(), d_output.contiguous().unbind()
        gate, d_gate, cell = gates.unbind(), d_gates.unbind(), cells.unbind()
        for t in reversed(range(len(above))):
            step(above[t], dh, dc, gate[t], cell[t], cell[t + 1], d_gate[t])
            dh = _masked(product(d_gate[t]), ctx.mask)                                 # (B, H)
        d_gates, float_type = d_gates.flatten(0, 1), dc.dtype                          # (N, 4H)
        d_bias = column_sums(d_gates, float_type)
        return (None, None, None, _input_gradient(ctx, d_gates, weight_ih, d_output), dh.to(float_type), dc,
                weight_gradient(d_gates, inputs, float_type),
                weight_gradient(d_gates, states[:-1].flatten(0, 1), float_type), d_bias,
                d_bias if ctx.biases == 2 else None, None)


class _GRU(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, keep, mask, x, h, weight_ih, weight_hh, bias_ih, bias_hh):
        weight_ih, weight_hh = weight_ih.to(dtype), weight_hh.to(dtype)
        inputs, x_gates = input_gates(x, weight_ih)                                   # (N, I), (T, B, 3H)
        gates = every_step((len(x), len(h), 4 * h.size(1)), x, keep)                  # (T, B, 4H)
        outputs, states = _states(h, len(x), dtype, mask)                                    # (T + 1, B, H)
        product = packed(weight_hh, len(h), len(x))
        step = pointwise_steps(dtype, x).gru_forward
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
        inputs, gates, outputs, states = take(ctx)
        dx_gates = gates.new_empty(*gates.shape[:2], len(weight_hh), dtype=ctx.dtype)  # (T, B, 3H)
        dh_gates = torch.empty_like(dx_gates)
        carry, product = torch.zeros_like(dh), packed(weight_hh.t(), len(dh), len(d_output))
        step = pointwise_steps(ctx.dtype, gates).gru_backward
        dh, above = dh.to(ctx.dtype).contiguous(), d_output.contiguous().unbind()
        gate, dx_gate, dh_gate, output = gates.unbind(), dx_gates.unbind(), dh_gates.unbind(), outputs.unbind()
        for t in reversed(range(len(above))):
            step(above[t], dh, carry, gate[t], output[t], dx_gate[t], dh_gate[t])
            dh = _masked(product(dh_gate[t]), ctx.mask)                                # (B, H)
        dx_gates, dh_gates, float_type = dx_gates.flatten(0, 1), dh_gates.flatten(0, 1), carry.dtype   # (N, 3H)
        return (None, None, None, _input_gradient(ctx, dx_gates, weight_ih, d_output), dh.to(float_type) + carry,
                weight_gradient(dx_gates, inputs, float_type),
                weight_gradient(dh_gates, states[:-1].flatten(0, 1), float_type),
                column_sums(dx_gates, float_type), column_sums(dh_gates, float_type))


def recur(kind, x, hidden, weight_ih, weight_hh, bias_ih, bias_hh, dtype=None, mask=None):
    """One layer of `kind`, "LSTM", "capped LSTM", "coupled LSTM" or "GRU" -> output (T, B, H), new hidden.

    x (T, B, I); hidden h (1, B, H), for an LSTM the pair (h, c); weight_ih (G·H, I), weight_hh (G·H, H) and the biases
    (G·H,) as in `torch.nn.LSTM` and `torch.nn.GRU`; bias_hh may be None in an LSTM. The input gate of a capped LSTM is
    at most 1 minus the forget gate; a coupled one's is that, and G is 3: f, g, o (1707.05589). dtype: the matmul dtype,
    by default that of `x`; with torch.bfloat16 accumulation, states, gates and all that is returned stay as `x` is.
    mask (B, H): factors on the state wherever weight_hh is multiplied by it, the same at every step.
    """
    rest = dtype or x.dtype, torch.is_grad_enabled(), mask, x
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    if kind != "GRU":
        output, h, c = _LSTM.apply(*rest, hidden[0][0], hidden[1][0], *weights, kind.lower().replace(" ", "_"))
        return output, (h[None], c[None])
    output, h = _GRU.apply(*rest, hidden[0], *weights)
    return output, h[None]


def pays(kind, x, weight_hh):
    """Whether `recur` is faster here than torch's own module where precision is not reduced.

    A forward and a backward pass of such a layer are timed once on a machine. Where steps are not compiled, and for
    layers so narrow that calling a step from Python outweighs its work, the answer is no without timing.
    """
    if weight_hh.size(1) < 100 or not has_compiled_steps(x.dtype, x):
        return False
    if len(x) < FEW and x.size(1) <= few.ROWS:          # then weights are read as they lie, once for a product
        return True
    return _pays(kind, _power_of_two(x.size(1)), x.size(2), weight_hh.size(1), x.dtype, torch.get_num_threads())


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

    times = milliseconds(f"{kind} layer of {width} units, {inputs} inputs, batch size {columns} in {dtype}",
                         {"compiled": lambda: passes(lambda: recur(kind, x, hidden, *weights)),
                          "torch": lambda: passes(lambda: recur_by_torch(kind, x, hidden, weights))}, must_be_kept=True)
    return times["compiled"] < times["torch"] if times else width >= TYPICALLY_PAYS
