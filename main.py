"""Train an AWD-LSTM language model: SGD, then averaging when validation stalls (Merity et al. 2018)."""
import math
from functools import partial

import torch

import errors
import hardware
import options
import resume
from checkpoint import Files
from corpora import read_corpus
from errors import InputError
from meter import check_memory, say
from model import build, count_parameters, set_precision
from nt_asgd import NTASGD
from one_cycle import one_cycle
from run import Run
from team import join

LEARNING_RATE = {"sgd": 30.0, "adam": 1e-3, "adagrad": 0.2}


def make_parser():
    parser = options.Parser(__doc__)
    options.add_data(parser)
    options.add_architecture(parser)
    options.add_regularisation(parser)
    options.add_optimisation(parser, lr=None, lr_help="learning rate; 30 for sgd and 0.001 for adam if not given",
                             max_seq_len_delta=40)
    options.add_schedule(parser)
    options.add_recipe(options.add_graphs(options.add_running(parser)))
    options.add_bad_steps(options.add_stopping(parser))
    options.add_save(parser, "the best model goes to FILE, the state to continue from to NAME.state.pt beside it, "
                             "one line of JSON per epoch to NAME.jsonl")
    return parser


def make_optimizer(args, parameters):
    if args.lr is None:
        args.lr = LEARNING_RATE[args.optimizer]
    if args.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=args.lr, betas=(0.9, args.beta2), weight_decay=args.wdecay,
                                fused=parameters[0].device.type in ("cpu", "cuda"))
    if args.optimizer == "adagrad":
        return torch.optim.Adagrad(parameters, lr=args.lr, weight_decay=args.wdecay)
    return NTASGD(parameters, lr=args.lr, weight_decay=args.wdecay)


def plan_cycle(args):
    """The schedule of --one-cycle; the run is as long as the cycle if its length was not given."""
    if args.optimizer != "adam" or not sum(args.one_cycle):
        raise InputError("--one-cycle needs --optimizer adam and at least one phase that is not 0 epochs long")
    if "epochs" not in args.given:
        args.epochs = math.ceil(sum(args.one_cycle))
    return partial(one_cycle, phases=args.one_cycle, momentum=args.momentum)


def main(argv=None):
    args = options.parse(make_parser(), argv)
    team = join()
    resumed = resume.find(args)
    schedule = plan_cycle(args) if args.one_cycle else None
    device = hardware.prepare(args)
    corpus = read_corpus(args, resumed and resumed[1]["vocabulary"])
    with torch.device("meta"):  # its shapes alone, before memory is taken for it
        check_memory(count_parameters(*build(vars(args), len(corpus.dictionary))), device)
    model, criterion = build(vars(args), len(corpus.dictionary))
    model.to(device)
    criterion.to(device)
    set_precision((model, criterion), args.precision)
    team.part_ways(args.seed)
    optimizer = make_optimizer(args, [*model.parameters(), *criterion.parameters()])
    say(f"| {len(corpus.dictionary):,} words, {count_parameters(model, criterion):,} parameters, "
        f"on {device} in {args.precision}")

    with Run(args, Files(args.save), model, criterion, optimizer, corpus, resumed, schedule, team) as run:
        for epoch in run.epochs():
            run.train_epoch()
            run.validate()
            if args.optimizer == "sgd" and not optimizer.averaging and run.stalled():
                if args.on_stall == "average":
                    run.start_averaging(f"no better than {args.nonmono} epochs ago and before")
                elif args.on_stall == "halve":
                    run.halve_learning_rate()
            if epoch in args.when:
                run.divide_learning_rate(10)
            if args.decay != 1 and epoch >= args.decay_from:
                run.divide_learning_rate(args.decay)
            run.end_epoch()
        run.report_test()
    return run.status


if __name__ == "__main__":
    errors.run(main)
