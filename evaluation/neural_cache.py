"""The neural cache (Grave et al. 2017): the words seen lately become likelier.

Beside the model's own distribution stands one over the last `window` positions: the word that followed an earlier
position i is recalled with weight exp(theta · h_t · h_i). Both are mixed, p = (1 - lambda) p_vocab + lambda p_cache.

N tokens, E width of a feature, W window.
"""
import math

import torch
from tqdm import tqdm

from evaluation.figures import best_of_grids, mean_loss
from runtime import values
from runtime.log import log, report_tokens
from runtime.options import Flag

BLOCK = 512                      # queries at a time: bounds memory at about BLOCK x (BLOCK + W) scores
THETAS = (0.1, 0.3, 0.5, 0.66, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0)               # the grids of a search
LAMBDAS = (0.02, 0.05, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
FLAGS = (
    Flag("window", 3785, "positions the cache holds; from the second word of a text on it is used as far as it is "
         "filled (published figures of Grave et al. mix it in only after N words)", values.size, "N"),
    Flag("theta", 0.6625523432485668, "preference of the cache for similar positions", values.non_negative, "X"),
    Flag("lambdasm", 0.12785920428335693, "share of the cache in the mixture", values.weight, "X"),
)


def cache_logprobs(features, targets, vocab_logprobs, theta, lambdasm, window):
    """Log-probability of each target under the mixture -> (N,).

    features (N, E): the model's output at each position of one stream; targets (N,): the word that follows it;
    vocab_logprobs (N,): the model's log-probability of it. theta: flatness of the cache, lambdasm: its share,
    window: how many earlier positions it holds, at least 1. A position sees all earlier ones within the window; the
    first sees none and keeps the model's own probability. Raises ValueError for arrays of different lengths.
    """
    return mix(vocab_logprobs, recall_logprobs(features, targets, theta, window), lambdasm)


def mix(vocab_logprobs, recalled, lambdasm):
    """log((1 - lambda) · p_vocab + lambda · p_cache), both given as logarithms of one stream (N,)."""
    vocab = vocab_logprobs + (math.log1p(-lambdasm) if lambdasm < 1 else -math.inf)
    cache = recalled + (math.log(lambdasm) if lambdasm > 0 else -math.inf)
    mixed = torch.logaddexp(vocab, cache)
    mixed[:1] = vocab_logprobs[:1]  # nothing has been seen yet: there is no cache to mix in
    return mixed


def recall_logprobs(features, targets, theta, window):
    """Log-probability of each target under the cache alone (N,); -inf where it holds nothing of the kind."""
    n = len(features)
    if len(targets) != n or window < 1:
        raise ValueError(f"{n} features, {len(targets)} targets and a window of {window} make no cache")
    recalled = []
    for start in range(0, n, BLOCK):
        stop, first = min(start + BLOCK, n), max(0, start - window)
        queries = torch.arange(start, stop, device=features.device)[:, None]             # (b, 1)
        keys = torch.arange(first, stop, device=features.device)[None, :]                # (1, b + W)
        seen = (keys < queries) & (keys >= queries - window)
        scores = theta * (features[start:stop] @ features[first:stop].t())               # (b, b + W)
        scores = scores.masked_fill(~seen, -math.inf)
        same = targets[start:stop, None] == targets[None, first:stop]
        match = scores.masked_fill(~same, -math.inf).logsumexp(1)                        # (b,)
        recalled.append(torch.where(match == -math.inf, match, match - scores.logsumexp(1)))
    return torch.cat(recalled) if recalled else features.new_zeros(0)


def search(features, targets, vocab_logprobs, window, name):
    """`theta` and `lambdasm` of the grids with the lowest mean loss on one stream (N,), called `name` -> dict."""
    losses = {}
    for theta in tqdm(THETAS, disable=None, leave=False):
        recalled = recall_logprobs(features, targets, theta, window)
        for lambdasm in LAMBDAS:
            losses[theta, lambdasm] = mean_loss(mix(vocab_logprobs, recalled, lambdasm).tolist())
        best = min(LAMBDAS, key=lambda lambdasm: losses[theta, lambdasm])
        log(f"| theta {theta:5.2f} | best lambda {best:5.2f} | {report_tokens(losses[theta, best], f'{name} ')}")
    return best_of_grids(losses, theta=THETAS, lambdasm=LAMBDAS)
