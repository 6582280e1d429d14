"""The models of an ensemble: named on a command line, read one after another.

N tokens, E width of a feature.
"""
import os
from typing import NamedTuple

import torch

import checkpoint
from corpus.cache import content_key
from data import batchify_split, naming, read_corpus, short
from evaluation import dynamic, neural_cache
from evaluation.dynamic import DynamicPass, digest, learning_rate
from evaluation.figures import log_figures
from evaluation.loss import PLAIN_WINDOW
from evaluation.neural_cache import cache_logprobs
from evaluation.resumable import ResumablePass
from model import count_parameters
from runtime import devices, options
from runtime.errors import InputError
from runtime.log import log
from runtime.paths import cut_name, part_of_name
from runtime.run_files import Files

METHODS = {"dynamic": dynamic.FLAGS, "cache": neural_cache.FLAGS}


class Member(NamedTuple):
    """One model of an ensemble. label: as it was typed; settings: the flags that were typed for it alone."""
    label: str
    path: str
    methods: tuple
    settings: dict

    def flags(self, args):
        """The flags as they are for it."""
        args = args.replaced(**self.settings)
        return args.replaced(lr=learning_rate(args))

    def own_settings(self, args):
        """What its methods do, from `flags` -> dict."""
        return {flag.name: getattr(args, flag.name) for method in self.methods for flag in METHODS[method]}


def parse_member(word):
    """A word such as "A.pt:dynamic,lr=1e-4" -> Member. A file whose name has a colon is found as it is."""
    path, colon, rest = word.rpartition(":")
    if not colon or os.path.exists(word):
        return Member(word, word, (), {})
    parts = rest.split(",")
    unknown_parts = [part for part in parts if part not in METHODS and "=" not in part]
    if unknown_parts:
        raise InputError(f"{word}: there is no such file, and after the colon {unknown_parts[0]!r} is none of "
                         f"{', '.join(METHODS)}, NAME=VALUE")
    methods = tuple(method for method in METHODS if method in parts)
    parser = options.Parser("")
    for method in methods:
        parser.add(method, METHODS[method])
    settings = [part for part in parts if part not in METHODS]
    for part in settings:
        name = part.partition("=")[0].replace("-", "_")
        owner = next((method for method, flags in METHODS.items() if name in {flag.name for flag in flags}), None)
        if owner and owner not in methods:
            raise InputError(f"{word}: {name} is a setting of {owner}; write {path}:{','.join([owner, *parts])}")
        if not owner:
            known = ", ".join(flag.name for method in methods for flag in METHODS[method])
            raise InputError(f"{word}: {name} is no setting of a member" + (f"; use one of {known}" if known else ""))
    typed = options.parse(parser, [f"--{part}" for part in settings])
    return Member(word, path, methods, {name: getattr(typed, name) for name in typed.given})


def result_name(members):
    """What tells this ensemble from others that begin with the same model, as part of its files' names."""
    first, *others = members
    parts = [part_of_name("-".join([Files(os.path.basename(other.path)).stem, *other.methods]))
             for other in others]
    return cut_name(".".join(["ensemble", *first.methods, *parts]), 150)          # file systems take names of 255 bytes


def agree(members, args):
    """The flags with what all members share -> flags with a device and, where none was typed, the first model's data;
    the first model's vocabulary.

    Raises InputError for what is no model, and where two do not know the same words; their order may differ.
    """
    first, *others = [member.path for member in members]
    contents = checkpoint.load(first)
    words = dict.fromkeys(contents["vocabulary"])                  # a set that has an order
    untrained_unk = contents["settings"][checkpoint.UNTRAINED_UNK]
    for other in others:
        its = checkpoint.load(other)
        its_words = dict.fromkeys(its["vocabulary"])
        untrained_unk |= its["settings"][checkpoint.UNTRAINED_UNK]
        for path, known, unknown in (other, its_words, words), (first, words, its_words):
            missing = next((word for word in known if word not in unknown), None)
            if missing is not None:
                raise InputError(f"{other} and {first} cannot be mixed, their vocabularies differ: only {path} knows "
                                 f"the word {short(missing)}")
    args = options.inherit(args, contents["settings"], first, options.DATA)
    return (args.replaced(device=devices.pick_device(args.device), **{checkpoint.UNTRAINED_UNK: untrained_unk}),
            checkpoint.vocabulary_of(contents))


class Reading(NamedTuple):
    """What one model makes of the texts. logprobs: {split: (N,) float64, on the CPU}; figures: by split;
    settings: as used."""
    logprobs: dict
    figures: dict
    parameters: int
    settings: dict


class MembersPass(ResumablePass):
    """Reads models one after another; used as ResumablePass is, and continued as that.

    In memory is one model at a time. Of those that were read only the log-probabilities are kept.
    """

    def __init__(self, members, args):
        super().__init__(members[0].path, args, result_name(members))
        self.key = content_key([member.path for member in members], ["members", args.precision])

    def read_member(self, member, splits):
        """Read the texts `splits` with one model -> Reading."""
        _, args, vocabulary, compute, model = checkpoint.open_model(
            member.flags(self.args).replaced(checkpoint=member.path), ())
        log(f"| reading {member.label}, on {compute}")
        corpus, part, logprobs = read_corpus(args, vocabulary), None, {}
        what = f"{member.path} {member.own_settings(args)}"
        if "dynamic" in member.methods and args.rule == "rms":   # its steps depend on the training text
            what += f" {digest(corpus.train)}"
        with self._untrusted():
            finished = self.splits.setdefault("finished", {})
            finished.keys()                                      # it is a dict
        for split in splits:
            stream = batchify_split(split, corpus, 1, args)                            # (N + 1, 1)
            name = f"{what} {split} {digest(stream)}"
            if name not in finished:
                if self.splits.get("reading") != what:           # what is there is of another model
                    self.splits = {"finished": finished, "reading": what}
                part = part or self._part(member, args, model, corpus)
                finished[name] = self._read(part, member, args, split, stream, model)
                for read in [key for key, entry in self.splits.items() if isinstance(entry, dict)
                             and "targets" in entry]:
                    del self.splits[read]
                self._save()
            with self._untrusted():
                checkpoint.check_tensor(finished[name], torch.empty(len(stream) - 1), name)
            logprobs[split] = finished[name].double()
        figures = {split: log_figures(member.label, split, each.tolist()) for split, each in logprobs.items()}
        settings = {"precision": args.precision, **member.own_settings(args)}
        return Reading(logprobs, figures, count_parameters(model), settings)

    def _part(self, member, args, model, corpus):
        """The pass with which one model reads, ready for the texts."""
        if "dynamic" not in member.methods:
            return ResumablePass(member.path, args.replaced(bptt=PLAIN_WINDOW)).inside(self)
        part = DynamicPass(member.path, args, model).inside(self)
        if args.rule == "rms":
            part.gather(batchify_split("train", corpus, args.stat_batch_size, args, "--stat-batch-size"))
        return part

    def _read(self, part, member, args, split, stream, model):
        """Log-probabilities (N,) of `stream` (N + 1, 1), on the CPU."""
        if "dynamic" in member.methods:
            with naming(member.label):
                features, targets, logprobs, *_ = part.learn(split, stream, args.lr, args.lamb)
        else:
            features, targets, logprobs = part.read(split, model, stream)              # (N, E), (N,), (N,)
        if "cache" in member.methods:
            logprobs = cache_logprobs(features, targets, logprobs, args.theta, args.lambdasm, args.window)
        return logprobs.cpu()
