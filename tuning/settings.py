"""The flags of a search: kept in its storage when it starts, taken from there when it is continued."""
import argparse
import os

from data import read_corpus
from model import refuse_unsupported, resolve, supports
from runtime.errors import InputError
from runtime.options import Arguments, shown
from softmaxes import SOFTMAXES
from training import optimizers, schedules
from tuning import halving, space
from tuning.search import Names
from tuning.storage import Storage

OWN = ("space", "rungs", "reduction", "sampler")        # flags of tune.py that a search is bound to, besides main.py's
CHANGEABLE = ("trials",)                                # kept, too, but another value may be typed


def begin(args, flags):
    """The command line, completed, or taken from the search of this `--save` -> Names, Arguments.

    flags: tune.py's, by name. Raises InputError for a search that is there and not to be continued, or was started with
    other flags than were typed now.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("tune.py is started without torchrun; --workers N runs several trials at a time")
    if args.resume not in (None, "auto"):
        raise InputError(f"--resume {args.resume}: a search is continued by --resume auto and its --save")
    if os.path.isdir(args.save) or not os.path.basename(args.save):
        raise InputError(f"--save {args.save!r} is no file name; give one such as model.pt")
    names = Names(args.save)
    kept = _read(names)
    if kept is None:
        return names, _completed(args)
    if args.resume is None:
        raise InputError(f"{names.folder} holds a search already: --resume auto continues it; or choose another --save")
    return names, _continued(args, kept, flags, names)


def check(args, dimensions):
    """Raise InputError for what every trial's main.py would refuse: its text, and the flags at both ends of all ranges.

    dimensions: as of `space.parse`.
    """
    for dimension in dimensions:
        if dimension.name in args.given:
            raise InputError(f"{dimension.flag.typed} is typed and in --space; leave one of them out")
    for end in (0, -1):
        values = {d.name: d.choices[end] if d.choices else (d.low, d.high)[end] for d in dimensions}
        tried = Arguments({**vars(args), **values}, args.given | values.keys())
        refuse_unsupported(tried)
        schedules.plan(optimizers.resolve(tried))
    softmax = SOFTMAXES[args.softmax]
    read_corpus(args, None, lambda ntoken: softmax.sorts_vocabulary(vars(resolve(args, ntoken))))


def defaults(args, dimensions):
    """What the first trial starts from: main.py's own values, of those flags whose ranges hold them -> dict."""
    values = vars(optimizers.resolve(args))
    return {d.name: values[d.name] for d in dimensions if values[d.name] is not None and d.holds(values[d.name])}


def keep(args, flags, names):
    """Write the flags of a search into its storage, which is made if it is not there."""
    bound = {name: getattr(args, name) for name, flag in flags.items()
             if name in (*OWN, *CHANGEABLE) or (flag.kept and name in args.given and name != "epochs")}
    os.makedirs(names.folder, exist_ok=True)
    storage = Storage(names.storage)
    with storage.transaction():
        other = storage.get("flags") or bound              # of a process that has started it meanwhile
        if any(other.get(name) != bound.get(name) for name in {*other, *bound}.difference(CHANGEABLE)):
            raise InputError(f"{names.folder}: another process has just started a search there, with other flags")
        storage.put("flags", bound)


def _read(names):
    """What `keep` wrote, or None where there is no search."""
    if not os.path.exists(names.storage):
        return None
    storage = Storage(names.storage)
    with storage.transaction():
        return storage.get("flags")


def _completed(args):
    """The flags with what a search decides itself: its rungs, and its space."""
    words = args.space or space.default(args, supports(vars(args)))
    if not words:
        raise InputError("there is nothing to search: all of it was typed; give --space")
    if args.reduction < 2:
        raise InputError("--reduction 1 would let every trial go on; for that give --rungs one number")
    return args.replaced(space=words, rungs=_rungs(args))


def _rungs(args):
    """Epochs after which trials are compared -> list. InputError for flags that contradict each other."""
    if not args.rungs:
        if "epochs" not in args.given or not args.epochs:
            raise InputError("give --epochs: how long the best trials are trained")
        return halving.geometric(args.epochs, args.reduction)
    if sorted(set(args.rungs)) != args.rungs:
        raise InputError(f"--rungs {shown(args.rungs)} does not grow from rung to rung")
    if "epochs" in args.given and args.epochs != args.rungs[-1]:
        raise InputError(f"--rungs {shown(args.rungs)} does not end at --epochs {args.epochs}")
    return args.rungs


def _continued(args, kept, flags, names):
    """The flags of the search that is there, and of those typed the ones that may differ."""
    try:
        kept = {name: flags[name].checked(value) for name, value in kept.items()}
    except (KeyError, AttributeError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{names.storage} is damaged, or of another version of this program ({error})") from None
    bound = {**{name: flag.default for name, flag in flags.items() if flag.kept}, **kept, "epochs": kept["rungs"][-1]}
    for name in sorted(args.given & bound.keys()):
        if name not in CHANGEABLE and getattr(args, name) != bound[name]:
            raise InputError(f"the search in {names.folder} has {flags[name].typed} {shown(bound[name])}, the command "
                             f"line asks for {shown(getattr(args, name))}; leave the flag out or choose another --save")
    kept = {name: value for name, value in kept.items() if name not in CHANGEABLE or name not in args.given}
    return Arguments({**vars(args), **kept}, args.given | kept.keys())
