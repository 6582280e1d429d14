"""Many streams read side by side: those of similar length in one batch, padded at their ends.

T window length, B batch size, N tokens that are predicted, of all streams.
"""
from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence

from utils import map_hidden

TOKENS = 2**11           # in a window, padding included: changes memory and speed, results by rounding alone
PADDING = -1             # the place of what is not predicted


def batches(lengths, bptt, widest):
    """Numbers of the streams that are read together, the longest first -> yields lists, of at most `widest` numbers.

    lengths: how many tokens are read of each stream. A window of a batch has at most `TOKENS`, or one column.
    """
    batch = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == widest or (len(batch) + 1) * min(lengths[batch[0]], bptt) > TOKENS):
            yield batch
            batch = []
        batch.append(number)
    yield batch


def read_batches(step, zero_state, streams, bptt, widest):
    """Run `step` over `streams`, a list of (n + 1, 1), each from a zero state -> yields output, targets, places.

    step: (data (T, B), hidden) -> what it finds, hidden; `model` is one. zero_state: B -> hidden. targets (T, B): the
    words that follow. places (T, B), on the CPU: where they stand among the N targets of all streams in the order
    given, or `PADDING`. A batch is read in windows of `bptt` rows; each is padded by itself, and a stream that has
    ended leaves the batch: a long one among short ones takes no more memory than alone.
    """
    lengths = [len(stream) - 1 for stream in streams]
    ends = torch.tensor(lengths).cumsum(0)                                               # of each stream, in places
    for batch in batches(lengths, bptt, widest):
        hidden, columns = zero_state(len(batch)), torch.tensor(batch)
        for start in range(0, lengths[batch[0]], bptt):
            while lengths[batch[-1]] <= start:
                batch.pop()
            if len(batch) < len(columns):
                columns, hidden = columns[:len(batch)], map_hidden(partial(_first, len(batch)), hidden)
            rows = pad_sequence([streams[i][start:start + bptt + 1, 0] for i in batch])  # (T + 1, B)
            output, hidden = step(rows[:-1], hidden)
            lasts = ends[columns]                                                        # (B,)
            begins = lasts - torch.tensor([lengths[i] for i in batch])
            places = torch.arange(start, start + len(rows) - 1)[:, None] + begins        # (T, B)
            yield output, rows[1:], places.where(places < lasts, PADDING)


def _first(columns, state):
    """state (1, B, ·) -> (1, columns, ·)."""
    return state[:, :columns].contiguous()
