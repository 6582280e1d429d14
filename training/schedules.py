"""How the learning rate goes: within epochs (schedules), and where the validation loss stalls.

`SCHEDULES` and `ON_STALL` are what the command line offers; a new one is an entry there.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from runtime.errors import InputError
from runtime.log import counted, log, warn
from runtime.options import RUN, Flag
from runtime.values import epochs, probability
from training.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Schedule:
    """make: settings (the flags as a dict) -> a function of the epoch, a number with fractions, that gives what the
    learning rate is multiplied by, and Adam's beta1. epochs: settings -> how many epochs it has. flags: its own; the
    first of them asks for it."""
    make: Callable
    epochs: Callable
    flags: tuple


def one_cycle(epoch, phases, momentum):
    """What the learning rate is multiplied by, and beta1, at `epoch` of one cycle (Smith 2018, 1803.09820).

    In four phases the rate rises from a tenth to its full value while beta1 falls; both stay; both go back the way they
    came; and the rate goes on down to a thousandth. phases: their lengths in epochs, not negative. momentum: beta1 at
    the ends, and at the full rate.
    """
    high, low = momentum
    corners = [(0.1, high), (1.0, low), (1.0, low), (0.1, high), (0.001, high)]
    for length, before, after in zip(phases, corners, corners[1:]):
        if epoch < length:
            share = epoch / length
            return tuple(a + share * (b - a) for a, b in zip(before, after))
        epoch -= length
    return corners[-1]


def make_one_cycle(settings):
    if settings["optimizer"] != "adam" or not sum(settings["one_cycle"]):
        raise InputError("--one-cycle needs --optimizer adam and at least one phase that is not 0 epochs long")
    return partial(one_cycle, phases=settings["one_cycle"], momentum=settings["momentum"])


SCHEDULES = {
    "one_cycle": Schedule(make_one_cycle, lambda settings: math.ceil(sum(settings["one_cycle"])), (
        Flag("one_cycle", None, "epochs of four phases of adam's learning rate: from a tenth up to --lr, there, back, "
             "and down to a thousandth; --epochs is then their sum if not given", epochs, "E", nargs=4, kept=RUN),
        Flag("momentum", [0.8, 0.7], "adam's beta1 in one cycle: at its ends, and at the full learning rate",
             probability, "X", nargs=2, kept=RUN))),
}


def of(args):
    """The schedule that the flags ask for: a function of the epoch, or None."""
    asked = (schedule for schedule in SCHEDULES.values() if getattr(args, schedule.flags[0].name))
    return next((schedule.make(vars(args)) for schedule in asked), None)


def plan(args):
    """The flags with the length of the schedule that they ask for -> Arguments.

    Raises InputError for typed flags that contradict each other or would have no effect.
    """
    if not OPTIMIZERS[args.optimizer].averages:
        those = " and ".join(name for name, entry in OPTIMIZERS.items() if entry.averages)
        if args.on_stall == "average" and "on_stall" in args.given:
            raise InputError(f"--on-stall average is for --optimizer {those}, not for {args.optimizer}; use halve, "
                             "divide or nothing")
        if args.average_from:
            raise InputError(f"--average-from is for --optimizer {those}, not for {args.optimizer}; leave it out")
    if "stall_divisor" in args.given and args.on_stall != "divide":
        raise InputError("--stall-divisor has no effect without --on-stall divide; leave it out")
    if "beta1" in args.given and args.one_cycle:
        raise InputError("--beta1 has no effect with --one-cycle; give its two values by --momentum")
    for schedule in SCHEDULES.values():
        asks, *others = schedule.flags
        if not getattr(args, asks.name):
            for flag in others:
                if flag.name in args.given:
                    raise InputError(f"{flag.typed} has no effect without {asks.typed}; leave it out")
            continue
        schedule.make(vars(args))                                        # refuses what contradicts it
        for name in sorted({"when", "decay", *(["on_stall"] if args.on_stall in DIVIDES else [])} & args.given):
            raise InputError(f"--{name.replace('_', '-')} has no effect with {asks.typed}, which sets the learning "
                             "rate at every step; leave it out")
        length = schedule.epochs(vars(args))
        if "epochs" in args.given and args.epochs < length:
            warn(f"{asks.typed} takes {counted(length, 'epochs')}, --epochs {args.epochs} ends before its end")
        typed = asks.name in args.given and "epochs" not in args.given        # else a state has both
        return args.replaced(epochs=length) if typed else args
    return args


def follow(schedule, epoch, lr, optimizer):
    """Let an optimizer have what the schedule gives at `epoch`, a number with fractions; lr: what it multiplies."""
    factor, momentum = schedule(epoch)
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = lr * factor, (momentum, group["betas"][1])


# ---- between epochs, and when the validation loss stalls: functions of the Run

def divide_learning_rate(run, divisor):
    for group in run.optimizer.param_groups:
        group["lr"] /= divisor
    log(f"| learning rate divided by {divisor:g}: now {run.rate:g}")


def divide(run, divisor=None):
    """Divide the learning rate for a stall, each time anew."""
    run.progress.stall_epoch = len(run.progress.history)
    divide_learning_rate(run, divisor or run.config.stall_divisor)


def average(run, reason=None):
    """NT-ASGD (section 3): from the next step on, validation and the saved model use the average of the weights."""
    if hasattr(run.optimizer, "start_averaging") and not run.optimizer.averaging:
        reason = reason or run.progress.why_stalled()
        run.optimizer.start_averaging()
        run.progress.switch_epoch, run.progress.switch_reason = len(run.progress.history), reason
        log(f"| averaging starts: {reason}")


DIVIDES = ("halve", "divide")
ON_STALL = {"average": average, "halve": partial(divide, divisor=2), "divide": divide, "nothing": lambda run: None}
