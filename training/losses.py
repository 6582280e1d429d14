"""The losses of training steps, fetched from the device when they are wanted, and the steps that were skipped."""
import math

import torch

from runtime.log import log
from runtime.signals import Stop
from training.settings import TrainingConfig


class Losses:
    """Collects what `TrainStep` gives. So many steps in a row as --max-bad-steps that are not finite are a divergence.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
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
        return self.skipped_in_a_row >= self.config.max_bad_steps

    def stop_if_diverged(self):
        """Raise a Stop with advice where training has diverged."""
        if self.diverged:
            raise Stop(f"{self.skipped_in_a_row} steps in a row gave no finite loss or gradient; lower --lr (now "
                       f"{self.config.lr:g}) or --clip (now {self.config.clip:g})", 1)
