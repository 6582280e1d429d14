"""Each stream of the batch, rotated: every token in its order, but for one cut, and anew in every epoch."""
import pytest
import torch

from training.partial_shuffle import Rotated, offsets
from utils import get_batch

STREAMS = torch.arange(11 * 4).view(4, 11).t()                                    # (L, B), all tokens different


@pytest.mark.parametrize("seed", [0, 141, 2**63 - 1])
def test_every_stream_is_rotated_by_an_offset_of_its_own(seed):
    epochs = [offsets(11, 4, seed, epoch) for epoch in range(20)]
    for found in epochs:
        read = Rotated(STREAMS, found)[0:11]
        for stream, rotated in zip(STREAMS.t().tolist(), read.t().tolist()):
            cut = stream.index(rotated[0])
            assert rotated == stream[cut:] + stream[:cut]
    assert len({tuple(found.tolist()) for found in epochs}) > 15
    assert {offset for found in epochs for offset in found.tolist()} == set(range(11))
    assert all(torch.equal(found, offsets(11, 4, seed, epoch)) for epoch, found in enumerate(epochs))


def test_windows_are_those_of_a_rotated_copy():
    found = offsets(11, 4, 3, 0)
    copy = torch.stack([stream.roll(-offset) for stream, offset in zip(STREAMS.t(), found.tolist())], dim=1)
    for row in range(10):
        for a, b in zip(get_batch(Rotated(STREAMS, found), row, None, 4), get_batch(copy, row, None, 4)):
            assert torch.equal(a, b)


def test_a_share_of_the_streams_has_their_offsets():
    found = offsets(11, 4, 3, 7)
    whole = Rotated(STREAMS, found)[2:9]
    for own in (slice(0, 1), slice(1, 4)):
        assert torch.equal(Rotated(STREAMS[:, own], found[own])[2:9], whole[:, own])
