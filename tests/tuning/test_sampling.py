"""TPE on trials that were never trained: it draws what may be drawn, the same again, and learns."""
import math
import statistics

import pytest

import main
from tuning import report, sampling, space
from tuning.halving import BAD, PAUSED, RUNNING, Trial

pytest.importorskip("optuna")
FLAGS = main.make_parser().flags
SPACE = space.parse(["alpha=0:4", "lr=log:1:100", "nlayers=1:4", "batch-size=log:4:64", "model=LSTM,GRU",
                     "tied=true,false"], FLAGS)
RUNGS = [1, 3]


def loss(settings):
    return (settings["alpha"] - 1) ** 2 + math.log(settings["lr"] / 10) ** 2


def trained(draw, seed, number=40):
    """So many trials, each of them drawn by what the ones before it found; a third of the last rung, some bad."""
    trials = []
    for place in range(number):
        trial = Trial(place, draw(SPACE, trials, RUNGS, seed), state=PAUSED)
        if trial.settings["lr"] > 60:
            trial.state = BAD
        else:
            trial.rung = int(place % 3 == 0)
            trial.losses = [loss(trial.settings) + 1] * RUNGS[trial.rung]
        trials.append(trial)
    return trials


def test_what_is_drawn_can_be_typed_and_is_drawn_again():
    trials = trained(sampling.draw_tpe, 1, 20)
    assert [trial.settings for trial in trials] == [trial.settings for trial in trained(sampling.draw_tpe, 1, 20)]
    assert trials[15].settings != trained(sampling.draw_tpe, 2, 20)[15].settings
    for trial in trials:
        for dimension in SPACE:
            value = trial.settings[dimension.name]
            assert dimension.holds(value)
            assert dimension.choices or isinstance(value, int) == dimension.whole
            assert not isinstance(value, float) or float(f"{value:.4g}") == value


def test_who_got_far_first_is_not_the_best_for_ever():
    """Two trials with a high loss went on early; what others found at the first rung counts for more."""
    trials = trained(sampling.draw_random, 4, 30)
    for trial in trials:
        trial.rung, trial.state = 0, PAUSED
        trial.losses = [loss(trial.settings)]
    for trial in sorted(trials, key=lambda trial: -trial.losses[0])[:2]:
        trial.rung, trial.losses = 1, trial.losses * 3
    drawn = [loss(sampling.draw_tpe(SPACE, trials, RUNGS, seed)) for seed in range(15)]
    assert statistics.median(drawn) < 0.5 * statistics.median(trial.loss() for trial in trials)


def test_a_trial_that_has_found_nothing_yet_is_no_hindrance():
    trials = [*trained(sampling.draw_tpe, 1, 12), Trial(12, {}, state=RUNNING)]
    trials[12].settings = trials[0].settings
    assert sampling.draw_tpe(SPACE, trials, RUNGS, 1).keys() == {dimension.name for dimension in SPACE}


def test_it_draws_better_than_at_random():
    """Medians of the last twenty of forty trials, over five seeds."""
    medians = [statistics.median(loss(trial.settings) for seed in range(5) for trial in trained(draw, seed)[20:])
               for draw in (sampling.draw_tpe, sampling.draw_random)]
    assert medians[0] < 0.6 * medians[1]


def test_importance_is_of_what_decides():
    trials = trained(sampling.draw_random, 3, 60)
    found = sampling.importances(SPACE, trials, 1)
    assert sum(found.values()) == pytest.approx(1) and found.keys() == {dimension.name for dimension in SPACE}
    assert set(sorted(found, key=found.get)[-2:]) == {"alpha", "lr"}
    assert sampling.importances(SPACE, trials[:9], 1) == {}


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    for number in (0, 1, 4, 40):
        report.draw(tmp_path / f"{number}.png", SPACE, trained(sampling.draw_random, 3, number), RUNGS)
        assert (tmp_path / f"{number}.png").read_bytes()[:4] == b"\x89PNG"
