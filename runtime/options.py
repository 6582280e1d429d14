"""The command line: every flag once, with its default, its help and the check of its values.

A flag's values come from a command line, as words, or from a checkpoint, as they were saved; both pass the same check.
`parse` accepts `--batch_size` for `--batch-size`, abbreviations (`--epoch`), and tells what the user typed from what is
a default, so that a checkpoint's settings can stand in for flags nobody gave.
"""
import argparse
import os
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields

from runtime import program
from runtime.errors import InputError
from runtime.paths import default_cache
from runtime.values import positive, seed, size

# What happens to a flag's value once a model has been trained with it.
ARCHITECTURE = "architecture"    # fixed by the checkpoint: typing another value is an error
MODEL = "model"                  # the checkpoint's, unless another is typed
RUN = "run"                      # a training state's, for --resume, unless another is typed


@dataclass(frozen=True)
class Flag:
    """One flag.

    name: as an attribute; `max_seq_len_delta` is typed --max-seq-len-delta. type: makes a value of a word or of a value
    in a checkpoint, raising argparse.ArgumentTypeError; `bool` for a pair --x and --no-x. nargs, metavar, choices: as
    in argparse. kept: ARCHITECTURE, MODEL, RUN, or "" for what is never taken from a file. only_true: no --no-x.
    whole: for a flag of several values, a check of their list, raising argparse.ArgumentTypeError, too.
    implies: the name of another flag, and the value that it has where this one is typed and that one is not.
    """
    name: str
    default: object
    help: str
    type: Callable = str
    metavar: str | tuple | None = None
    nargs: int | str | None = None
    choices: tuple | None = None
    kept: str = ""
    only_true: bool = False
    implies: tuple | None = None
    whole: Callable | None = None

    @property
    def typed(self):
        """As it is typed."""
        return "--" + self.name.replace("_", "-")

    def add_to(self, group):
        text = self.help.replace("%", "%%")                       # argparse has a meaning of its own for it
        keywords = {"default": self.default, "help": text, "dest": self.name}
        if self.type is bool:
            action = "store_true" if self.only_true else argparse.BooleanOptionalAction
            group.add_argument(self.typed, action=action, **keywords)
        else:
            group.add_argument(self.typed, type=self.type, metavar=self.metavar, nargs=self.nargs, choices=self.choices,
                               **keywords)

    def words(self, value):
        """As one types it: the words of a command line that give the flag this value."""
        if self.type is bool:
            return [self.typed] if value else [] if self.only_true else [self.typed.replace("--", "--no-", 1)]
        return [self.typed, *map(str, value if isinstance(value, list) else [value])]

    def checked(self, value):
        """A value found in a file, or an error as of a typed one: argparse.ArgumentTypeError."""
        if value is None and self.default is None:
            return None
        if self.type is bool:
            if not isinstance(value, bool):
                raise argparse.ArgumentTypeError(f"{value!r} is not true or false")
            return value
        if self.nargs is None:
            return self._checked_one(value)
        sized = isinstance(value, list) and (len(value) == self.nargs if isinstance(self.nargs, int) else
                                             self.nargs == "*" or value)
        if not sized:
            raise argparse.ArgumentTypeError(f"{value!r} is not a list of such length")
        value = [self._checked_one(each) for each in value]
        if self.whole:
            self.whole(value)
        return value

    def _checked_one(self, value):
        if isinstance(value, str) != (self.type is str) or isinstance(value, bool) or value is None:
            raise argparse.ArgumentTypeError(f"{value!r} is of another type")
        try:
            value = self.type(value)
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError(f"{value!r} is of another type") from None
        if self.choices is not None and value not in self.choices:
            raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(self.choices)}")
        return value


def setting(default, help, type=str, metavar=None, group="", **more):
    """A field of a dataclass of settings: it is a flag of its name, and takes what `Flag` takes.

    group: its group in --help, where that is not the one of most fields. help: a text, or a function that makes it.
    """
    flag = {"help": help, "type": type, "metavar": metavar, **more}
    default_of_field = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**default_of_field, metadata={"flag": flag, "group": group})


