"""Full or adaptive softmax over one weight matrix (Merity et al. 2018b, section 3; after Grave et al. 2017).

N predictions, V words, E hidden size, K cutoffs. With cutoffs s_1 < … < s_K the vocabulary, sorted by falling
frequency, is split into a head [0, s_1) and K tails [s_k, s_{k+1}). The head's softmax has K more entries, one for
each tail as a whole: p(word in tail k) = p(tail k | head softmax) · p(word | tail k's softmax).
"""
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class SplitCrossEntropyLoss(nn.Module):
    """Cross-entropy of a decoder given from outside, so that it can be tied to the embedding.

    hidden_size: E. splits: the cutoffs s_1 … s_K, strictly increasing; empty for the full softmax. Cutoffs at or
    beyond the vocabulary's end have no words behind them and are ignored. Parameters: tail_vectors (K, E) and
    tail_bias (K,), none without cutoffs. Raises ValueError for cutoffs that are not positive and increasing.
    """

    def __init__(self, hidden_size, splits):
        super().__init__()
        splits = list(splits)
        if any(split <= 0 for split in splits) or sorted(set(splits)) != splits:
            raise ValueError(f"cutoffs must be positive and strictly increasing, not {splits}")
        self.splits = splits
        if splits:
            self.tail_vectors = nn.Parameter(torch.zeros(len(splits), hidden_size))
            self.tail_bias = nn.Parameter(torch.zeros(len(splits)))

    def forward(self, weight, bias, hiddens, targets):
        """Mean cross-entropy in nats of `targets` (N,), given weight (V, E), bias (V,) and hiddens (N, E)."""
        if not torch.is_grad_enabled():
            return -self.target_logprob(weight, bias, hiddens, targets).mean()
        return -self._sum_parts(_SumOfTargets.apply, weight, bias, hiddens, targets) / len(targets)

    @torch.no_grad()
    def target_logprob(self, weight, bias, hiddens, targets):
        """Log-probability of each target -> (N,)."""
        return self._sum_parts(_each_target, weight, bias, hiddens, targets)

    def logprob(self, weight, bias, hiddens):
        """Log-probabilities of all words -> (N, V); every row's exponentials sum to one."""
        edges = self._edges(weight)                                      # [s_1, …, V]
        head = F.log_softmax(F.linear(hiddens, *self._head(weight, bias, edges)), dim=1)  # (N, s_1 + K)
        parts = [head[:, :edges[0]]]
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            tail = F.log_softmax(F.linear(hiddens, weight[low:high], bias[low:high]), dim=1)
            parts.append(head[:, _entry(edges, k), None] + tail)         # (N, high - low)
        return torch.cat(parts, dim=1)                                   # (N, V)

    def _sum_parts(self, score, weight, bias, hiddens, targets):
        """Log-probabilities of the targets' entries in the head, and within their tails, as `score` gives them."""
        edges = self._edges(weight)
        entries = targets.clone()                     # a target's place in the head: itself, or its tail's entry
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            entries[(targets >= low) & (targets < high)] = _entry(edges, k)
        total = score(hiddens, *self._head(weight, bias, edges), entries)
        for low, high in zip(edges, edges[1:]):
            rows = ((targets >= low) & (targets < high)).nonzero().squeeze(1)
            if len(rows):
                within = score(hiddens[rows], weight[low:high], bias[low:high], targets[rows] - low)
                total = total.index_add(0, rows, within) if within.dim() else total + within
        return total

    def _edges(self, weight):
        """Ends of the parts: the cutoffs that lie inside the vocabulary, then V."""
        return [split for split in self.splits if split < weight.size(0)] + [weight.size(0)]

    def _head(self, weight, bias, edges):
        """Weight and bias of the head: its words, then an entry for each tail."""
        if len(edges) == 1:
            return weight, bias
        tails = len(edges) - 1
        return (torch.cat([weight[:edges[0]], self.tail_vectors[:tails]]),
                torch.cat([bias[:edges[0]], self.tail_bias[:tails]]))


def _entry(edges, k):
    """Where in the head tail k (from 0) has its entry: the tails' entries are in falling order, as published."""
    return edges[0] + len(edges) - 2 - k


# The logits of a window are its largest array by far. They are made, used and forgotten some rows at a time: where a
# gradient is wanted it is taken at once, so that no (N, V) array is ever kept, and the blocks of memory are reused.

def _chunks(hiddens, weight):
    """Slices of rows whose logits fit into a few megabytes, or on a GPU into a few hundred."""
    rows = max(1, (2**22 if hiddens.is_cpu else 2**27) // len(weight))
    return [slice(start, start + rows) for start in range(0, len(hiddens), rows)]


def _each_target(hiddens, weight, bias, targets):
    """Log-probability of each target (N,) under one softmax."""
    return torch.cat([-F.cross_entropy(F.linear(hiddens[rows], weight, bias), targets[rows], reduction="none")
                      for rows in _chunks(hiddens, weight)])


class _SumOfTargets(torch.autograd.Function):
    """The sum of `_each_target` -> scalar. Its gradient is computed on the way forward."""

    @staticmethod
    def forward(ctx, hiddens, weight, bias, targets):
        total = hiddens.new_zeros(())
        wanted = any(ctx.needs_input_grad)
        if wanted:
            gradients = torch.empty_like(hiddens), torch.zeros_like(weight), torch.zeros_like(bias)
        for rows in _chunks(hiddens, weight):
            logits = F.linear(hiddens[rows], weight, bias)                   # (rows, V)
            logprobs = logits.sub_(logits.logsumexp(1, keepdim=True))
            total += logprobs.gather(1, targets[rows, None]).sum()
            if wanted:                                                       # one at the target, minus the softmax
                slope = logprobs.exp_().neg_()
                slope.scatter_add_(1, targets[rows, None], slope.new_ones(len(slope), 1))
                torch.mm(slope, weight, out=gradients[0][rows])
                gradients[1].addmm_(slope.t(), hiddens[rows])
                gradients[2].add_(slope.sum(0))
        if wanted:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return *(g * gradient for g in ctx.saved_tensors), None
