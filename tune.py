"""Search the settings of main.py: which values of its flags give the lowest validation loss.

Takes all flags of main.py, which every trial gets, and searches those in --space. The first trial has main.py's own
values, where they lie in the ranges. Trials train to the first of --rungs; the best of them go on, exactly where they
were. The best trial is left as a run of main.py called --save.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

from runtime import options
from runtime.errors import InputError
from runtime.log import log, surviving_broken_pipe
from runtime.options import Flag
from runtime.processes import resume_command
from training import flags
from tuning import report, sampling, settings, space, workers
from tuning.search import Search

FLAGS = (
    Flag("space", None, "what is searched: NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=ONE,OTHER; if not given, AR, TAR, "
         "the dropouts and the learning rate, as far as they are not typed", metavar="NAME=RANGE", nargs="+"),
    Flag("trials", 30, "how many", options.size, "N"),
    Flag("sampler", "tpe", "tpe learns from the trials so far (needs the package optuna)",
         choices=tuple(sampling.SAMPLERS)),
    Flag("rungs", None, "epochs after which trials are compared, growing to --epochs; one number alone: no trial is "
         "cut short. If not given, --epochs divided by --reduction, up to three times", options.size, "E", nargs="+"),
    Flag("reduction", 3, "of so many trials at a rung, one goes on", options.size, "N"),
    Flag("workers", 1, "trials at a time, each with a GPU or its share of the cores", options.size, "N"),
)


def make_parser():
    return flags.add_to(options.Parser(__doc__)).add("search", FLAGS)


def main(argv=None):
    parser = make_parser()
    of_main = {name: flag for name, flag in parser.flags.items() if flag not in FLAGS}
    names, args = settings.begin(options.parse(parser, argv), parser.flags)
    dimensions = space.parse(args.space, of_main)
    if args.sampler == "tpe":
        sampling.optuna()
    settings.check(args, dimensions)
    settings.keep(args, parser.flags, names)
    log(f"| searching {options.shown(args.space)}",
        f"| {args.trials} trials, rungs (epochs) {options.shown(args.rungs)}, in {names.folder}")
    with surviving_broken_pipe(), report.Report(names, dimensions, args.rungs, args.trials) as shown:
        search = Search(names, dimensions, sampling.SAMPLERS[args.sampler], args.rungs, args.reduction, args.trials,
                        args.seed, workers.fixed_words(args, of_main), of_main, settings.defaults(args, dimensions),
                        shown.update)
        stop = search.run(workers.environments(args.workers, args.device), args.max_minutes)
        best = search.leave_best()
        shown.finish(search.trials(), best)
        if stop:
            log(f"| {stop}; everything is saved in {names.folder}", f"| to continue: {resume_command()}")
    if not (best or stop):
        raise InputError(f"all trials were bad, the last one: {search.trials()[-1].reason}; see {names.table}")
    return stop.status if stop else 0


if __name__ == "__main__":
    errors.run(main)
