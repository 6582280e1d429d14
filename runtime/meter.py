"""Mean loss and speed of a pass over a text."""
import math
import time
from operator import index


class Meter:
    """Mean loss and speed over the windows added to it."""

    def __init__(self, nats=0.0, tokens=0, batches=0, seconds=0.0):
        self.nats, self.tokens, self.batches = nats, tokens, batches
        self._started = time.monotonic() - seconds

    def add(self, loss, tokens):
        """Count a window of so many tokens by its mean loss in nats."""
        self.nats += loss * tokens
        self.tokens += tokens
        self.batches += 1

    def loss(self):
        """Mean loss per token in nats."""
        return self.nats / self.tokens if self.tokens else math.nan

    def seconds(self):
        """Seconds since it was made, interruptions left out."""
        return time.monotonic() - self._started

    def speed(self):
        """Tokens per second."""
        return self.tokens / max(self.seconds(), 1e-9)

    def state_dict(self):
        return {"nats": self.nats, "tokens": self.tokens, "batches": self.batches, "seconds": self.seconds()}

    def load_state_dict(self, state):
        """Go on from what `state_dict` gave; raises KeyError, TypeError or ValueError for anything else."""
        self.__init__(float(state["nats"]), index(state["tokens"]), index(state["batches"]), float(state["seconds"]))
