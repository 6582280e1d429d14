"""What a search shows: a progress line, a table of its trials, and a picture."""
import math
import os

from tqdm import tqdm

from runtime.errors import InputError
from runtime.log import log, perplexity, warn
from runtime.paths import atomic_write
from tuning import sampling
from tuning.halving import BAD, PAUSED, RUNNING
from tuning.storage import claim


def shown(settings):
    """A trial's settings on one line."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def epochs(trials):
    """Epochs trained in all."""
    return sum(len(trial.losses) for trial in trials)


def state(trial, rungs):
    return "finished" if trial.state == PAUSED and trial.reached() == len(rungs) else trial.state


def write_table(path, space, trials, rungs):
    """A TSV line per trial: its state, its lowest validation loss (in nats) over all and by each rung, its settings."""
    names = [dimension.name for dimension in space]
    with atomic_write(path) as file:
        print("trial", "state", "epochs", "valid_loss", "valid_ppl", *(f"loss_{rung}" for rung in rungs), "seconds",
              *names, "reason", sep="\t", file=file)
        for trial in trials:
            found = len(trial.losses)
            losses = [f"{trial.loss(rung):.5f}" if found >= rung else "" for rung in rungs]
            overall = [f"{trial.loss():.5f}", f"{perplexity(trial.loss()):.3f}"] if found else ["", ""]
            print(trial.number, state(trial, rungs), found, *overall, *losses, f"{trial.seconds:.1f}",
                  *(trial.settings[name] for name in names), trial.reason.replace("\t", " "), sep="\t", file=file)


def pyplot():
    """matplotlib, drawing into files; a clear error where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("it is drawn with the package matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def draw(path, space, trials, rungs):
    """Loss against epochs spent, importance of the settings, parallel coordinates, as a PNG.

    Raises InputError where a package is missing.
    """
    plt = pyplot()
    figure = plt.figure(figsize=(max(9, 1.1 * len(space) + 2), 8), layout="constrained")
    above, below = figure.subfigures(2, 1)
    budget, importance = above.subplots(1, 2, width_ratios=[3, 2])
    found = sorted((trial for trial in trials if trial.loss() < math.inf), key=lambda trial: -trial.loss())
    colours = plt.get_cmap("viridis_r")
    ranks = {trial.number: rank / max(1, len(found) - 1) for rank, trial in enumerate(found)}      # 1: the best
    _draw_budget(budget, found, lambda trial: colours(ranks[trial.number]), rungs)
    _draw_importance(importance, space, trials, rungs[0])
    _draw_parallel(below.subplots(), space, found, lambda trial: colours(ranks[trial.number]),
                   [trial for trial in trials if trial.state == BAD and trial.loss() == math.inf])
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw_budget(axes, trials, colour, rungs):
    """A line per trial, of its validation perplexity so far, over the epochs spent on it; dots at the rungs."""
    for trial in trials:
        losses = [perplexity(trial.loss(epochs)) for epochs in range(1, len(trial.losses) + 1)]
        axes.plot(range(1, len(losses) + 1), losses, color=colour(trial), linewidth=1)
        reached = [rung for rung in rungs if rung <= len(losses)]
        axes.plot(reached, [losses[rung - 1] for rung in reached], ".", color=colour(trial))
    axes.set(xlabel=f"epochs of a trial ({epochs(trials)} in all)", xscale="log",
             ylabel="lowest validation perplexity", yscale="log", title="loss against budget")
    if trials:                                       # sorted: the last is the best
        top = 3 * perplexity(trials[-1].loss())
        above = sum(perplexity(trial.loss()) > top for trial in trials)
        if above:
            axes.set_ylim(top=top)
            axes.set_title(f"loss against budget (not shown: {above} above {top:.0f})")
    plain = pyplot().matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.4g}")
    axes.set_xticks(rungs, map(str, rungs))
    axes.xaxis.set_minor_locator(pyplot().matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(plain if high < 20 * low else pyplot().matplotlib.ticker.NullFormatter())
    axes.tick_params(axis="y", which="both", labelsize=8)
    axes.grid(alpha=0.3)


def _draw_importance(axes, space, trials, epochs):
    title = f"importance for the loss after {epochs} epoch{'s' if epochs > 1 else ''}"
    try:
        shares = sampling.importances(space, trials, epochs)
    except InputError:
        shares, title = {}, "importance: needs the package optuna"
    shares = {dimension.name: shares.get(dimension.name, 0) for dimension in space} if shares else {}
    names = sorted(shares, key=shares.get)
    axes.barh(range(len(names)), [shares[name] for name in names], color="0.5")
    axes.set_yticks(range(len(names)), names)
    axes.set(title=title if shares or "optuna" in title else "importance: needs ten trials")


def _draw_parallel(axes, space, trials, colour, bad):
    """An axis per setting, a line per trial, the best drawn last; those that reached no rung are dashed, in red."""
    for trial in bad:
        axes.plot([d.position(trial.settings[d.name]) for d in space], "--", color="tab:red", linewidth=0.7)
    for trial in trials:
        axes.plot([d.position(trial.settings[d.name]) for d in space], color=colour(trial),
                  linewidth=2.5 if trial is trials[-1] else 1)
    for place, dimension in enumerate(space):
        axes.axvline(place, color="0.8", zorder=0)
        ends = (dimension.choices[0], dimension.choices[-1]) if dimension.choices else (dimension.low, dimension.high)
        for height, value, align in zip((-0.02, 1.02), ends, ("top", "bottom")):
            axes.text(place, height, f"{value:g}" if isinstance(value, float) else str(value), ha="center", va=align,
                      fontsize=8)
    axes.set_xticks(range(len(space)), [f"{d.name}{' (log)' if d.log else ''}" for d in space])
    axes.tick_params(axis="x", pad=14, length=0)
    axes.set(ylim=(-0.04, 1.04), yticks=[])
    axes.set_title("settings, the better the darker; dashed: bad", pad=18)
    for side in axes.spines.values():
        side.set_visible(False)


class Report:
    """Used as `with Report(…) as report:`, inside which there is a progress line. names: the files of the search."""

    def __init__(self, names, space, rungs, limit):
        self.names, self.space, self.rungs = names, space, rungs
        self.bar = tqdm(total=limit, leave=False, disable=None,
                        bar_format="trials {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def _alone(self):
        """Of several processes that share the search, one writes table and picture at a time."""
        return claim(os.path.join(self.names.folder, "report.log"), wait=True)

    def update(self, read):
        """Write the table anew. read: gives the trials as they are now."""
        with self._alone():
            trials = read()
            write_table(self.names.table, self.space, trials, self.rungs)
        self.bar.n = sum(trial.state != RUNNING or trial.rung > 0 for trial in trials)
        best = min(trial.loss() for trial in trials)
        self.bar.set_postfix_str(f"{sum(trial.state == RUNNING for trial in trials)} running, {epochs(trials)} epochs"
                                 + (f", best valid ppl {perplexity(best):.2f}" if best < math.inf else ""))

    def finish(self, trials, best):
        """Draw the picture, and log what came out. best: the best trial, or None."""
        self.bar.close()
        files = {"model": self.names.best.best, "result": self.names.best.result, "trials": self.names.table}
        try:
            with self._alone():
                draw(self.names.picture, self.space, trials, self.rungs)
            files["picture"] = self.names.picture
        except InputError as missing:
            warn(f"no picture: {missing}")
        if best:
            log(f"| best: trial {best.number}, {shown(best.settings)}")
            log(f"| summary | best valid ppl {perplexity(best.loss()):.2f} | trials {len(trials)}, bad "
                f"{sum(trial.state == BAD for trial in trials)}, epochs {epochs(trials)} | "
                + ", ".join(f"{what} {path}" for what, path in files.items()))
