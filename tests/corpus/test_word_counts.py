"""Counts of words from a checkpoint that may come from anywhere."""
import pytest
import torch

from corpus import word_counts
from runtime.errors import InputError


@pytest.mark.parametrize("state", [
    torch.zeros(3), torch.zeros(()), [], "words", 1, {}, {"words": None, "counts": torch.ones(3), "total": 3},
    {"words": None, "counts": torch.ones(2, dtype=torch.int64), "total": 2}])
def test_damaged_counts(state):
    with pytest.raises(InputError, match="counts of words"):
        word_counts.restore(state, ["a", "b", "c"])