def flags_of(settings, group="", **others):
    """The Flags that the fields of a dataclass of settings are, those of one group.

    Choices that are a registry are those that it has now. others: by name, what a script has otherwise than the field,
    as in `lr={"default": 30.0}`.
    """
    made = []
    for each in fields(settings):
        if "flag" not in each.metadata or each.metadata["group"] != group:
            continue
        default = each.default_factory() if each.default is MISSING else each.default
        flag = {"default": default, **each.metadata["flag"], **others.get(each.name, {})}
        flag["choices"] = flag.get("choices") and tuple(flag["choices"])
        flag["help"] = flag["help"]() if callable(flag["help"]) else flag["help"]
        made.append(Flag(each.name, **flag))
    return tuple(made)


def own_flags(registry):
    """The flags that the entries of a registry bring with them, each once."""
    return tuple({flag.name: flag for entry in registry.values() for flag in entry.flags}.values())


class Arguments(argparse.Namespace):
    """The flags of a command line: parsed once, never written to. `given`: the names of those that the user typed."""

    def __init__(self, values, given=()):
        self.__dict__.update(values, given=frozenset(given))

    def __setattr__(self, name, value):
        raise AttributeError(f"flags are not written to ({name}); `replaced` makes others of them")

    def replaced(self, **values):
        """The same flags with other values for some."""
        return Arguments({**vars(self), **values}, self.given)

    def settings(self):
        """The flags as a plain dict, fit for a checkpoint or a line of JSON."""
        return {name: value for name, value in vars(self).items() if name not in ("given", "cuda", "resume")}


