"""Where a run is in its training text: the streams that are read in parallel, window by window.

T window length, B batch size, L stream length.
"""
from operator import index

import torch

from checkpoint import check_tensor
from runtime.errors import InputError
from runtime.log import counted
from training.partial_shuffle import Endless, Rotated, offsets
from utils import flat_hidden, get_batch


class TextReader:
    """Reads streams (L, B): those in `share` of the `bsz` of the whole batch.

    A pass begins at the first token of every stream, from the zero state; with partial_shuffle at another place of its
    own in every pass. With read_on a stream begins at a random place once and is a circle from then on: windows go on
    across the end of a pass, and so does the hidden state (Melis et al. 2018).

    `row`: tokens of a stream that this pass has read. `times_read`: passes before it. `hidden`: the state after the
    last window. zero_state: batch size -> the state before a text.
    """

    def __init__(self, streams, zero_state, bsz, share, seed, partial_shuffle=False, read_on=False):
        self.streams, self.zero_state, self.bsz, self.share, self.seed = streams, zero_state, bsz, share, seed
        self.partial_shuffle, self.read_on = partial_shuffle, read_on
        self.rows = len(streams)
        self.length = self.rows if read_on else self.rows - 1                      # of a pass, in tokens of a stream
        self.begin(0)

    def begin(self, times):
        """Go to the beginning of the text, which has been read so many times."""
        self.times_read, self.row, self.text = times, 0, self.streams
        self.hidden = self.zero_state(self.streams.size(1))
        if self.partial_shuffle or self.read_on:
            kind, times = (Endless, 0) if self.read_on else (Rotated, times)
            self.text = kind(self.streams, offsets(len(self.streams), self.bsz, self.seed, times)[self.share])

    def next_pass(self):
        """Go from the end of a pass to the next one."""
        if self.read_on:
            self.row, self.times_read = self.row - self.length, self.times_read + 1
        else:
            self.begin(self.times_read + 1)

    def read(self, length):
        """The next window, of `length` tokens or what is left of the pass -> data (T, B), targets (N,)."""
        if self.row >= self.length:
            self.next_pass()
        data, targets = get_batch(self.text, self.row, None, length)
        self.row += len(data)
        return data, targets

    def state_dict(self):
        """All but the hidden state, which several processes put together."""
        return {"row": self.row, "rows": self.rows, "times_read": self.times_read}

    def load_state_dict(self, state, times_read, where):
        """Go where `state_dict` was, with the zero state. times_read: for a state that does not say it. InputError,
        starting with `where`, if streams have another length."""
        rows, row = index(state["rows"]), index(state["row"])
        if rows != len(self.streams) or not 0 <= row < (2 * rows if self.read_on else rows):
            raise InputError(f"{where} is of {counted(rows, 'tokens')} in each stream of the batch, now they have "
                             f"{len(self.streams)}: use the --data and --batch-size it was trained with")
        self.begin(index(state.get("times_read", times_read)))
        self.row = row

    def hidden_of_all(self, group):
        """The hidden state of the whole batch, on the CPU, put together by the processes of `group` -> list."""
        parts = group.all_gather([h.cpu() for h in flat_hidden(self.hidden)])
        return [torch.cat(shares, dim=1) for shares in zip(*parts)]

    def load_hidden(self, saved, where):
        """Take this process's streams of what `hidden_of_all` gave; InputError, starting with `where`, if it is not of
        such a batch."""
        for saved_state, state in zip(flat_hidden(saved), flat_hidden(self.hidden), strict=True):
            like = state.new_empty(state.size(0), self.bsz, *state.shape[2:], device="cpu")
            check_tensor(saved_state, like, f"{where}: hidden")
            state.copy_(saved_state[:, self.share])
