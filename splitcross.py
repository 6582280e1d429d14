"""Full or adaptive softmax over one weight matrix (Merity et al. 2018b, section 3; after Grave et al. 2017).

N predictions, V words, E hidden size, K cutoffs. With cutoffs s_1 < … < s_K the vocabulary, sorted by falling
frequency, is split into a head [0, s_1) and K tails [s_k, s_{k+1}). The head's softmax has K more entries, one for
each tail as a whole: p(word in tail k) = p(tail k | head softmax) · p(word | tail k's softmax).
"""
from functools import partial

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class SplitCrossEntropyLoss(nn.Module):
    """Cross-entropy of a decoder given from outside, so that it can be tied to the embedding.

    hidden_size: E. splits: the cutoffs s_1 … s_K, strictly increasing; empty for the full softmax. Cutoffs at or
    beyond the vocabulary's end have no words behind them and are ignored. Parameters: tail_vectors (K, E) and
    tail_bias (K,), none without cutoffs. `matmul_dtype`: torch.bfloat16, or None for that of
    the weights; accumulation, logits, their statistics and the loss stay as they are. `fused`: a
    function that does what `_softmax` below does with logits, in one kernel, where there is one. `advsoft`: that of
    `SlicedSoftmax`, in training, without cutoffs alone. Raises ValueError for cutoffs that are not positive and
    increasing.
    """

    def __init__(self, hidden_size, splits):
        super().__init__()
        splits = list(splits)
        if any(split <= 0 for split in splits) or sorted(set(splits)) != splits:
            raise ValueError(f"cutoffs must be positive and strictly increasing, not {splits}")
        self.splits = splits
        self.matmul_dtype = self.fused = None
        self.advsoft = 0.0
        if splits:
            self.tail_vectors = nn.Parameter(torch.zeros(len(splits), hidden_size))
            self.tail_bias = nn.Parameter(torch.zeros(len(splits)))

    def forward(self, weight, bias, hiddens, targets):
        """Mean cross-entropy in nats of `targets` (N,), given weight (V, E), bias (V,) and hiddens (N, E)."""
        if not torch.is_grad_enabled():
            return -self.target_logprob(weight, bias, hiddens, targets).mean()
        advsoft = self.advsoft if self.training else 0.0
        score = partial(_SumOfTargets.apply, advsoft)
        return -self._sum_parts(score, weight, bias, hiddens, targets) / len(targets)

    @torch.no_grad()
    def target_logprob(self, weight, bias, hiddens, targets):
        """Log-probability of each target -> (N,)."""
        return self._sum_parts(each_target, weight, bias, hiddens, targets)

    def logprob(self, weight, bias, hiddens):
        """Log-probabilities of all words -> (N, V); every row's exponentials sum to one."""
        edges = self._edges(weight)                                      # [s_1, …, V]
        dtype = self.matmul_dtype or weight.dtype
        head = self._head(weight[:edges[0]], bias[:edges[0]], len(edges) - 1)
        head = F.log_softmax(_logits(hiddens, *head, dtype), dim=1)              # (N, s_1 + K)
        parts = [head[:, :edges[0]]]
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            tail = F.log_softmax(_logits(hiddens, weight[low:high], bias[low:high], dtype), dim=1)
            parts.append(head[:, _entry(edges, k), None] + tail)         # (N, high - low)
        return torch.cat(parts, dim=1)                                   # (N, V)

    def _sum_parts(self, score, weight, bias, hiddens, targets):
        """Log-probabilities of the targets' entries in the head, and within their tails, as `score` gives them."""
        edges = self._edges(weight)
        dtype_and_kernel = self.matmul_dtype or weight.dtype, self.fused if weight.dtype == torch.float32 else None
        if len(edges) == 1:
            return score(hiddens, weight, bias, targets, *dtype_and_kernel)
        entries = targets.clone()                     # a target's place in the head: itself, or its tail's entry
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            entries[(targets >= low) & (targets < high)] = _entry(edges, k)
        # The gradient of a split is put together once; that of each slice would be a whole matrix, of zeros mostly.
        sizes = [high - low for low, high in zip([0, *edges], edges)]
        (head, *tails), (head_bias, *tail_biases) = weight.split(sizes), bias.split(sizes)
        total = score(hiddens, *self._head(head, head_bias, len(tails)), entries, *dtype_and_kernel)
        for low, high, tail, tail_bias in zip(edges, edges[1:], tails, tail_biases):
            rows = ((targets >= low) & (targets < high)).nonzero().squeeze(1)
            if len(rows):
                within = score(hiddens.index_select(0, rows), tail, tail_bias, targets[rows] - low, *dtype_and_kernel)
                total = total.index_add(0, rows, within) if within.dim() else total + within
        return total

    def _edges(self, weight):
        """Ends of the parts: the cutoffs that lie inside the vocabulary, then V."""
        return [split for split in self.splits if split < weight.size(0)] + [weight.size(0)]

    def _head(self, weight, bias, tails):
        """Weight and bias of the head, given those of its words: then comes an entry for each of so many tails."""
        if not tails:
            return weight, bias
        return torch.cat([weight, self.tail_vectors[:tails]]), torch.cat([bias, self.tail_bias[:tails]])


