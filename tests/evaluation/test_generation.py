"""Words drawn from a softmax."""
import pytest
import torch

from evaluation.generation import next_word

PROBABILITIES = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])
LIKELIEST_FIRST = [1, 3, 4, 0, 2]


@pytest.mark.parametrize(("flags", "count"), [
    ({}, 5), ({"top_p": 1.0}, 5), ({"top_p": 0.0}, 1), ({"top_p": 0.39}, 1), ({"top_p": 0.41}, 2), ({"top_p": 0.69}, 2),
    ({"top_p": 0.71}, 3), ({"top_p": 0.96}, 5), ({"top_k": 2}, 2), ({"top_k": 3, "top_p": 0.5}, 2),
    ({"top_k": 9}, 5), ({"temperature": 0}, 1), ({"temperature": 1e-45}, 1),
    ({"temperature": 0, "top_p": 0.9, "top_k": 3}, 1)])
def test_what_is_drawn_from(flags, count):
    """The likeliest words that it takes, and the shares of what is drawn are theirs."""
    generator = torch.Generator().manual_seed(0)
    drawn = [next_word(PROBABILITIES.log(), **{"temperature": 1.0, **flags}, generator=generator) for _ in range(2000)]
    kept = LIKELIEST_FIRST[:count]
    assert set(drawn) == set(kept)
    shares = PROBABILITIES[kept] / PROBABILITIES[kept].sum()
    assert torch.bincount(torch.tensor(drawn), minlength=5)[kept] / 2000 == pytest.approx(shares, abs=0.04)


def test_no_more_than_top_k_of_equally_likely_words():
    generator, logprobs = torch.Generator().manual_seed(0), torch.tensor([0.1, 0.225, 0.225, 0.225, 0.225]).log()
    assert len({next_word(logprobs, 1.0, top_k=2, generator=generator) for _ in range(200)}) == 2
    assert len({next_word(logprobs, 1.0, top_k=1, generator=generator) for _ in range(200)}) == 1


def test_top_p_counts_after_the_temperature():
    """At half the temperature the likeliest word alone has more than half of the probability."""
    generator = torch.Generator().manual_seed(0)
    drawn = {next_word(PROBABILITIES.log(), 0.5, top_p=0.5, generator=generator) for _ in range(200)}
    assert drawn == {1}
