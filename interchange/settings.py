"""What of a checkpoint's settings goes with a model to another format and comes back; which models a format takes."""
import os

import checkpoint
from data import UNK
from runtime.errors import InputError
from runtime.options import checked


def exported_settings(settings, without):
    """The settings that go with a model, but for those that the format has itself; where its texts lay is in none."""
    return {flag.name: settings[flag.name] for flag in checkpoint.kept_flags() if flag.name not in ("data", *without)}


def width_of_last(settings):
    """Hidden units of the last layer."""
    return settings.get("nhidlast") or default_width_of_last(settings)


def default_width_of_last(settings):
    return settings.get("emsize" if settings["tied"] and not settings.get("skip_output") else "nhid")


def refuse(settings, target, cells, softmaxes):
    """InputError, naming it, for a cell or a softmax that the format `target` cannot express."""
    for flag, known in ("model", cells), ("softmax", softmaxes):
        if settings[flag] not in known:
            raise InputError(f"a model with --{flag} {settings[flag]} cannot be exported to {target}; only --{flag} "
                             f"{' or '.join(sorted(known))} can")


def check_folder(path, files, mark):
    """Raise InputError where something lies at `path` that is not an earlier export: it would be replaced.

    files: what an export of the format consists of; mark: the one of them that tells such a folder from others.
    """
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path):
        raise InputError(f"{path} is there and is no folder; give another name")
    there = set(os.listdir(path))
    other = sorted(there if mark not in there else there - set(files))
    if other:
        raise InputError(f"{path} is not what an earlier export wrote: {other[0]} is in it; give another name")


def contents_of(state, words, settings, source):
    """What an entry of `FROM` read in `source` -> a checkpoint's contents. InputError for settings no model here has.

    What the settings do not say takes the flags' defaults, but for the precision: others train in fp32.
    """
    words_seen = settings.get("words_seen")
    if not (words_seen is None or (type(words_seen) is int and words_seen >= 0)):
        raise InputError(f"{source} is damaged: words_seen {words_seen!r} is no count")
    if settings.get("nhidlast") == default_width_of_last(settings):
        settings = {**settings, "nhidlast": None}
    if "vocab" not in settings and UNK in words:
        settings = {**settings, "vocab": "train"}         # other texts have other words
    settings, state = {"precision": "fp32", **settings}, dict(state)
    softmax = {name: state.pop(name) for name in list(state) if name.startswith(checkpoint.SOFTMAX)}
    contents = {"model": state, "criterion": {name.removeprefix(checkpoint.SOFTMAX): tensor
                                              for name, tensor in softmax.items()},
                "settings": checked(settings, checkpoint.kept_flags(), source), "vocabulary": words,
                "tokenizer": settings.get("tokenizer"), "losses": {"words_before": words_seen, "history": []}}
    try:
        checkpoint.vocabulary_of(contents)
    except InputError as error:
        raise InputError(f"{source} is damaged: {error}") from None
    return contents
