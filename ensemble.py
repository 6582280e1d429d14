"""Several models, mixed in probability: p = sum_k w_k p_k, with equal weights or those that are best on validation.

A model is FILE, FILE:cache, FILE:dynamic or FILE:dynamic,cache: the last three with the neural cache, with dynamic
evaluation, or with both, as pointer.py and dynamiceval.py compute them. NAME=VALUE after these, as in
A.pt:cache,theta=1.0,lambdasm=0.1, sets one of their flags for that model alone. Exactly the named files are read, one
after another; cells and softmaxes may differ, the words of the vocabularies may not. The texts are read as published
figures have it, with batch size 1. The arithmetic is in evaluation/mixture.py.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import dataclasses
import sys
import time

import torch

from data import read_corpus
from evaluation import dynamic, neural_cache, outputs
from evaluation.figures import figures, log_figures
from evaluation.members import MembersPass, agree, parse_member, result_name
from evaluation.mixture import best_weights, equal_weights, mix
from evaluation.scoring import Scores
from evaluation.text import read_split
from runtime import options, record
from runtime.errors import InputError
from runtime.log import counted, log
from runtime.options import Flag
from runtime.run_files import Files


def make_parser():
    parser = options.Parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="FILE, FILE:cache, FILE:dynamic, ...: see above")
    parser.add("data", options.DATA)
    parser.add("mixture", (
        Flag("weights", "equal", "weights of the models: equal, or those with the lowest loss on validation",
             choices=("equal", "valid")),
        Flag("split", "both", "text to evaluate on; weights that are chosen need validation besides",
             choices=("both", "valid", "test"))))
    parser.add("output", outputs.flags())
    parser.add("models with the neural cache", neural_cache.FLAGS)
    parser.add("models with dynamic evaluation", dynamic.FLAGS)
    parser.add("running", (*options.running(1000, "segments of dynamic evaluation"), *options.RECIPE))
    resume, *others = options.STOPPING
    parser.add("stopping and continuing", (dataclasses.replace(
        resume, help="continue where the run that wrote FILE was; `auto`: the run of these models, if there is one"),
        *others))
    return parser


def main(argv=None):
    args = options.parse(make_parser(), argv)
    members = [parse_member(word) for word in args.models]
    if not members:
        raise InputError("name the models to mix, as in: ensemble.py A.pt B.pt:cache")
    if len({(member.path, member.methods, *member.settings.items()) for member in members}) < len(members):
        print("| WARNING: a model is named twice: the mixture counts it twice", file=sys.stderr)
    if len(members) == 1:
        print("| WARNING: one model is no mixture: its own figures come out", file=sys.stderr)
    with outputs.log_beside(args):
        args, vocabulary = agree(members, args)
        read = [member.path for member in members] + [args.resume] * (args.resume != "auto")
        outputs.check(args, read, args.split != "both", "--split", Files(members[0].path, result_name(members)))
        splits = [split for split in ("valid", "test") if args.split in ("both", split) or args.weights == split]
        result = record.result_path(Files(members[0].path, result_name(members)).result, args)
        record.remove(result)
        began, readings, figures_by_text = time.monotonic(), [], {}
        with MembersPass(members, args) as reading:
            for member in members:
                readings.append(reading.read_member(member, splits))
            every = {split: torch.stack([each.logprobs[split] for each in readings]) for split in splits}    # (K, N)
            weights = equal = equal_weights(len(members))                                                    # (K,)
            if args.weights == "valid":
                weights, steps = best_weights(every["valid"])
                log(f"| weights chosen on validation in {counted(steps, 'steps')}: "
                    + " ".join(f"{weight:.4f}" for weight in weights.tolist()))
            for split, logprobs in every.items():
                figures_by_text[f"{split}_equal_weights"] = figures(mix(logprobs, equal).tolist())
                mixed = mix(logprobs, weights).tolist()                                                      # (N,)
                figures_by_text[split] = log_figures("mixture", split, mixed)
                if split == args.split and outputs.asked_for(args):
                    text = read_split(split, read_corpus(args, vocabulary), args)
                    outputs.write(args, text, Scores(mixed), f"{', '.join(args.models)}: {split}")
            seconds = time.monotonic() - began
            models = [{"model": member.label, "weight": weight, "parameters": each.parameters,
                       "settings": each.settings, **each.figures}
                      for member, weight, each in zip(members, weights.tolist(), readings)]
            result = record.write(result, args, sum(each.parameters for each in readings), seconds=seconds,
                                  **figures_by_text, models=models)
            record.summarise({split: figures_by_text[split] for split in splits}, seconds, **outputs.written(args),
                             result=result)
    return reading.status


if __name__ == "__main__":
    errors.run(main)
