"""What tune.py searches: flags of main.py with a range or with choices, as in `alpha=0:4 lr=log:1:60 nlayers=1,2,3`."""
import argparse
from dataclasses import dataclass

from model import ModelConfig
from runtime.errors import InputError
from runtime.options import Flag
from training.optimizers import OPTIMIZERS

FIXED = {"data", "vocab", "line_ends", "eval_batch_size", "epochs", "seed"}      # others make losses incomparable
REGULARISATION = ("alpha=0:4", "beta=0:2", "dropout=0:0.7", "dropouth=0:0.6", "dropouti=0:0.8", "dropoute=0:0.4",
                  "wdrop=0:0.7")
SYNTAX = "write NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=ONE,OTHER"


@dataclass(frozen=True)
class Dimension:
    """A flag that is searched: in `choices`, or from `low` to `high`, both included; `log`: evenly in the logarithm."""
    flag: Flag
    choices: tuple = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def name(self):
        return self.flag.name

    def contains(self, value):
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high

    def suggest(self, trial):
        """The value that a trial of Optuna has for it, drawn by the study's sampler where it has none yet."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        draw = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return draw(self.name, self.low, self.high, log=self.log)


def parse(words, flags):
    """`--space` -> list of Dimension. flags: main.py's, by name. Raises InputError for what cannot be searched."""
    space = {}
    for word in words:
        try:
            dimension = _dimension(word, flags)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--space {word}: {error}") from None
        if dimension.name in space:
            raise InputError(f"--space: {dimension.name} is there twice")
        space[dimension.name] = dimension
    return [*space.values()]


def _dimension(word, flags):
    name, _, values = word.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    flag = flags.get(name)
    if not (name and values):
        raise argparse.ArgumentTypeError(SYNTAX)
    if flag is None:
        raise argparse.ArgumentTypeError(f"main.py has no flag --{name.replace('_', '-')}")
    if not flag.kept or flag.name in FIXED or flag.nargs is not None:
        raise argparse.ArgumentTypeError(f"{flag.typed} cannot be searched; leave it out")
    if ":" not in values:
        choices = tuple(_value(flag, text) for text in values.split(","))
        if len(set(choices)) < max(2, len(choices)):
            raise argparse.ArgumentTypeError("a choice needs two different values or more")
        return Dimension(flag, choices)
    *log, low, high = values.split(":")
    if log not in ([], ["log"]):
        raise argparse.ArgumentTypeError(SYNTAX)
    low, high = _value(flag, low), _value(flag, high)
    if isinstance(low, (bool, str)):
        raise argparse.ArgumentTypeError(f"{flag.typed} has no range; list its values, as in NAME=ONE,OTHER")
    if not low < high or (log and low <= 0):
        raise argparse.ArgumentTypeError(f"{'0 < ' if log else ''}LOW < HIGH does not hold")
    return Dimension(flag, (), low, high, bool(log))


def _value(flag, text):
    """A value as the flag itself takes it from a command line."""
    if flag.type is not bool:
        return flag.checked(flag.type(text))
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def default(args):
    """What is searched where no --space was typed -> words for `parse`.

    AR, TAR and the dropouts, and the learning rate from a twentieth to five times the optimizer's own; of these what
    was not typed and has an effect.
    """
    rate = OPTIMIZERS[args.optimizer].lr
    supported = ModelConfig.of(vars(args)).supported
    without = args.given | ({"wdrop"} - supported) | ({"dropouth"} if args.nlayers == 1 else set())
    return [word for word in (*REGULARISATION, f"lr=log:{rate / 20:g}:{5 * rate:g}")
            if word.partition("=")[0] not in without]
