"""The optimizers that --optimizer offers. A new one is an entry here; whatever it keeps is saved and continued."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nt_asgd import NTASGD
from runtime.errors import InputError
from runtime.options import RUN, Flag, own_flags, probability


@dataclass(frozen=True)
class Entry:
    """make: (parameters, settings) -> torch Optimizer; `settings`: the flags as a dict, with `lr` resolved. lr: the
    learning rate if --lr is not given. flags: of its own."""
    make: Callable
    lr: float
    flags: tuple = ()


def sgd(parameters, settings):
    return NTASGD(parameters, lr=settings["lr"], weight_decay=settings["wdecay"])


def adam(parameters, settings):
    return torch.optim.Adam(parameters, lr=settings["lr"], betas=(0.9, settings["beta2"]),
                            weight_decay=settings["wdecay"], fused=parameters[0].device.type in ("cpu", "cuda"))


def adagrad(parameters, settings):
    return torch.optim.Adagrad(parameters, lr=settings["lr"], weight_decay=settings["wdecay"])


OPTIMIZERS = {
    "sgd": Entry(sgd, lr=30.0),
    "adam": Entry(adam, lr=1e-3, flags=(Flag("beta2", 0.999, "of adam", probability, "X", kept=RUN),)),
    "adagrad": Entry(adagrad, lr=0.2),
}


def resolve(args):
    """The flags with the optimizer's learning rate where none was typed -> Arguments.

    Raises InputError for a flag that was typed and belongs to another optimizer.
    """
    entry = OPTIMIZERS[args.optimizer]
    for flag in own_flags(OPTIMIZERS):
        if flag.name in args.given and flag not in entry.flags:
            raise InputError(f"{flag.typed} is not for --optimizer {args.optimizer}; leave it out")
    return args.replaced(lr=entry.lr) if args.lr is None else args


def make(args, model):
    """The optimizer that the flags describe, over all parameters of `model`."""
    return OPTIMIZERS[args.optimizer].make(list(model.parameters()), vars(args))
