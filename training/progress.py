"""How far a training run has come: the epochs that have ended, where the present one is, its losses, and when the loss
has stalled.

With --turn-steps turns of so many steps take the epochs' place.
"""
import math
from operator import index

import torch

from checkpoint import words_seen
from evaluation.stalling import has_no_new_best, has_stalled
from runtime.errors import InputError
from runtime.log import counted, log
from runtime.meter import Meter
from runtime.signals import Stop
from training.settings import TrainingConfig

CLOSE = 0.99       # share of the words of --save-at-words that is enough at the end: held-out text is not read


class Progress:
    """What a run says about itself, and saves.

    history: a dict for every epoch that has ended. batch: windows of the present one that have been read. meter: their
    losses; interval: those since the last log line. switch_epoch, switch_reason: after which epoch averaging began, and
    why. finished: nothing but the test is left. words_before: words that the model has read in earlier runs, None where
    that is not known.
    """

    def __init__(self, config: TrainingConfig, words_before=0, words_per_token=1.0):
        self.config, self.unit = config, "turn" if config.turn_steps else "epoch"
        self.words_before, self.words_per_token = words_before, words_per_token
        self.marks = []                                           # of --save-at-words, those that are still to come
        self.waiting = []                                         # (batch, loss, tokens) still on the device
        self.skipped = self.skipped_in_a_row = 0                  # steps without a finite loss or gradient
        self.history = []
        self.switch_epoch, self.switch_reason = None, None
        self.stall_epoch = 0                                      # after which the rate was last divided for a stall,
                                                                  # and from which on losses are compared anew
        self.finished = False
        self.begin_epoch()

    def begin_epoch(self):
        self.batch = 0
        self.meter, self.interval = Meter(), Meter()

    def add_batch(self, loss, tokens):
        """Count a step by what it gave: its mean loss, a scalar on the device, over so many tokens."""
        self.batch += 1
        self.waiting.append((self.batch, loss, tokens))

    def begin_interval(self):
        self.interval = Meter()

    @property
    def number(self):
        """Of the present epoch, from 1 on."""
        return len(self.history) + 1

    @property
    def ended(self):
        """Whether no epoch is left to run."""
        return self.finished or len(self.history) >= self.config.epochs

    def position(self, reader):
        """How far the present epoch has come, and how long it is: in tokens of a stream, or of a turn in steps."""
        return (self.batch, self.config.turn_steps) if self.config.turn_steps else (reader.row, reader.length)

    def add_epoch(self, raw, average, best, lr, tokens_per_second, peak_memory_mib):
        """Add the present epoch to the history. raw, average: validation losses of the weights that are trained and, if
        there is one, of their average; best: the lowest loss before."""
        loss = raw if average is None else average
        self.history.append({
            "epoch": self.number, "lr": lr, "train_loss": self.meter.loss(), "valid_loss": loss, "valid_loss_raw": raw,
            "valid_loss_averaged": average, "best": loss <= best, "switch_epoch": self.switch_epoch,
            "switch_reason": self.switch_reason, "seconds": self.meter.seconds(), "tokens": self.meter.tokens,
            "words": self.words_of_epoch(), "tokens_per_second": tokens_per_second,
            "peak_memory_mib": peak_memory_mib})

    # ---- losses of steps, fetched from the device when they are wanted

    def fetch_losses(self):
        """Count the losses that are still on the device. It waits for that, so it is not done every step."""
        fetched = torch.stack([loss for _, loss, _ in self.waiting]).tolist() if self.waiting else []
        for (batch, _, tokens), loss in zip(self.waiting, fetched):
            if math.isnan(loss):
                self.skipped += 1
                self.skipped_in_a_row += 1
                log(f"| WARNING: batch {batch}: loss or gradient not finite, the step is skipped "
                    f"({self.skipped} so far)")
                continue
            self.skipped_in_a_row = 0
            self.meter.add(loss, tokens)
            self.interval.add(loss, tokens)
        self.waiting.clear()

    @property
    def diverged(self):
        """Whether so many steps in a row as --max-bad-steps were not finite."""
        return self.skipped_in_a_row >= self.config.max_bad_steps

    def stop_if_diverged(self):
        """Raise a Stop with advice where training has diverged."""
        if self.diverged:
            raise Stop(f"{counted(self.skipped_in_a_row, 'steps')} in a row gave no finite loss or gradient; lower "
                       f"--lr (now {self.config.lr:g}) or --clip (now {self.config.clip:g})", 1)

    # ---- words between white space that the model has read

    def words_of_epoch(self):
        """In the present epoch, those included whose losses are still on the device."""
        tokens = self.meter.tokens + sum(tokens for _, _, tokens in self.waiting)
        return round(tokens * self.words_per_token)

    def words_read(self):
        """In all epochs and this one, and in earlier runs; None where that is not known."""
        return words_seen({"losses": {**self.of_model(), "words_of_epoch": self.words_of_epoch()}})

    def look_for_marks(self):
        """Find which of --save-at-words are still to come. InputError where it is not known what has been read."""
        words = self.words_read()
        if self.config.save_at_words and words is None:
            raise InputError("--save-at-words: how many words the model has read before is not known; an earlier "
                             "version trained it, or another program. Leave the flag out")
        self.marks = sorted({mark for mark in self.config.save_at_words or () if mark > words})

    def marks_reached(self):
        """Yield those that the words read have reached, each once."""
        while self.marks and self.words_read() >= (CLOSE if self.ended else 1.0) * self.marks[0]:
            yield self.marks.pop(0)

    # ---- stalling

    def stalled(self, at_latest=None):
        """Whether the validation losses have stalled since a stall was last answered. at_latest: the epoch after which
        they count as stalled if they never were."""
        if at_latest == len(self.history) and not self.stall_epoch:
            return True
        losses = [epoch["valid_loss"] for epoch in self.history]
        if self.config.patience:
            return has_no_new_best(losses, self.config.patience, self.stall_epoch)
        return has_stalled(losses[self.stall_epoch:], self.config.nonmono)

    def why_stalled(self):
        if self.config.patience:
            return f"no new best for {counted(self.config.patience, f'{self.unit}s')}"
        return f"no better than {counted(self.config.nonmono, f'{self.unit}s')} ago and before"

    # ---- what is saved

    def of_model(self):
        """What every model's file says of its training, under "losses"."""
        return {"words_before": self.words_before, "history": self.history}

    def state_dict(self):
        """All but the history, which stands beside it in a checkpoint."""
        return {"batch": self.batch, "meter": self.meter.state_dict(), "skipped": self.skipped,
                "finished": self.finished, "switch_epoch": self.switch_epoch, "switch_reason": self.switch_reason,
                "stall_epoch": self.stall_epoch}

    def load_state_dict(self, state, history):
        """Go on from what `state_dict` gave; raises KeyError, TypeError or ValueError for anything else."""
        if not _is_plain({**state, "meter": None}):
            raise TypeError("not a state of progress")
        self.history = [_plain_epoch(epoch) for epoch in history]
        self.batch, self.skipped = index(state["batch"]), index(state["skipped"])
        self.meter.load_state_dict(state["meter"])
        self.stall_epoch = index(state.get("stall_epoch", 0))
        self.switch_epoch, self.switch_reason = state["switch_epoch"], state["switch_reason"]
        self.finished = bool(state["finished"])


def _plain_epoch(epoch):
    """An epoch's entry of the history: numbers and words under names, the validation loss among them."""
    if not _is_plain(epoch):
        raise TypeError("not a line of a history")
    return {**epoch, "valid_loss": float(epoch["valid_loss"])}


def _is_plain(entries):
    return all(isinstance(name, str) and isinstance(value, (int, float, str, type(None)))
               for name, value in entries.items())