BUSY = ("On a CPU that other work keeps busy, too, threads that spin while they wait slow each other down: there set "
        "the environment variable OMP_WAIT_POLICY=PASSIVE. On an idle machine it costs time.")


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and groups of Flags."""

    def __init__(self, description):
        super().__init__(prog=program.name(), description=description, formatter_class=_Help, epilog=BUSY)
        self.flags = {}
        self._negative_number_matcher = re.compile(r"-\.?\d")       # argparse's own takes -1e-3 for a flag

    def add(self, title, flags):
        """Add a group of Flags -> self."""
        group = self.add_argument_group(title)
        for flag in flags:
            flag.add_to(group)
            self.flags[flag.name] = flag
        return self

    def error(self, message):
        if os.environ.get("LOCAL_RANK", "0") != "0":      # one process of several speaks
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _hyphenated(arg):
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value


def before_dashes(words):
    """A command line cut before its `--`, behind which no word is a flag -> two lists."""
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end:]


def parse(parser, argv=None):
    """A command line (default: this process's), with `_` and `-` alike in the names of flags -> Arguments.

    Behind `--` stand names that may begin with a dash.
    """
    words, behind = before_dashes(sys.argv[1:] if argv is None else argv)
    words, behind = [_hyphenated(word) for word in words], behind[1:]
    defaults, unset = parser.parse_args([]), object()
    typed = parser.parse_intermixed_args(words, argparse.Namespace(**dict.fromkeys(vars(defaults), unset)))
    typed = {name: value for name, value in vars(typed).items() if value is not unset}
    names = next(iter(parser._get_positional_actions()), None)     # argparse itself loses `--` among intermixed words
    if behind and not names:
        parser.error(f"unrecognized arguments: {' '.join(behind)}")
    if behind:
        typed[names.dest] = [*typed.get(names.dest, []), *behind]
    for flag in (parser.flags[name] for name in typed if name in parser.flags):
        value = typed[flag.name]
        if flag.metavar in ("FILE", "FOLDER") and "" in (value if isinstance(value, list) else [value]):
            parser.error(f"argument {flag.typed}: the name of the {flag.metavar.lower()} is empty; give one")
        if flag.whole:
            try:
                flag.whole(value)
            except argparse.ArgumentTypeError as error:
                parser.error(f"argument {flag.typed}: {error}")
    implied = dict(parser.flags[name].implies for name in typed if name in parser.flags and parser.flags[name].implies)
    typed = {**implied, **typed}
    return Arguments({**vars(defaults), **typed}, typed)


def inherit(args, settings, path, flags):
    """The flags with a checkpoint's `settings` in place of those of `flags` that the user did not type -> Arguments.

    Raises InputError where the user typed another architecture than the checkpoint at `path` has.
    """
    for flag in flags:
        typed, saved = getattr(args, flag.name, None), settings.get(flag.name)
        if flag.kept == ARCHITECTURE and flag.name in args.given and typed != saved:
            raise InputError(f"{path} was trained with {flag.typed} {shown(saved)}, the command line asks "
                             f"for {shown(typed)}; leave the flag out or use another checkpoint")
    return args.replaced(**{flag.name: settings[flag.name] for flag in flags
                            if flag.kept and flag.name not in args.given and flag.name in settings})


def checked(settings, flags, path):
    """A checkpoint's settings, put through the same checks as typed flags -> dict of those in `flags` that are kept.

    A setting that the checkpoint does not have, because it is older than the flag, takes the flag's default; one of a
    run alone is left out. Raises InputError naming the file.
    """
    passed = {}
    for flag in flags:
        if not flag.kept or (flag.kept == RUN and settings.get(flag.name) is None):
            continue
        try:
            passed[flag.name] = flag.checked(settings.get(flag.name, flag.default))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{path} is damaged: {flag.typed} in its settings: {' '.join(str(error).split())[:200]}"
                             ) from None
    return passed


def shown(value):
    return " ".join(map(str, value)) or "(none)" if isinstance(value, list) else str(value)


# Groups of flags that scripts share, in the order in which --help shows them.

def save(what):
    return Flag("save", "model.pt", what, metavar="FILE")


READ_MODEL = (
    save("model that main.py saved; its fine-tuned version is read if there is one"),
    Flag("checkpoint", None, "model to read instead, exactly this file", metavar="FILE"),
)

# Of the published pointer.py and generate.py: the model's file says what it is, and a typed one must be the same.
PUBLISHED_MODEL = Flag("model", argparse.SUPPRESS, argparse.SUPPRESS, kept=ARCHITECTURE)

DATA = (
    Flag("data", "data/penn", "folder with train.txt, valid.txt and test.txt, or `demo`: a corpus made from Python's "
         "own documentation", metavar="FOLDER", kept=MODEL),
    Flag("vocab", "all", "words of all three texts, as in published figures, or of the training text alone with <unk> "
         "for the rest", choices=("all", "train"), kept=MODEL),
    Flag("line_ends", "one", "ends read of a line of the text that ends in <eos> by itself: one, or both, that and its "
         "own", choices=("one", "both"), kept=MODEL),
    Flag("cache", default_cache(), "folder for tokenised corpora; `none` keeps nothing", metavar="FOLDER"),
)

READ_WORDS = (
    Flag("split_words", None, "splitting of a text for a model of words: punctuation in front of and behind words as "
         "words of its own, or contractions, too (do n't), as Penn Treebank has them, or none; as prepare.py did if "
         "not given", choices=("none", "punctuation", "ptb")),
    Flag("lower", False, "text in lower case, as prepare.py --lower writes it", bool, only_true=True),
)


def running(log_interval=200, log_what="batches"):
    return (
        Flag("device", "auto", "device to compute on", metavar="auto|cpu|cuda|mps"),
        Flag("precision", "auto", "matmul dtype (accumulation, weights and the loss are fp32 in any case, states but "
             "for bf16 on CUDA). auto: bf16 on a CPU whose instructions for it are measured to be clearly "
             "faster, tf32 on GPUs that have it, else fp32; scripts that read a model take the one it was trained in",
             choices=("auto", "fp32", "tf32", "bf16"), kept=MODEL),
        Flag("cuda", argparse.SUPPRESS, argparse.SUPPRESS, bool, only_true=True),
        Flag("seed", 1111, "seed of all random numbers", seed, "N", kept=RUN),
        Flag("log_interval", log_interval, f"{log_what} between log lines", size, "N"),
    )


RECIPE = (Flag("recipe", None, "name under which results/table.py counts this run", metavar="NAME"),)

GRAPHS = Flag("graphs", True, "replay of steps as CUDA graphs; --no-graphs computes the same, more slowly. The "
              "adaptive softmax has none", bool)

STOPPING = (
    Flag("resume", None, "state of a run, to be continued exactly; `auto`: that of the run of this --save, which is "
         "started if there is none", metavar="FILE"),
    Flag("checkpoint_minutes", 10, "minutes between savings of the state, besides those at the end of epochs (of some, "
         "where they are so short that saving would take more than a twentieth of the time)", positive, "M"),
    Flag("max_minutes", None, "minutes after which the script stops with everything saved", positive, "M"),
)
