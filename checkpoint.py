"""One file format for all scripts: a plain dict, written atomically, read without trusting it.

Every file holds `format`, `model` and `criterion` (state dicts: the network's, and its softmax's), `settings` (the
flags), `vocabulary` (words in the order of their ids), `tokenizer` (how text is cut into them; without it at white
space) and `losses`; those of training have `word_counts` (how often the training text has each word). A best model has
its `digest`, too. A training state holds besides what continuing exactly needs: see `training/state.py`.
"""
import hashlib
import os
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch

import model as network
from corpus import word_counts
from corpus.vocabulary import Vocabulary, read_as, restore_tokenizer
from runtime import devices, options
from runtime.errors import InputError
from runtime.log import counted
from runtime.options import MODEL, flags_of, setting
from runtime.paths import atomic_write
from runtime.run_files import Files
from runtime.values import non_negative, probability, size

FORMAT = "awd-lstm 1"
TYPES = {"model": dict, "criterion": dict, "settings": dict, "vocabulary": list, "losses": dict}
MADE_OF = "finetuned_from"    # in the settings of a fine-tuned model: the digest of the model it was made of
UNTRAINED_UNK = "untrained_unk"   # in the settings of a model whose training text had no <unk>: True
SOFTMAX = "softmax."         # how the names of the softmax's parameters begin in a model's state dict
PAST = "past."              # and those of past decode regularisation, which only training needs
Config = TypeVar("Config", bound="KeptTraining")


@dataclass(frozen=True)
class KeptTraining:
    """What the file of a model keeps of how it was trained, and of which further training goes on with the same.

    Each field is the flag of its name, here with its default. The other settings of training, which end with a run, are
    in `training.settings.TrainingConfig`.
    """
    clip: float = setting(0.25, "largest gradient norm, 0 for none", non_negative, "X", kept=MODEL)
    batch_size: int = setting(80, "streams that the training text is cut into, read in parallel", size, "N", kept=MODEL)
    bptt: int = setting(70, "mean window length (BPTT segment) in tokens", size, "N", kept=MODEL)
    variable_bptt: bool = setting(True, "windows of drawn lengths; --no-variable-bptt: all bptt long", bool, kept=MODEL)
    state_drop: float = setting(0.0, "probability that a stream of the batch starts a window of training from the zero "
                                "state", probability, "P", kept=MODEL)
    partial_shuffle: bool = setting(False, "another beginning of each stream in every epoch (Press's partial "
                                    "shuffling)", bool, kept=MODEL)
    read_on: bool = setting(False, "streams that begin at a random place and are read on in a circle: windows and the "
                            "hidden state go on across the end of an epoch (Melis et al.)", bool, only_true=True,
                            kept=MODEL)
    eval_batch_size: int = setting(10, "batch size in validation during training; the test has 1", size, "N",
                                   kept=MODEL)

    @classmethod
    def of(cls: type[Config], settings: Mapping[str, Any]) -> Config:
        """Out of flags by name, a checkpoint's settings or those of a command line, among others that it leaves out."""
        return cls(**{each.name: settings[each.name] for each in fields(cls) if each.name in settings})


def contents_of(model, settings, vocabulary, losses):
    """A model with all that reading it again needs -> dict for `save`.

    settings: a dict, the flags resolved. vocabulary: a `Vocabulary`.
    """
    state = model.state_dict()
    return {"model": {name: tensor for name, tensor in state.items() if not name.startswith((SOFTMAX, PAST))},
            "criterion": _part(state, SOFTMAX), "past": _part(state, PAST),
            "settings": settings, "vocabulary": list(vocabulary), "tokenizer": vocabulary.tokenizer.state(),
            "losses": losses, **({"word_counts": vocabulary.counts.state()} if vocabulary.counts else {})}


def _part(state, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def save(path, contents, previous=None):
    """Write `contents`, a dict, to `path` atomically; `previous`: a name under which the old file is kept.

    Raises OSError where it cannot be written.
    """
    with atomic_write(path, "wb", previous) as file:
        write({"format": FORMAT, **contents}, file)


def write(contents, file):
    """`torch.save` to an open file. Raises OSError where it cannot be written: torch makes another error of most."""
    try:
        torch.save(contents, file)
    except RuntimeError as error:
        cause = error.__context__
        raise (cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0])) from None


