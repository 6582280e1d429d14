"""Partial shuffling of the training text (Press 2019, 1903.04167): every stream of the batch begins elsewhere.

T window length, B batch size, L stream length.
"""
import torch


def offsets(length, bsz, seed, epoch):
    """Where each of `bsz` streams of `length` tokens begins in an epoch -> (B,). Nothing needs to be saved for them."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randint(length, (bsz,), generator=generator)


class Rotated:
    """Streams (L, B), each rotated by its offset: a slice of rows is put together when it is asked for.

    Row r of stream b is row (r + offsets[b]) mod L of it. The text is not copied.
    """

    def __init__(self, streams, offsets):
        self.streams, self.offsets = streams, offsets.to(streams.device)

    def __len__(self):
        return len(self.streams)

    def __getitem__(self, rows):
        rows = torch.arange(*rows.indices(len(self)), device=self.offsets.device)                   # (T,)
        return self.streams.gather(0, (rows[:, None] + self.offsets) % len(self.streams))           # (T, B)


class Endless(Rotated):
    """The same read twice, so that a window that begins before the end goes on at the beginning."""

    def __len__(self):
        return 2 * len(self.streams)
