"""Full or adaptive softmax over one weight matrix (Merity et al. 2018b, section 3; after Grave et al. 2017).

N predictions, V words, E hidden size, K cutoffs. With cutoffs s_1 < … < s_K the vocabulary, sorted by falling
frequency, is split into a head [0, s_1) and K tails [s_k, s_{k+1}). The head's softmax has K more entries, one for
each tail as a whole: p(word in tail k) = p(tail k | head softmax) · p(word | tail k's softmax).
"""
import torch
from torch import nn
from torch.nn import functional as F

ROWS_AT_ONCE = 512  # of (rows, V) logits where no gradient is needed: bounds memory, whatever N


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
        return -self._target_logprob(weight, bias, hiddens, targets).mean()

    @torch.no_grad()
    def target_logprob(self, weight, bias, hiddens, targets):
        """Log-probability of each target -> (N,), never holding more than a few hundred rows of logits."""
        parts = zip(hiddens.split(ROWS_AT_ONCE), targets.split(ROWS_AT_ONCE))
        return torch.cat([self._target_logprob(weight, bias, h, t) for h, t in parts])

    def logprob(self, weight, bias, hiddens):
        """Log-probabilities of all words -> (N, V); every row's exponentials sum to one."""
        edges = self._edges(weight)                                      # [s_1, …, V]
        head = F.log_softmax(self._head_logits(weight, bias, hiddens, edges), dim=1)  # (N, s_1 + K)
        parts = [head[:, :edges[0]]]
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            tail = F.log_softmax(F.linear(hiddens, weight[low:high], bias[low:high]), dim=1)
            parts.append(head[:, _entry(edges, k), None] + tail)         # (N, high - low)
        return torch.cat(parts, dim=1)                                   # (N, V)

    def _target_logprob(self, weight, bias, hiddens, targets):
        edges = self._edges(weight)
        entries = targets.clone()                     # a target's place in the head: itself, or its tail's entry
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            entries[(targets >= low) & (targets < high)] = _entry(edges, k)
        logits = self._head_logits(weight, bias, hiddens, edges)         # (N, s_1 + K)
        logprob = -F.cross_entropy(logits, entries, reduction="none")    # (N,)
        for low, high in zip(edges, edges[1:]):
            rows = ((targets >= low) & (targets < high)).nonzero().squeeze(1)
            tail = F.linear(hiddens[rows], weight[low:high], bias[low:high])
            within = -F.cross_entropy(tail, targets[rows] - low, reduction="none")
            logprob = logprob.index_add(0, rows, within)
        return logprob

    def _edges(self, weight):
        """Ends of the parts: the cutoffs that lie inside the vocabulary, then V."""
        return [split for split in self.splits if split < weight.size(0)] + [weight.size(0)]

    def _head_logits(self, weight, bias, hiddens, edges):
        if len(edges) == 1:
            return F.linear(hiddens, weight, bias)
        tails = len(edges) - 1
        return F.linear(hiddens, torch.cat([weight[:edges[0]], self.tail_vectors[:tails]]),
                        torch.cat([bias[:edges[0]], self.tail_bias[:tails]]))


def _entry(edges, k):
    """Where in the head tail k (from 0) has its entry: the tails' entries are in falling order, as published."""
    return edges[0] + len(edges) - 2 - k
