"""One time step of a recurrent cell without its matrix products, forward and backward: what cells.cpp computes.

`x_gates` and `h_gates` are the products with the input and with the state before, in the matmul dtype; all else is in
the dtype of the states. B batch size, H hidden units, W width of what a Mogrifier scales.
"""
import torch


class Steps:
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

    @staticmethod
    def state_gradient(d_out, d_state, carry, mask, total):                     # -> total (B, H)
        """The gradient that reaches a state from above and from a step that begins with it times `mask`, which may be
        None: of d_state, of the rounds before the step, which may be None, and of `carry`."""
        back = carry if d_state is None else carry + d_state
        torch.add(d_out, back if mask is None else back * mask, out=total)


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
