"""The optimizers that --optimizer offers. A new one is an entry here; whatever it keeps is saved and continued."""
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from nt_asgd import NTASGD, Averaging
from runtime.errors import InputError
from runtime.options import RUN, Flag, own_flags, probability
from training.adabelief import AdaBelief


@dataclass(frozen=True)
class Entry:
    """make: (parameters, settings) -> torch Optimizer; `settings`: the flags as a dict, with `lr` resolved. lr: the
    learning rate if --lr is not given. flags: of its own. averages: whether it can average the weights."""
    make: Callable
    lr: float
    flags: tuple = ()
    averages: bool = False


def sgd(parameters, settings):
    return NTASGD(parameters, lr=settings["lr"], weight_decay=settings["wdecay"])


def adam(parameters, settings, kind=torch.optim.Adam):
    return kind(parameters, lr=settings["lr"], betas=(settings["beta1"], settings["beta2"]),
                weight_decay=settings["wdecay"], fused=parameters[0].device.type in ("cpu", "cuda"))


class AveragedAdam(Averaging, torch.optim.Adam):
    """Adam that averages its weights when validation stalls, as NT-ASGD does."""


def adabelief(parameters, settings):
    return AdaBelief(parameters, lr=settings["lr"], betas=(settings["beta1"], settings["beta2"]),
                     weight_decay=settings["wdecay"])


def adagrad(parameters, settings):
    return torch.optim.Adagrad(parameters, lr=settings["lr"], weight_decay=settings["wdecay"])


BETAS = (Flag("beta1", 0.9, "of adam and adabelief: decay of the mean gradient", probability, "X", kept=RUN),
         Flag("beta2", 0.999, "of adam and adabelief: decay of the mean square", probability, "X", kept=RUN))

OPTIMIZERS = {
    "sgd": Entry(sgd, lr=30.0, averages=True),
    "adam": Entry(adam, lr=1e-3, flags=BETAS),
    "averaged-adam": Entry(partial(adam, kind=AveragedAdam), lr=1e-3, flags=BETAS, averages=True),
    "adabelief": Entry(adabelief, lr=1e-2, flags=BETAS),
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
