"""What of a checkpoint's settings goes with a model to another format and comes back; which models a format takes."""
import checkpoint
from data import UNK
from runtime.errors import InputError
from runtime.options import MODEL, checked


def kept(settings):
    """The settings of training that go with a model: its shape is in the format itself, where its texts lay in none."""
    return {flag.name: settings[flag.name] for flag in checkpoint.kept_flags()
            if flag.kept == MODEL and flag.name != "data"}


def refuse(settings, target, cells):
    """InputError, naming it, for a cell or a softmax that the format `target` cannot express."""
    if settings["model"] not in cells:
        raise InputError(f"a model with --model {settings['model']} cannot be exported to {target}; of the cells only "
                         f"{' and '.join(sorted(cells))} can")
    if settings["softmax"] != "split":
        raise InputError(f"a model with --softmax {settings['softmax']} cannot be exported to {target}; of the "
                         "softmaxes only split can, with or without --cutoffs")


def contents_of(state, words, settings, source):
    """What an entry of `FROM` read in `source` -> a checkpoint's contents. InputError for settings no model here has.

    What the settings do not say takes the flags' defaults, but for the precision: others train in fp32.
    """
    words_seen = settings.get("words_seen")
    if not (words_seen is None or (type(words_seen) is int and words_seen >= 0)):
        raise InputError(f"{source} is damaged: words_seen {words_seen!r} is no count")
    default = settings["emsize"] if settings["tied"] and not settings.get("skip_output") else settings["nhid"]
    if settings.get("nhidlast") == default:
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