def load(path, flags=None):
    """Read and check a checkpoint -> dict, its settings complete and valid, its tensors still on disk.

    flags: those that its settings are checked for, default those of a model and its data. Raises InputError for
    anything that is not a whole checkpoint of this program.
    """
    contents = read(path)
    for key, kind in TYPES.items():
        if not isinstance(contents.get(key), kind):
            raise InputError(f"{path} is damaged: it has no {key}")
    if not isinstance(contents.setdefault("past", {}), dict):
        raise InputError(f"{path} is damaged: its weights of --pdr are none")
    words = contents["vocabulary"]
    if not words or not all(isinstance(word, str) for word in words) or len(set(words)) != len(words):
        raise InputError(f"{path} is damaged: its vocabulary is not a list of different words")
    try:
        vocabulary_of(contents)
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from None
    untrained_unk = contents["settings"].get(UNTRAINED_UNK) is True
    contents["settings"] = options.checked(contents["settings"], flags or kept_flags(), path)
    contents["settings"][UNTRAINED_UNK] = untrained_unk
    if network.SOFTMAXES[contents["settings"]["softmax"]].resolve(contents["settings"], len(words)):
        raise InputError(f"{path} is damaged: its settings do not say what softmax the model has")
    return contents


def vocabulary_of(contents):
    """The words of a checkpoint's contents, and how text is cut into them -> Vocabulary."""
    words = contents["vocabulary"]
    return Vocabulary(words, restore_tokenizer(contents.get("tokenizer"), words),
                      word_counts.restore(contents.get("word_counts"), words))


def kept_flags():
    """The flags that describe a model and its data, for scripts that read one."""
    flags = (*options.DATA, *network.model_flags(), *flags_of(KeptTraining), *options.running())
    return tuple(flag for flag in flags if flag.kept in (options.ARCHITECTURE, options.MODEL))


def read(path):
    """Read what `save` wrote -> dict, its tensors still on disk. InputError for anything else.

    Nothing in the file is executed, and no memory is taken for what it merely claims to hold.
    """
    try:
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such checkpoint; train one with main.py --save {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a checkpoint") from None
    except PermissionError:
        raise InputError(f"{path} may not be read: permission denied") from None
    except UnicodeEncodeError:
        raise InputError(f"{path}: its name is not UTF-8, as torch needs it; rename it, or the folder") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or not a checkpoint of this program ({reason})") from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this program, or of another version of it")
    return contents


def check_archive(path):
    """A checkpoint is a zip archive whose members are stored as they are, each with its checksum."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
                raise ValueError("its members are compressed")
            if sum(m.file_size for m in members) > size:
                raise ValueError("it claims to hold more than its size")
            damaged = archive.testzip()
            if damaged:
                raise ValueError(f"checksum of {damaged} does not match")


def check_shapes(contents, path):
    """Raise InputError unless a checkpoint's weights are those of the model that its settings describe."""
    settings, words = contents["settings"], contents["vocabulary"]
    layers = len({name.split(".")[1] for name in map(str, contents["model"]) if name.startswith("rnns.")})
    if layers != settings["nlayers"]:
        raise InputError(f"{path} is damaged: it has {counted(layers, 'layers')}, its settings say "
                         f"{settings['nlayers']}")
    with torch.device("meta"):  # shapes only: no memory is taken before they are known to fit
        check_tensors(*_saved_and_expected(contents, network.build(settings, len(words))), f"{path} is damaged: model")


def weights(contents):
    """The model's state dict in a checkpoint's contents, its softmax's parameters among the others."""
    return {**contents["model"], **{f"{SOFTMAX}{name}": tensor for name, tensor in contents["criterion"].items()}}


def _saved_and_expected(contents, model):
    """A checkpoint's state dict and `model`'s, which must agree: with past decode regularisation where both have it."""
    past = contents.get("past") if model.past else None
    saved = {**weights(contents), **{f"{PAST}{name}": tensor for name, tensor in (past or {}).items()}}
    return saved, {name: tensor for name, tensor in model.state_dict().items() if past or not name.startswith(PAST)}


def restore(contents, path, compute, training=False):
    """The network that a checkpoint holds, on the device and in the precision of `compute` -> RNNModel.

    It is in evaluation mode, and has what only training needs if that is asked for. Raises InputError where the weights
    are not those that the settings describe.
    """
    if not training:
        contents = {**contents, "settings": {**contents["settings"], "pdr": 0.0}}
    check_shapes(contents, path)
    model = network.build(contents["settings"], len(contents["vocabulary"]))
    load_weights(model, contents, f"{path} is damaged: model")
    return network.set_precision(model.to(compute.device), compute.precision).eval()


