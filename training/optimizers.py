"""The optimizers that --optimizer offers. A new one is an entry here; whatever it keeps is saved and continued."""
import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from checkpoint import check_tensor
from model import ModelConfig
from nt_asgd import NTASGD, Averaging
from runtime.errors import InputError
from runtime.options import RUN, Flag, own_flags
from runtime.values import probability
from training.adabelief import AdaBelief
from training.step import learning_rates


@dataclass(frozen=True)
class Entry:
    """make: (parameters, settings) -> torch Optimizer; `settings`: the flags as a dict, with `lr` resolved. lr: the
    learning rate if --lr is not given. flags: of its own. averages: whether it can average the weights."""
    make: Callable
    lr: float
    flags: tuple = ()
    averages: bool = False


def own_decay(settings):
    """The weight decay that is the optimizer's, added to the gradient after clipping."""
    return settings["wdecay"] if settings.get("decay_with", "update") == "update" else 0.0


def decays(config: ModelConfig):
    """The weight decay that is the training step's -> dict of its arguments."""
    return {name: config.wdecay for name, where in (("l2", "loss"), ("decay", "apart")) if config.decay_with == where}


def plain(parameters, settings, kind, **more):
    return kind(parameters, lr=settings["lr"], weight_decay=own_decay(settings), **more)


def with_betas(parameters, settings, kind, **more):
    return plain(parameters, settings, kind, betas=(settings["beta1"], settings["beta2"]), **more)


def adam(parameters, settings, kind=torch.optim.Adam):
    return with_betas(parameters, settings, kind, fused=parameters[0].device.type in ("cpu", "cuda"))


class AveragedAdam(Averaging, torch.optim.Adam):
    """Adam that averages its weights when validation stalls, as NT-ASGD does."""


BETAS = (Flag("beta1", 0.9, "of adam and adabelief: decay of the mean gradient", probability, "X", kept=RUN),
         Flag("beta2", 0.999, "of adam and adabelief: decay of the mean square", probability, "X", kept=RUN))

OPTIMIZERS = {
    "sgd": Entry(partial(plain, kind=NTASGD), lr=30.0, averages=True),
    "adam": Entry(adam, lr=1e-3, flags=BETAS),
    "averaged-adam": Entry(partial(adam, kind=AveragedAdam), lr=1e-3, flags=BETAS, averages=True),
    "adabelief": Entry(partial(with_betas, kind=AdaBelief), lr=1e-2, flags=BETAS),
    "adagrad": Entry(partial(plain, kind=torch.optim.Adagrad), lr=0.2),
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


def take_flags(optimizer, args, lr):
    """Let a continued optimizer have the weight decay that the flags say, and their learning rate where another one
    than the run's so far, `lr`, was typed."""
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = own_decay(vars(args))
        if "lr" in args.given and args.lr != lr:
            group["lr"] = args.lr


def evaluated_weights(optimizer):
    """Inside `with` the weights are those that are evaluated and saved: their average, once there is one."""
    return getattr(optimizer, "averaged", nullcontext)()


def load_state_dict(optimizer, saved, where):
    """Put a state dict into an optimizer that has made no step yet, before the weights are loaded.

    Raises InputError, starting with `where`, if it is not one of such an optimizer, and any other error if it is none.
    """
    fresh = optimizer.state_dict()["param_groups"]
    groups = [{**group, **_of_this_machine(current)} for group, current
              in zip(saved["param_groups"], optimizer.param_groups, strict=True)]
    if [group.keys() for group in fresh] != [group.keys() for group in groups]:
        raise InputError(f"{where} is of another optimizer")
    for group, like in zip(groups, fresh):
        for name, value in like.items():
            if (name == "params" and group[name] != value) or not _is_like(group[name], value):
                raise InputError(f"{where}: the optimizer's {name} is not what it should be")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    initial = copy.deepcopy(optimizer.state_dict()["state"])                # some have one before their first step
    examples = _state_after_a_step(optimizer, params)
    for index, entries in saved["state"].items():
        missing = examples[index].keys() - entries.keys()
        if missing:
            raise InputError(f"{where}: the optimizer's {min(missing)} is missing")
        for name, value in entries.items():
            like, what = examples[index].get(name, params[index]), f"{where}: the optimizer's {name}"
            if isinstance(like, torch.Tensor):          # an average, say, that comes later is like its parameter
                check_tensor(value, like, what)
                if not bool(torch.isfinite(value).all()):
                    raise InputError(f"{what} is not finite")
            elif not _is_like(value, like):
                raise InputError(f"{what} is not what it should be")
    # A copy, or it would go on working in the mapped file's pages.
    optimizer.load_state_dict(copy.deepcopy({"param_groups": groups, "state": {**initial, **saved["state"]}}))


def _state_after_a_step(optimizer, params):
    """What an optimizer keeps of each parameter, known to nobody but itself: as it is after a step that moves none."""
    for parameter in params:
        parameter.grad = torch.zeros_like(parameter)
    with learning_rates(optimizer, [0.0] * len(optimizer.param_groups)):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state = optimizer.state_dict()["state"]
    return {index: state.get(index, {}) for index in range(len(params))}


def _of_this_machine(group):
    """How a step is computed is a matter of this machine, not of the one that saved."""
    return {name: group[name] for name in ("foreach", "fused", "capturable") if name in group}


def _is_like(value, example):
    number = (int, float)
    return type(value) is type(example) or (type(value) in number and type(example) in number)
