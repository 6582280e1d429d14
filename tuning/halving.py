"""Asynchronous successive halving (Li et al. 2020, 1810.05934, algorithm 2): which trial goes on, and how far.

Rungs are numbers of epochs, growing. Every trial trains to the first; of those at a rung the best 1/reduction go on to
the next, each as soon as it is among them: nobody waits until a rung is full.
"""
import math
from dataclasses import dataclass, field

RUNNING, PAUSED, BAD = "running", "paused", "bad"


@dataclass
class Trial:
    """One choice of settings, and how it has done.

    rung: the index of the rung that it trains towards (RUNNING), has reached (PAUSED) or failed to reach (BAD).
    losses: validation loss in nats of every epoch up to the last rung that it has reached, infinite for none.
    seconds: what these took. killed: for each time that its process was killed, the epochs done by then.
    """
    number: int
    settings: dict
    rung: int = 0
    state: str = RUNNING
    losses: list = field(default_factory=list)
    seconds: float = 0.0
    killed: list = field(default_factory=list)
    reason: str = ""

    def reached(self):
        """How many rungs it has reached."""
        return self.rung + (self.state == PAUSED)

    def loss(self, epochs=None):
        """The lowest validation loss of its first epochs, by default of all: that of its best model."""
        return min(self.losses[:epochs], default=math.inf)


def geometric(epochs, reduction):
    """Rungs that end at `epochs`: at most four, each `reduction` times the one before, rounded, of an epoch or more."""
    rungs = [epochs]
    while rungs[-1] >= reduction and len(rungs) < 4:
        rungs.append(round(rungs[-1] / reduction))
    return rungs[::-1]


def next_promotion(trials, rungs, reduction, exhausted):
    """The paused trial that is to train towards the next rung, or None.

    Bad trials count among those at the rung that they failed to reach, as the worst. exhausted: no new trials will
    come; once nothing else is left to do and no trial has reached the last rung, the best of those that came furthest
    goes on.
    """
    for rung in reversed(range(len(rungs) - 1)):
        there = sorted((trial.loss(rungs[rung]) if trial.reached() > rung else math.inf, trial.number, trial)
                       for trial in trials if trial.reached() > rung or (trial.state == BAD and trial.rung == rung))
        for _, _, trial in there[:len(there) // reduction]:
            if trial.state == PAUSED and trial.rung == rung:
                return trial
    if exhausted and all(trial.state != RUNNING and trial.reached() < len(rungs) for trial in trials):
        return min((trial for trial in trials if trial.state == PAUSED), default=None,
                   key=lambda trial: (-trial.rung, trial.loss(), trial.number))
    return None


def best(trials):
    """The trial with the lowest validation loss, or None where no trial has one."""
    found = min(trials, default=None, key=lambda trial: (trial.loss(), trial.number))
    return found if found is not None and found.loss() < math.inf else None
