"""A recurrent layer by torch's own kernels: cuDNN on a GPU, its weights laid out as cuDNN reads them fastest.

cuDNN reads the weights of a layer from one buffer; weights that lie elsewhere are copied there at every call, and torch
warns of it. DropConnect makes new weights for every window, so here each window gets its buffer at once, in the matmul
dtype. Widths are padded with zeros to multiples of 8, for products that want rows aligned to 16 bytes
(1150 becomes 1152). A padded unit has no weights and no bias: its cell and its output stay zero, nothing else changes.

T window length, B batch size, I width of the input, H hidden units, G gates (4 in an LSTM, 3 in a GRU); I', H' padded.
"""
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ops.fallbacks import stop_cudnn

KERNELS = {"LSTM": torch._VF.lstm, "GRU": torch._VF.gru}
MULTIPLE = 8


def recur_by_torch(kind, x, hidden, weights):
    """One layer of `kind` by torch's own kernel, that of `nn.LSTM` and `nn.GRU` -> output (T, B, H), new hidden.

    weights: weight_ih (G·H, I), weight_hh (G·H, H), bias_ih and bias_hh (G·H,).
    """
    # has biases, layers, dropout, training, bidirectional, batch first
    settings = True, 1, 0.0, torch.is_grad_enabled(), False, False
    try:
        output, *states = KERNELS[kind](x, hidden, weights, *settings)
    except RuntimeError as error:
        if not stop_cudnn(error):
            raise
        output, *states = KERNELS[kind](x, hidden, weights, *settings)
    return output, tuple(states) if kind == "LSTM" else states[0]


def recur_flat(kind, x, hidden, weight_ih, weight_hh, bias_ih, bias_hh, dtype=None):
    """One layer of `kind`, "LSTM" or "GRU" -> output (T, B, H), new hidden; as `recurrence.recur`.

    With a dtype of 16 bits the states inside a window have it, too, as cuDNN keeps them; what is returned is as `x` is.
    """
    dtype, width = dtype or x.dtype, weight_hh.size(1)
    weights = _Flat.apply(dtype, weight_ih, weight_hh, bias_ih, bias_hh)
    states = [_padded(state, dtype) for state in (hidden if kind == "LSTM" else (hidden,))]
    output, state = recur_by_torch(kind, _padded(x, dtype), states if kind == "LSTM" else states[0], weights)
    states = state if kind == "LSTM" else [state]
    output, *states = (tensor[..., :width].to(x.dtype) for tensor in (output, *states))
    return output, tuple(states) if kind == "LSTM" else states[0]


def _padded(x, dtype):
    """x (…, I) -> (…, I')."""
    return F.pad(x, (0, -x.size(-1) % MULTIPLE)).to(dtype).contiguous()


class _Flat(torch.autograd.Function):
    """weight_ih (G·H, I), weight_hh (G·H, H), biases (G·H,) -> the same, padded, as views of one buffer."""

    @staticmethod
    def forward(ctx, dtype, *weights):
        width = weights[1].size(1)
        gates = len(weights[1]) // width
        ctx.gates, ctx.width, ctx.shapes, ctx.dtype = gates, width, [w.shape for w in weights], weights[0].dtype
        shapes = [(gates, width + -width % MULTIPLE, *(n + -n % MULTIPLE for n in w.shape[1:])) for w in weights]
        buffer = weights[0].new_zeros(sum(map(_product, shapes)), dtype=dtype)
        views = [part.view(shape) for part, shape in zip(buffer.split([*map(_product, shapes)]), shapes)]
        for view, weight in zip(views, weights):
            _without_padding(view, weight.shape, width).copy_(weight.view(gates, width, *weight.shape[1:]))
        return tuple(view.flatten(0, 1) for view in views)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        unpadded = []
        for gradient, shape in zip(gradients, ctx.shapes):
            gradient = gradient.reshape(ctx.gates, -1, *gradient.shape[1:])
            unpadded.append(_without_padding(gradient, shape, ctx.width).to(ctx.dtype).reshape(shape).contiguous())
        return None, *unpadded


def _without_padding(padded, shape, width):
    """padded (G, H', …) -> the part (G, H, …) that stands for a weight of `shape`."""
    padded = padded[:, :width]
    return padded[..., :shape[1]] if len(shape) > 1 else padded


def _product(shape):
    return torch.Size(shape).numel()
