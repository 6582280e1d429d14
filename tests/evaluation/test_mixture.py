"""Mixtures against loops that a reader would write, in float64."""
import math

import pytest
import torch

from evaluation import mixture
from evaluation.figures import mean_loss
from evaluation.mixture import best_weights, equal_weights, mix


def logprobs(models=3, tokens=200, seed=1):
    """Log-probabilities (K, N), as of models of which each is good at other tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(models, tokens, generator=generator, dtype=torch.float64).pow(3).log()


def naive(found, weights):
    return [math.log(sum(w * math.exp(logprob) for w, logprob in zip(weights, token))) for token in found.t().tolist()]


@pytest.mark.parametrize("weights", [[0.2, 0.5, 0.3], [1, 0, 0], [1 / 3] * 3])
def test_mixing_against_a_loop(weights):
    found = logprobs()
    mixed = mix(found, torch.tensor(weights, dtype=torch.float64))
    assert mixed.tolist() == pytest.approx(naive(found, weights), rel=1e-12)


def test_one_model_and_copies_of_it():
    found = logprobs(1)
    assert torch.equal(mix(found, equal_weights(1)), found[0]) and best_weights(found)[0].tolist() == [1]
    copies = found.expand(3, -1)
    torch.testing.assert_close(mix(copies, equal_weights(3)), found[0], rtol=1e-14, atol=1e-14)
    assert torch.equal(best_weights(copies)[0], equal_weights(3))


def test_very_unlikely_words_do_not_underflow():
    found = torch.full((2, 4), -2000.0, dtype=torch.float64)
    assert mix(found, equal_weights(2)).tolist() == pytest.approx([-2000] * 4)
    assert best_weights(found)[0].sum() == 1


@pytest.mark.parametrize("seed", range(5))
def test_chosen_weights_are_the_best_of_a_grid(seed):
    found = logprobs(2, seed=seed)
    weights, steps = best_weights(found)
    grid = min(mean_loss(mix(found, torch.tensor([w, 1 - w], dtype=torch.float64))) for w in
               (i / 500 for i in range(501)))
    assert mean_loss(mix(found, weights)) <= grid + mixture.CLOSE and 0 < steps < mixture.MOST_STEPS


def test_steps_against_a_loop_never_worsen_and_stay_on_the_simplex(monkeypatch):
    found, expected, last = logprobs(4), [0.25] * 4, math.inf
    for steps in range(30):
        monkeypatch.setattr(mixture, "MOST_STEPS", steps)
        weights = best_weights(found)[0]
        assert weights.tolist() == pytest.approx(expected, rel=1e-9)
        assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1, abs=1e-14)
        loss = mean_loss(mix(found, weights))
        assert loss <= last
        last, mixed = loss, naive(found, expected)
        expected = [sum(w * math.exp(row[t] - mixed[t]) for t in range(len(mixed))) / len(mixed)
                    for w, row in zip(expected, found.tolist())]


def test_a_useless_model_gets_nothing_and_an_impossible_word_counts_for_none():
    good = logprobs(1)
    found = torch.cat([good, good - 3])
    weights = best_weights(found)[0]
    assert weights[1] < 1e-4 and mean_loss(mix(found, weights)) == pytest.approx(mean_loss(good[0]), abs=1e-6)
    found = logprobs(3)
    impossible = torch.cat([found, torch.full((3, 1), -math.inf)], 1)
    assert torch.equal(best_weights(impossible)[0], best_weights(found)[0])
    assert mean_loss(mix(impossible, equal_weights(3))) == math.inf
