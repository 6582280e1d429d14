"""Successive halving: who goes on, against a plain reading of the paper's algorithm."""
import math
import random

import pytest

from tuning import halving
from tuning.halving import BAD, PAUSED, Trial


@pytest.mark.parametrize(("epochs", "reduction", "rungs"), [
    (9, 3, [1, 3, 9]), (8, 2, [1, 2, 4, 8]), (500, 3, [19, 56, 167, 500]), (1, 3, [1]), (2, 3, [2])])
def test_rungs(epochs, reduction, rungs):
    assert halving.geometric(epochs, reduction) == rungs


def naive(done, moved, reduction):
    """Algorithm 2 of 1810.05934, get_job: done[k]: {trial: loss} at rung k; moved[k]: who went on from there."""
    for rung in reversed(range(len(done) - 1)):
        top = sorted(done[rung], key=lambda trial: (done[rung][trial], trial))[:len(done[rung]) // reduction]
        for trial in top:
            if trial not in moved[rung] and done[rung][trial] < math.inf:
                return trial
    return None


@pytest.mark.parametrize("seed", range(30))
def test_promotions_are_those_of_the_paper(seed):
    """Several workers at random moments; some trials diverge."""
    draw = random.Random(seed)
    reduction, limit, busy_at_once = draw.choice([2, 3, 4]), draw.randrange(1, 40), draw.randrange(1, 5)
    rungs = [1, 2, 5, 9][:draw.randrange(1, 5)]
    trials, running = [], []
    done, moved = [{} for _ in rungs], [set() for _ in rungs]
    while True:
        while len(running) < busy_at_once:
            trial = halving.next_promotion(trials, rungs, reduction, len(trials) >= limit)
            wanted = naive(done, moved, reduction)
            if wanted is not None:
                assert trial is trials[wanted]
            elif trial is not None:                            # the end: nothing else is left, nobody came to the top
                assert len(trials) == limit and not running and not any(t < math.inf for t in done[-1].values())
                furthest = max(t.rung for t in trials if t.state == PAUSED)
                assert trial.loss() == min(t.loss() for t in trials if t.state == PAUSED and t.rung == furthest)
            if trial is not None:
                moved[trial.rung].add(trial.number)
                trial.rung, trial.state = trial.rung + 1, halving.RUNNING
            elif len(trials) < limit:
                trial = Trial(len(trials), {})
                trials.append(trial)
            else:
                break
            running.append(trial)
        if not running:
            break
        trial = running.pop(draw.randrange(len(running)))
        diverges = draw.random() < 0.2
        trial.state = BAD if diverges else PAUSED
        if not diverges:
            trial.losses += [draw.random() for _ in range(rungs[trial.rung] - len(trial.losses))]
        done[trial.rung][trial.number] = math.inf if diverges else trial.loss()
    assert len(trials) == limit and all(trial.state != halving.RUNNING for trial in trials)
    assert all(len(there) >= len(below) // reduction - sum(loss == math.inf for loss in below.values())
               for below, there in zip(done, done[1:]))
    if any(trial.state == PAUSED for trial in trials):
        assert any(trial.reached() == len(rungs) for trial in trials) or all(
            trial.rung == len(rungs) - 1 for trial in trials if trial.state == PAUSED)


def test_the_best_is_the_lowest_loss_of_any_epoch_and_of_none_there_is_none():
    trials = [Trial(0, {}, losses=[3.0, 2.0, 2.5]), Trial(1, {}, losses=[2.2]), Trial(2, {}, losses=[math.inf])]
    assert halving.best(trials) is trials[0] and halving.best(trials[2:]) is None and halving.best([]) is None