def _entry(edges, k):
    """Where in the head tail k (from 0) has its entry: the tails' entries are in falling order, as published."""
    return edges[0] + len(edges) - 2 - k


# The logits of a window are its largest array by far. They are made, used and forgotten some rows at a time: where a
# gradient is wanted it is taken at once, so that no (N, V) array is ever kept, and the blocks of memory are reused.

LOGITS = 2**22, 2**25          # in hand at a time on a CPU: so many if that makes 512 rows, else up to so many more
GPU_LOGITS = 2**27, 2**27      # on a GPU


def chunks(hiddens, weight, copies=1):
    """Slices of rows whose logits, `copies` rows of them each, fit into some megabytes, or on a GPU into hundreds."""
    few, many = LOGITS if hiddens.is_cpu else GPU_LOGITS
    rows = max(1, few // len(weight), min(512, many // len(weight)))  # the weight's gradient is added to once per slice
    rows = max(1, rows // copies)
    return [slice(start, start + rows) for start in range(0, len(hiddens), rows)]


def _logits(hiddens, weight, bias, dtype):
    """hiddens (N, E), weight (V, E), bias (V,) -> (N, V) in the bias's type, from a product of numbers of `dtype`."""
    if dtype == bias.dtype:
        return F.linear(hiddens, weight, bias)
    return bias + F.linear(hiddens.to(dtype), weight.to(dtype))


def _product(a, b, dtype):
    """a @ b in `dtype`, which may be wider than theirs: a GPU then need not round the sums to theirs in between."""
    return _wide_product(a, b, dtype).to(dtype)


def _wide_product(a, b, dtype):
    """a @ b in `dtype` where the device has such a product, else in the type of a and b."""
    return torch.mm(a, b, out_dtype=dtype) if a.is_cuda and a.dtype != dtype else a @ b


def _softmax(x, weight, bias, targets, dtype, noise=None):
    """Of targets (n,) the log-probabilities (n,), and of their negative the gradient by the logits.

    That comes in two parts: at the targets (n,), and elsewhere (n, V) in `dtype`, with zeros at the targets. noise:
    (n, 1), added to the targets' logits.
    """
    target = targets[:, None]
    logits = _logits(x, weight, bias, dtype)                             # (n, V)
    if noise is not None:
        logits.scatter_add_(1, target, noise)
    largest, of_target = logits.amax(1, keepdim=True), logits.gather(1, target)
    exponentials = logits.sub_(largest).exp_()
    sums = exponentials.sum(1, keepdim=True)                             # (n, 1)
    slope = exponentials.div_(sums)
    at_target = slope.gather(1, target) - 1                              # (n, 1): the softmax, minus one at the target
    slope.scatter_(1, target, 0)
    return (of_target - largest - sums.log())[:, 0], at_target[:, 0], slope.to(dtype)


def each_target(hiddens, weight, bias, targets, dtype, fused):
    """Log-probability of each target (N,) under one softmax."""
    weight, parts = weight.to(dtype), []
    for rows in chunks(hiddens, weight):
        if fused:
            logits = _wide_product(hiddens[rows].to(dtype), weight.t(), bias.dtype)
            parts.append(fused(logits, bias, targets[rows])[0])
        else:
            logits = _logits(hiddens[rows], weight, bias, dtype)
            parts.append(-F.cross_entropy(logits, targets[rows], reduction="none"))
    return torch.cat(parts)


class SlicedSoftmax:
    """One softmax, some rows at a time: log-probabilities of their targets and, at once, the gradient of minus these.

    Called slice by slice; d_weight (V, E) and d_bias (V,) grow with each. advsoft: every target's word vector is
    perturbed by the worst vector of `advsoft` times its length, which is -advsoft · ‖w‖ h/‖h‖, a constant to the
    gradient (Wang, Gong & Liu 2019; as in their code, only where w · h > 0).
    """

    def __init__(self, weight, bias, dtype, fused, advsoft=0.0):
        self.weight, self.bias, self.dtype, self.fused, self.advsoft = weight, bias, dtype, fused, advsoft
        self.narrow = weight.to(dtype)
        self.d_weight, self.d_bias = torch.zeros_like(weight), torch.zeros_like(bias)

    def __call__(self, x, targets, share=None):
        """x (n, E), targets (n,) -> log-probabilities (n,), and the gradient of minus these by x (n, E).

        share: a function of the log-probabilities that gives what the gradient of each counts by (n,).
        """
        vectors, noise = self.weight[targets], None                      # (n, E)
        if self.advsoft:
            length = self.advsoft * vectors.norm(dim=1, keepdim=True)
            worst = -length * F.normalize(x, dim=1) * ((x * vectors).sum(1, keepdim=True) > 0)         # (n, E)
            vectors, noise = vectors + worst, (x * worst).sum(1, keepdim=True)
        logprobs, at_target, slope = self._softmax(x.to(self.dtype), targets, noise)
        d_x = _product(slope, self.narrow, self.weight.dtype)
        at_target, counted = at_target[:, None], x                       # (n, 1), (n, E)
        if share is None:
            self.d_bias.add_(slope.sum(0, dtype=self.bias.dtype))
        else:                                                            # never times the slope, the largest array
            each = share(logprobs)[:, None]
            at_target, d_x, counted = at_target * each, d_x * each, x * each
            self.d_bias.add_(_product(slope.t(), each.to(self.dtype), self.bias.dtype)[:, 0])
        self.d_bias.index_add_(0, targets, at_target[:, 0])
        # The targets' share, often nearly all of the gradient, is not rounded to the products' type.
        self.d_weight.index_add_(0, targets, at_target * x)
        if self.dtype == self.weight.dtype:
            self.d_weight.addmm_(slope.t(), counted)
        else:
            self.d_weight.add_(_product(slope.t(), counted.to(self.dtype), self.weight.dtype))
        return logprobs, torch.addcmul(d_x, at_target, vectors)

    def _softmax(self, x, targets, noise):
        """As the function of this name, in one kernel where there is one."""
        if not self.fused:
            return _softmax(x, self.narrow, self.bias, targets, self.dtype, noise)
        logits = _wide_product(x, self.narrow.t(), self.bias.dtype)
        logits = logits if noise is None else logits.to(noise.dtype).scatter_add_(1, targets[:, None], noise)
        return self.fused(logits, self.bias, targets, self.dtype)


class _SumOfTargets(torch.autograd.Function):
    """The sum of `each_target` -> scalar. Its gradient, but for the sign, is computed on the way forward."""

    @staticmethod
    def forward(ctx, advsoft, hiddens, weight, bias, targets, dtype, fused):
        if not any(ctx.needs_input_grad):
            return each_target(hiddens, weight, bias, targets, dtype, fused).sum()
        total, d_hiddens = hiddens.new_zeros(()), torch.empty_like(hiddens)
        softmax = SlicedSoftmax(weight, bias, dtype, fused, advsoft)
        for rows in chunks(hiddens, weight):
            logprobs, d_hiddens[rows] = softmax(hiddens[rows], targets[rows])
            total += logprobs.sum()
        ctx.save_for_backward(d_hiddens, softmax.d_weight, softmax.d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return None, *(g * -gradient for g in ctx.saved_tensors), None, None, None
