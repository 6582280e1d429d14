"""The neural cache against a loop that a reader would write, in float64."""
import math

import pytest
import torch

from evaluation import neural_cache


def naive(features, targets, vocab, theta, lam, window):
    found = []
    for t in range(len(targets)):
        p, weights = vocab[t].exp().item(), {}
        for i in range(max(0, t - window), t):
            weights[i] = math.exp(theta * (features[t] @ features[i]).item())
        if weights:
            recalled = sum(w for i, w in weights.items() if targets[i] == targets[t]) / sum(weights.values())
            p = (1 - lam) * p + lam * recalled
        found.append(math.log(p) if p else -math.inf)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("window", [1, 7, 40, 1000])
@pytest.mark.parametrize(("theta", "lam"), [(0.66, 0.13), (0, 0.5), (2, 0), (1, 1)])
@pytest.mark.parametrize("block", [1, 16, 512])
def test_cache_against_a_loop(window, theta, lam, block, monkeypatch):
    monkeypatch.setattr(neural_cache, "BLOCK", block)
    torch.manual_seed(0)
    features, targets = torch.randn(150, 5, dtype=torch.float64), torch.randint(12, (150,))
    vocab = torch.log(torch.rand(150, dtype=torch.float64))
    found = neural_cache.cache_logprobs(features, targets, vocab, theta, lam, window)
    torch.testing.assert_close(found, naive(features, targets, vocab, theta, lam, window), rtol=1e-9, atol=1e-9)


def test_large_scores_do_not_overflow():
    features = torch.full((30, 4), 50.0)
    targets, vocab = torch.zeros(30, dtype=torch.long), torch.full((30,), -5.0)
    found = neural_cache.cache_logprobs(features, targets, vocab, 1.0, 0.5, 9)
    torch.testing.assert_close(found[1:], torch.full((29,), math.log(0.5 * math.exp(-5) + 0.5)))


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="3 features, 2 targets"):
        neural_cache.cache_logprobs(torch.randn(3, 2), torch.zeros(2), torch.zeros(2), 1, 0.1, 5)
