"""Search the settings of main.py: which values of its flags give the lowest validation loss.

Takes all flags of main.py, which every trial gets, and searches those in --space. Trials train to the first of --rungs;
the best of them go on, exactly where they were. The best trial is left as a run of main.py called --save.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import math

from tqdm import tqdm

import main as training
from data import read_corpus
from model import refuse_unsupported, resolve
from runtime import options
from runtime.errors import InputError
from runtime.log import log, perplexity, surviving_broken_pipe, warn
from runtime.options import Flag
from runtime.processes import resume_command
from softmaxes import SOFTMAXES
from training import optimizers, schedules
from tuning import report, sampling, settings, space, workers
from tuning.halving import BAD, RUNNING
from tuning.search import Search, shown

FLAGS = (
    Flag("space", None, "what is searched: NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=ONE,OTHER; if not given, AR, TAR, "
         "the dropouts and the learning rate, as far as they are not typed", metavar="NAME=RANGE", nargs="+"),
    Flag("trials", 30, "how many", options.size, "N"),
    Flag("sampler", "tpe", "tpe learns from the trials so far (needs the package optuna)",
         choices=tuple(sampling.SAMPLERS)),
    Flag("rungs", None, "epochs after which trials are compared, growing to --epochs; one number alone: no trial is "
         "cut short. If not given, --epochs divided by --reduction again and again", options.size, "E", nargs="+"),
    Flag("reduction", 3, "of so many trials at a rung, one goes on", options.size, "N"),
    Flag("workers", 1, "trials at a time, each with a GPU or its share of the cores", options.size, "N"),
)


def make_parser():
    parser = training.make_parser()
    parser.description = __doc__
    return parser.add("search", FLAGS)


def check(args, dimensions):
    """Raise InputError for what main.py would refuse: with the ends of all ranges, and its text."""
    for dimension in dimensions:
        if dimension.name in args.given:
            raise InputError(f"{dimension.flag.typed} is typed and in --space; leave one of them out")
    for end in (0, -1):
        values = {d.name: d.choices[end] if d.choices else (d.low, d.high)[end] for d in dimensions}
        tried = options.Arguments({**vars(args), **values}, args.given | set(values))
        refuse_unsupported(tried)
        schedules.plan(optimizers.resolve(tried))
    softmax = SOFTMAXES[args.softmax]
    read_corpus(args, None, lambda ntoken: softmax.sorts_vocabulary(vars(resolve(args, ntoken))))


def epochs(trials):
    """Epochs trained in all."""
    return sum(len(trial.losses) for trial in trials)


def progress(names, dimensions, rungs, limit):
    """A function of the trials that writes their table and draws the progress line, and the bar to close."""
    bar = tqdm(total=limit, leave=False, disable=None,
               bar_format="trials {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}")

    def show(trials):
        report.write_table(names.table, dimensions, trials, rungs)
        bar.n = sum(trial.state != RUNNING or trial.rung > 0 for trial in trials)
        bar.set_postfix_str(f", {epochs(trials)} epochs, best valid ppl "
                            f"{perplexity(min((trial.loss() for trial in trials), default=math.inf)):.2f}")
    return show, bar


def main(argv=None):
    parser = make_parser()
    flags = {name: flag for name, flag in parser.flags.items() if flag not in FLAGS}
    names, args = settings.begin(options.parse(parser, argv), parser.flags)
    dimensions = space.parse(args.space, flags)
    if args.sampler == "tpe":
        sampling.optuna()
    check(args, dimensions)
    settings.keep(args, parser.flags, names)
    show, bar = progress(names, dimensions, args.rungs, args.trials)
    search = Search(names, dimensions, sampling.SAMPLERS[args.sampler], args.rungs, args.reduction, args.trials,
                    args.seed, workers.fixed_words(args, flags), flags, show)
    log(f"| searching {options.shown(args.space)}",
        f"| {args.trials} trials, compared after {options.shown(args.rungs)} epochs, in {names.folder}")
    with surviving_broken_pipe(), bar:
        stop = search.run(workers.environments(args.workers, args.device), args.max_minutes)
        bar.close()
        trials, best = search.trials(), search.leave_best()
        show(trials)
        files = [f"trials {names.table}"]
        try:
            report.draw(names.picture, dimensions, trials, args.rungs)
            files.append(f"picture {names.picture}")
        except InputError as missing:
            warn(f"no picture: {missing}")
        if stop:
            log(f"| {stop}; everything is saved in {names.folder}", f"| to continue: {resume_command()}")
        if best:
            files.insert(0, f"model {names.best.best}, result {names.best.result}")
            log(f"| best: trial {best.number}, {shown(best.settings)}")
            log(f"| summary | best valid ppl {perplexity(best.loss()):.2f} | trials {len(trials)}, bad "
                f"{sum(trial.state == BAD for trial in trials)}, epochs {epochs(trials)} | "
                f"{', '.join(files)}")
    if not (best or stop):
        raise InputError(f"all {len(trials)} trials were bad, the last one: {trials[-1].reason}; see {names.table}")
    return stop.status if stop else 0


if __name__ == "__main__":
    errors.run(main)
