"""Train an AWD-LSTM language model: SGD, then averaging when validation stalls (Merity et al. 2018)."""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

from model import count_parameters
from runtime import options
from runtime.log import log
from runtime.run_files import Files
from training import optimizers, schedules, settings
from training.reports import report_test
from training.run import Run
from training.start import new_model, start
from training.stopping import running


def make_parser():
    return settings.add_to(options.Parser(__doc__))


def plan(args):
    """The flags with the optimizer's learning rate, and the schedule's length -> Arguments."""
    return schedules.plan(optimizers.resolve(args))


def main(argv=None):
    parser = make_parser()
    args, compute, group, corpus, resumed = start(parser, options.parse(parser, argv), plan=plan)
    model = new_model(args, len(corpus.dictionary), compute)
    group.seed_rank(args.seed)
    optimizer = optimizers.make(args, model)
    log(f"| {len(corpus.dictionary):,} words, {count_parameters(model):,} parameters, on {compute}")

    run = Run(args, compute, Files(args.save), model, optimizer, corpus, resumed, schedules.of(args), group)
    config = run.config
    with running(run):
        for epoch in run.epochs():
            run.train_epoch()
            run.validate()
            if run.progress.stalled(config.stall_by):
                schedules.ON_STALL[config.on_stall](run)
            if config.average_from and epoch >= config.average_from:
                schedules.average(run, f"after {run.progress.unit} {epoch} at the latest")
            if epoch in config.when:
                schedules.divide_learning_rate(run, 10)
            if config.decay != 1 and epoch >= config.decay_from:
                schedules.divide_learning_rate(run, config.decay)
            run.end_epoch()
        if args.test:
            report_test(run)
    return run.status


if __name__ == "__main__":
    errors.run(main)
