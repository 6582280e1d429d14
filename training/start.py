"""How training begins: what the command line, a checkpoint and the machine say together, and a new model."""
import os
from contextlib import suppress

import torch

import checkpoint
from cells import CELLS
from data import read_corpus, untrained_unk
from model import OPTIONAL, ModelConfig, build, count_parameters, resolve, set_precision
from runtime import devices
from runtime.errors import InputError
from runtime.log import log, warn
from runtime.options import inherit
from runtime.processes import init_distributed
from runtime.run_files import Files
from runtime.signals import exclusive
from softmaxes import SOFTMAXES
from training.state import find_state
from training.stopping import check_names

PATIENCE = 10         # seconds for a run that was asked to stop: a step, and its saving


def start(parser, args, source=None, stage="", plan=lambda args: args):
    """Put together what a run is to do -> the flags, resolved, Compute, ProcessGroup, Corpus, `state.find_state`'s.

    Flags that were not typed are those of the state that is continued from, then those of `source`, the contents of the
    checkpoint that is trained further. plan: what else resolves flags, before the device is chosen.
    """
    group, flags, files = init_distributed(), parser.flags.values(), Files(args.save, stage)
    check_names(args.save, files)
    if not group.rank:
        let_end(files.lock)
    group.all_reduce_max(0)                                            # what has been saved by then is read by all
    if source:
        args = inherit(args, source["settings"], args.save, checkpoint.kept_flags())
    resumed = find_state(args, flags, stage)
    if resumed:
        args = inherit(args, resumed[1]["settings"], resumed[0], flags)
    refuse_unsupported(args)
    args = plan(args)
    args, compute = devices.prepare(args, ModelConfig.of(vars(args)).supported)
    saved = source or (resumed and resumed[1])
    corpus = corpus_for(args, saved and checkpoint.vocabulary_of(saved))
    args = resolve(args, len(corpus.dictionary))
    untrained = untrained_unk(args, corpus)
    if not source:
        warn(SOFTMAXES[args.softmax].check(vars(args), len(corpus.dictionary)), untrained)
    return args.replaced(**{checkpoint.UNTRAINED_UNK: bool(untrained)}), compute, group, corpus, resumed


def let_end(lock):
    """Wait a little for a run that holds `lock`: asked to stop, it saves, and its state is what this run continues.
    InputError if it goes on."""
    if os.path.exists(lock):
        with suppress(InputError), exclusive(lock):
            return
        log(f"| {lock}: another run with the same --save is there; waiting {PATIENCE} s for it to save and end")
        with exclusive(lock, PATIENCE):
            pass


def refuse_unsupported(args):
    """InputError for a flag that was typed, and that the cell or the softmax in `args` does not honour."""
    supported = ModelConfig.of(vars(args)).supported
    owners = {}
    for name, entry in (*CELLS.items(), *SOFTMAXES.items()):
        for flag in entry.flags:
            owners.setdefault(flag.name, []).append(name)
    for name in sorted(args.given):
        if name in OPTIONAL - supported and getattr(args, name):
            others = ", ".join(other for other, cell in CELLS.items() if name in cell.supports)
            raise InputError(f"--{name.replace('_', '-')} is not supported by --model {args.model}; leave it out, or "
                             f"use one of {others}")
        if name in owners and not {args.model, args.softmax} & {*owners[name]}:
            raise InputError(f"--{name.replace('_', '-')} is for {', '.join(owners[name])}, not for --model "
                             f"{args.model} --softmax {args.softmax}; leave it out")


def corpus_for(args, vocabulary=None):
    """The corpus that the flags name, its ids in the order that their softmax wants -> Corpus."""
    softmax = SOFTMAXES[args.softmax]
    return read_corpus(args, vocabulary, lambda ntoken: softmax.sorts_vocabulary(vars(resolve(args, ntoken))))


def new_model(args, ntoken, compute):
    """The model of `ntoken` words that the flags describe, where it is computed -> RNNModel.

    InputError where it does not fit into memory, before any is taken for it.
    """
    with torch.device("meta"):
        devices.check_memory(count_parameters(build(vars(args), ntoken)), compute.device)
    return set_precision(build(vars(args), ntoken).to(compute.device), compute.precision)
