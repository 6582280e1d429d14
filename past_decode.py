"""Past decode regularisation (Brahma 2018, 1808.05908): the last input word is predicted from the next word's softmax.

T window length, B batch size, V vocabulary, E emsize, N = T·B, n rows of a slice.
"""
import torch
from torch import nn
from torch.nn import functional as F

LOGITS = 2**22          # elements of an (n, V) array in hand at a time on a CPU: few enough for its cache
GPU_LOGITS = 2**27      # on a GPU


class PastDecoder(nn.Module):
    """The loss of past decode regularisation, with its own parameters, which only training needs.

    For the input x_t and the softmax's probabilities p (V,) of x_{t+1}: the cross-entropy of x_t under
    softmax(tanh(p E W + c) Eᵀ + b), E the word vectors (V, E). W, c and b are its own.
    factor: the loss's weight, the paper's lambda. `matmul_dtype`: torch.bfloat16, or None for that of the weights.
    """

    def __init__(self, ntoken, ninp, factor):
        super().__init__()
        self.factor, self.matmul_dtype = factor, None
        self.transform = nn.Linear(ninp, ninp)
        self.bias = nn.Parameter(torch.zeros(ntoken))

    def forward(self, logprob, parameters, embedding, features, words):
        """`factor` times the mean loss in nats of the input words (T, B), from what follows them -> scalar.

        logprob: the softmax, features (n, ·) -> (n, V); parameters: all that it and `embedding` (V, E) are made of.
        features: (N, ·). No (N, V) array is made: slices of whole rows of the batch are taken one after another.
        """
        most = LOGITS if features.is_cpu else GPU_LOGITS
        steps = max(1, most // (words.size(1) * len(embedding)))
        parameters = list(dict.fromkeys([*parameters, *self.parameters()]))

        def loss(features, words):
            return self._loss(logprob(features), embedding, words)

        total = _SumOfSlices.apply(loss, steps * words.size(1), words.flatten(), features, *parameters)
        return self.factor * total / words.numel()

    def _loss(self, logprobs, embedding, words):
        """Sum of the losses of words (n,), from the log-probabilities (n, V) of those that follow them."""
        soft = _product(logprobs.exp(), embedding, self.matmul_dtype)                # (n, E), a mean of word vectors
        past = self.transform(soft).tanh()                                           # (n, E)
        return F.cross_entropy(_product(past, embedding.t(), self.matmul_dtype) + self.bias, words, reduction="sum")


def _product(a, b, dtype):
    return a @ b if dtype is None else (a.to(dtype) @ b.to(dtype)).to(a.dtype)


class _SumOfSlices(torch.autograd.Function):
    """The sum of `loss(features, words)` over slices of so many rows, each with its gradient on the way forward.

    What a slice needed is free again before the next, and its dropout masks are never needed twice.
    """

    @staticmethod
    def forward(ctx, loss, rows, words, features, *parameters):
        total, slopes, sums = features.new_zeros(()), torch.empty_like(features), [None] * len(parameters)
        for x, target, slope in zip(features.split(rows), words.split(rows), slopes.split(rows)):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                nats = loss(x, target)
                of_features, *others = torch.autograd.grad(nats, (x, *parameters), allow_unused=True)
            total += nats.detach()
            slope.copy_(of_features)
            for i, gradient in enumerate(others):
                sums[i] = gradient if sums[i] is None else sums[i].add_(gradient)
        ctx.save_for_backward(slopes, *sums)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return None, None, None, *(None if g is None else g * gradient for g in ctx.saved_tensors)
