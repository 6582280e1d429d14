"""The losses of training steps, fetched from the device when they are wanted, and the steps that were skipped."""
import math

import torch

from runtime.log import log


class Losses:
    """Collects what `TrainStep` gives. max_bad_steps: so many steps in a row that are not finite are a divergence."""

    def __init__(self, max_bad_steps):
        self.max_bad_steps = max_bad_steps
        self.waiting = []                                         # (batch, loss, tokens) still on the device
        self.skipped = self.skipped_in_a_row = 0                  # steps without a finite loss or gradient

    def add(self, batch, loss, tokens):
        self.waiting.append((batch, loss, tokens))

    def fetch(self, *meters):
        """Add what has come since the last time to `meters`. It waits for the device, so it is not done every step."""
        fetched = torch.stack([loss for _, loss, _ in self.waiting]).tolist() if self.waiting else []
        for (batch, _, tokens), loss in zip(self.waiting, fetched):
            if math.isnan(loss):
                self.skipped += 1
                self.skipped_in_a_row += 1
                log(f"| WARNING: batch {batch}: loss or gradient not finite, the step is skipped "
                    f"({self.skipped} so far)")
                continue
            self.skipped_in_a_row = 0
            for meter in meters:
                meter.add(loss, tokens)
        self.waiting.clear()

    @property
    def diverged(self):
        return self.skipped_in_a_row >= self.max_bad_steps
