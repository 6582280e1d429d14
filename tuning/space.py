"""What is searched: flags of main.py with a range or with choices, as in `alpha=0:4 lr=log:1:60 nlayers=1,2,3`."""
import argparse
import math
from dataclasses import dataclass

from runtime.errors import InputError
from runtime.options import Flag
from training.optimizers import OPTIMIZERS

FIXED = {"data", "vocab", "eval_batch_size", "epochs", "seed"}       # another value would make losses incomparable
REGULARISATION = ("alpha=0:4", "beta=0:2", "dropout=0:0.7", "dropouth=0:0.6", "dropouti=0:0.8", "dropoute=0:0.4",
                  "wdrop=0:0.7")
SYNTAX = "write NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=ONE,OTHER"
BOOLEANS = {"true": True, "false": False}


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

    @property
    def whole(self):
        """Whether its values are whole numbers."""
        return isinstance(self.low, int)

    def holds(self, value):
        """Whether a value lies in it."""
        return value in self.choices if self.choices else self.low <= value <= self.high

    def rounded(self, value):
        """A number of the range with four significant digits, so that it can be typed."""
        return value if self.whole else min(max(float(f"{value:.4g}"), self.low), self.high)

    def draw(self, random):
        """A value at random. random: a random.Random."""
        if self.choices:
            return random.choice(self.choices)
        if self.whole and not self.log:
            return random.randint(self.low, self.high)
        if not self.log:
            return self.rounded(random.uniform(self.low, self.high))
        reach = 0.5 if self.whole else 0                            # each whole number has its share of the logarithms
        drawn = math.exp(random.uniform(math.log(self.low - reach), math.log(self.high + reach)))
        return min(max(round(drawn), self.low), self.high) if self.whole else self.rounded(drawn)

    def position(self, value):
        """Where a value lies, from 0 to 1, as an axis shows it."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


def parse(words, flags):
    """`--space` -> list of Dimension. flags: main.py's, by name. Raises InputError for what cannot be searched."""
    space = [_dimension(word, flags) for word in words]
    names = [dimension.name for dimension in space]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--space: {name} is there twice")
    return space


def _dimension(word, flags):
    name, equals, values = word.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    if not (name and equals and values):
        raise InputError(f"--space {word}: {SYNTAX}")
    flag = flags.get(name)
    if flag is None:
        raise InputError(f"--space {word}: main.py has no flag --{name.replace('_', '-')}")
    if not flag.kept or flag.name in FIXED or flag.nargs is not None:
        raise InputError(f"--space {word}: {flag.typed} cannot be searched; leave it out")
    try:
        if ":" not in values:
            choices = tuple(_value(flag, text) for text in values.split(","))
            if len(set(choices)) < 2 or len(set(choices)) < len(choices):
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
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--space {word}: {error}") from None
    return Dimension(flag, (), low, high, bool(log))


def _value(flag, text):
    """A value as the flag itself takes it from a command line."""
    if flag.type is bool:
        if text not in BOOLEANS:
            raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
        return BOOLEANS[text]
    return flag.checked(flag.type(text))


def default(args, supported):
    """What is searched where no --space was typed -> words for `parse`.

    AR, TAR and the dropouts, and the learning rate from a twentieth to five times the optimizer's own; of these what
    was not typed and has an effect. supported: as of `model.supports`.
    """
    rate = OPTIMIZERS[args.optimizer].lr
    without = set(args.given) | ({"wdrop"} - supported) | ({"dropouth"} if args.nlayers == 1 else set())
    return [word for word in (*REGULARISATION, f"lr=log:{rate / 20:g}:{5 * rate:g}")
            if word.partition("=")[0] not in without]