def load_weights(model, contents, where):
    """Put a checkpoint's weights into `model`; InputError, starting with `where`, if they do not fit."""
    saved, expected = _saved_and_expected(contents, model)
    check_tensors(saved, expected, where)
    model.load_state_dict({**model.state_dict(), **saved})
    if not network.is_finite(model):
        raise InputError(f"{where}: there are weights that are not finite")


def check_tensors(saved, expected, where):
    """Raise InputError unless both dicts have the same names and, behind them, tensors of one shape and type."""
    if set(saved) != set(expected):
        odd = sorted(map(str, set(saved) ^ set(expected)))
        raise InputError(f"{where}: unexpected or missing {', '.join(odd[:3])}")
    for name, like in expected.items():
        check_tensor(saved[name], like, f"{where}: {name}")


def check_tensor(tensor, like, where):
    """Raise InputError unless `tensor` is of the shape and type of `like` and has memory behind all its elements."""
    if not isinstance(tensor, torch.Tensor) or tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise InputError(f"{where} is not a {like.dtype} tensor of shape {tuple(like.shape)}")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or not tensor.is_contiguous():
        raise InputError(f"{where} is not a plain tensor")


def words_seen(contents):
    """Words between white space of the training text that a model has read, every reading counted -> int.

    None where an earlier version, which counted tokens or nothing, trained it.
    """
    losses = contents["losses"]
    history = losses["history"] if isinstance(losses.get("history"), list) else [None]
    counts = [losses.get("words_before"), losses.get("words_of_epoch", 0),
              *(isinstance(epoch, dict) and epoch.get("words") for epoch in history)]
    return sum(counts) if all(type(count) is int and count >= 0 for count in counts) else None


def choose(args):
    """The checkpoint that scripts read: `--checkpoint`, else the model fine-tuned from `--save`, else `--save` itself.

    A fine-tuned model that stands beside another than it was made of is not taken; a line on stderr says so.
    """
    if args.checkpoint:
        return args.checkpoint
    finetuned = Files(args.save, "finetuned").best
    if not os.path.exists(finetuned):
        return args.save
    if os.path.exists(args.save) and made_of(finetuned) not in (None, digest(load(args.save))):
        print(f"{finetuned} was fine-tuned from another model than {args.save}: it is not read", file=sys.stderr)
        return args.save
    return finetuned


def made_of(path):
    """The digest of the model that the fine-tuned one at `path`, or the state of its run, was made of; None where the
    file does not say it."""
    settings = read(path).get("settings")
    return settings.get(MADE_OF) if isinstance(settings, dict) else None


def digest(contents):
    """What tells a model from any other: SHA-256 of its weights, in hexadecimal. A model's file has it under "digest".

    It is computed for what earlier versions saved.
    """
    if isinstance(contents.get("digest"), str):
        return contents["digest"]
    hashed = hashlib.sha256()
    for name, tensor in sorted(weights(contents).items()):
        hashed.update(name.encode())
        hashed.update(tensor.contiguous().cpu().numpy())
    return hashed.hexdigest()


def open_model(args, corpus_flags=options.DATA):
    """The model that `--checkpoint` or `--save` names, evaluating -> path, the flags, Vocabulary, Compute, RNNModel.

    The flags have what the checkpoint adds to them, and device and precision. InputError for what cannot be used.
    corpus_flags: which of them are taken from the checkpoint where they were not typed, besides --precision.
    """
    path = choose(args)
    contents = load(path)
    flags = [flag for flag in options.running() if flag.name == "precision"]
    flags += [options.PUBLISHED_MODEL] if "model" in args.given else []
    args = options.inherit(args, contents["settings"], path, (*corpus_flags, *flags))
    args, compute = devices.prepare(args, network.ModelConfig.of(contents["settings"]).supported)
    args = args.replaced(**{UNTRAINED_UNK: contents["settings"][UNTRAINED_UNK]})
    vocabulary = read_as(vocabulary_of(contents), getattr(args, "split_words", None),
                         getattr(args, "lower", None))
    return path, args, vocabulary, compute, restore(contents, path, compute)
