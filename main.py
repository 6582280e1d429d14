"""Train an AWD-LSTM language model: SGD, then averaging when validation stalls (Merity et al. 2018)."""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import torch

from checkpoint import UNTRAINED_UNK, vocabulary_of
from data import read_corpus, untrained_unk
from model import build, count_parameters, refuse_unsupported, resolve, set_precision, supports
from runtime import devices, options
from runtime.log import log, warn
from runtime.processes import init_distributed
from runtime.run_files import Files
from softmaxes import SOFTMAXES
from training import flags, optimizers, schedules
from training.run import Run
from training.state import continued, find_state


def make_parser():
    return flags.add_to(options.Parser(__doc__))


def main(argv=None):
    parser = make_parser()
    args = options.parse(parser, argv)
    group = init_distributed()
    resumed = find_state(args, parser.flags.values())
    args = continued(args, resumed, parser.flags.values())
    refuse_unsupported(args)
    schedule, args = schedules.plan(optimizers.resolve(args))
    compute = devices.prepare(args, supports(vars(args)))
    args = args.replaced(device=str(compute.device), precision=compute.precision)
    softmax = SOFTMAXES[args.softmax]
    corpus = read_corpus(args, resumed and vocabulary_of(resumed[1]),
                         lambda ntoken: softmax.sorts_vocabulary(vars(resolve(args, ntoken))))
    args = resolve(args, len(corpus.dictionary))
    untrained = untrained_unk(args, corpus)
    args = args.replaced(**{UNTRAINED_UNK: bool(untrained)})
    warn(softmax.check(vars(args), len(corpus.dictionary)), untrained)
    with torch.device("meta"):  # its shapes alone, before memory is taken for it
        devices.check_memory(count_parameters(build(vars(args), len(corpus.dictionary))), compute.device)
    model = set_precision(build(vars(args), len(corpus.dictionary)).to(compute.device), compute.precision)
    group.seed_rank(args.seed)
    optimizer = optimizers.make(args, model)
    log(f"| {len(corpus.dictionary):,} words, {count_parameters(model):,} parameters, on {compute}")

    with Run(args, compute, Files(args.save), model, optimizer, corpus, resumed, schedule, group) as run:
        for epoch in run.epochs():
            run.train_epoch()
            run.validate()
            if run.stalled(args.stall_by):
                schedules.ON_STALL[args.on_stall](run)
            if args.average_from and epoch >= args.average_from:
                schedules.average(run, f"after {run.unit} {epoch} at the latest")
            if epoch in args.when:
                run.divide_learning_rate(10)
            if args.decay != 1 and epoch >= args.decay_from:
                run.divide_learning_rate(args.decay)
            run.end_epoch()
        if args.test:
            run.report_test()
    return run.status


if __name__ == "__main__":
    errors.run(main)
