"""Settings for the next trial: at random, or by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

What is drawn depends on the seed, the trial's number and the trials before it alone: a search that was stopped goes on
as if it had not been. Nothing of Optuna is imported for those who draw at random.
"""
import math
import random

from runtime.errors import InputError
from tuning.halving import BAD


def optuna():
    """The package; a clear error where it is missing."""
    try:
        import optuna
    except ImportError:
        raise InputError("--sampler tpe needs the package optuna: pip install optuna; --sampler random needs nothing"
                         ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def draw_random(space, trials, rungs, seed):
    """Every setting on its own, evenly -> dict."""
    draw = random.Random(f"{seed} {len(trials)}")
    return {dimension.name: dimension.draw(draw) for dimension in space}


def draw_tpe(space, trials, rungs, seed):
    """By what trials found so far -> dict. The first five are drawn at random.

    Compared are the losses at the last rung that more trials have reached than there are settings (as in BOHB, Falkner
    et al. 2018: a model of fewer would be one of who came first); those that have not reached it count as worse, by
    their own last rung, and those that are bad, or have not reached any, as worse than all others.
    """
    common = max((rung for rung in range(len(rungs))
                  if sum(_learns(trial) and trial.reached() > rung for trial in trials) > len(space)), default=0)
    package = optuna()
    sampler = package.samplers.TPESampler(n_startup_trials=5, seed=(seed * 1_000_003 + len(trials)) % 2**32)
    study = package.create_study(sampler=sampler)
    distributions = _distributions(space)
    for trial in trials:
        last = min(trial.reached() - 1, common)
        reached = {rungs[last]: trial.loss(rungs[last])} if _learns(trial) else {}
        study.add_trial(package.trial.create_trial(
            state=package.trial.TrialState.PRUNED, params=trial.settings, distributions=distributions,
            intermediate_values=reached))
    drawn = study.ask(distributions).params
    return {dimension.name: drawn[dimension.name] if dimension.choices else dimension.rounded(drawn[dimension.name])
            for dimension in space}


SAMPLERS = {"tpe": draw_tpe, "random": draw_random}


def _learns(trial):
    return trial.reached() > 0 and trial.state != BAD


def _distributions(space):
    package = optuna().distributions
    return {d.name: package.CategoricalDistribution(d.choices) if d.choices else
            (package.IntDistribution if d.whole else package.FloatDistribution)(d.low, d.high, log=d.log)
            for d in space}


def importances(space, trials, epochs):
    """How much of the loss after the first `epochs` each setting decides (PED-ANOVA, Watanabe et al. 2023) -> dict.

    Shares that add up to 1. Empty where fewer than ten trials came so far, or none of the settings matters.
    """
    package = optuna()
    found = [trial for trial in trials if len(trial.losses) >= epochs and trial.loss(epochs) < math.inf]
    if len(found) < 10:
        return {}
    study, distributions = package.create_study(), _distributions(space)
    study.add_trials([package.trial.create_trial(value=trial.loss(epochs), params=trial.settings,
                                                 distributions=distributions) for trial in found])
    evaluator = package.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return package.importance.get_param_importances(study, evaluator=evaluator)
