"""One file format for all scripts: a plain dict, written atomically, read without trusting it.

Every file holds `format`, `model` and `criterion` (state dicts), `settings` (the flags), `vocabulary` (words in the
order of their ids) and `losses`. A training state holds besides what continuing exactly needs: see `resume.py`.
"""
import copy
import os
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import torch

import options
from errors import InputError
from model import build, is_finite, set_precision

FORMAT = "awd-lstm 1"
TYPES = {"model": dict, "criterion": dict, "settings": dict, "vocabulary": list, "losses": dict}


class Files:
    """Names of what a run called `--save NAME.pt` writes; `stage` is "" for main.py, "finetuned" for finetune.py."""

    def __init__(self, save, stage=""):
        stem = save[:-3] if save.endswith(".pt") else save
        self.stem, self.stage = stem, stage
        base = f"{stem}.{stage}" if stage else stem
        self.best = f"{base}.pt" if stage else save   # the best model so far
        self.state = f"{base}.state.pt"               # where training stands, to continue from
        self.previous = f"{base}.state.previous.pt"   # the state before that, in case the newest is damaged
        self.log = f"{base}.jsonl"                    # one line of JSON per epoch
        self.result = f"{base}.result.json"           # what came out in the end
        self.lock = f"{base}.lock"

    def kept(self):
        """All of them, the states first: renamed in this order, no state is ever left without the rest of its run."""
        return [self.state, self.previous, self.best, self.log, self.result]

    def set_aside(self):
        """Give what an earlier run left under these names numbered names -> the number, or None if nothing was there.

        What was fine-tuned from the earlier model goes with it.
        """
        old = self.kept() + ([] if self.stage else Files(self.best, "finetuned").kept())
        old = [name for name in old if os.path.lexists(name)]
        if not old:
            return None
        number = 1
        while any(os.path.lexists(self._numbered(name, number)) for name in old):
            number += 1
        for name in old:
            os.rename(name, self._numbered(name, number))
        return number

    def _numbered(self, name, number):
        return f"{self.stem}.{number}{name[len(self.stem):]}"


def save(path, contents, previous=None):
    """Write `contents` to `path`, so that at any moment, also through a crash, the old file or the new one is whole.

    previous: a name under which the old file is kept.
    """
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT, **contents}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            os.unlink(partial)      # a full disk needs the room
        if isinstance(error, OSError):
            raise
        raise OSError(str(error).splitlines()[0]) from error  # torch wraps a failed write
    if previous and os.path.exists(path):
        os.replace(path, previous)
    os.replace(partial, path)
    _sync_folder(path)


def _sync_folder(path):
    """Make a rename durable."""
    if os.name == "posix":
        folder = os.open(Path(path).absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path):
    """Read and check a checkpoint -> dict, its settings complete and valid, its tensors still on disk.

    Raises InputError for anything that is not a whole checkpoint of this program.
    """
    contents = read(path)
    for key, kind in TYPES.items():
        if not isinstance(contents.get(key), kind):
            raise InputError(f"{path} is damaged: it has no {key}")
    words = contents["vocabulary"]
    if not words or not all(isinstance(word, str) for word in words) or len(set(words)) != len(words):
        raise InputError(f"{path} is damaged: its vocabulary is not a list of different words")
    contents["settings"] = options.checked(contents["settings"], path)
    return contents


def read(path):
    """Read what `save` wrote -> dict, its tensors still on disk. InputError for anything else.

    Nothing in the file is executed, and no memory is taken for what it merely claims to hold.
    """
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such checkpoint; train one with main.py --save {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a checkpoint") from None
    except PermissionError:
        raise InputError(f"{path} may not be read: permission denied") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or not a checkpoint of this program ({reason})") from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this program, or of another version of it")
    return contents


def _check_archive(path):
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
        raise InputError(f"{path} is damaged: it has {layers} layers, its settings say {settings['nlayers']}")
    with torch.device("meta"):  # shapes only: no memory is taken before they are known to fit
        for module, part in zip(build(settings, len(words)), ("model", "criterion")):
            check_tensors(contents[part], module.state_dict(), f"{path} is damaged: {part}")


def restore(contents, path, device, precision):
    """The network and the softmax that a checkpoint holds, on `device` -> RNNModel, SplitCrossEntropyLoss."""
    check_shapes(contents, path)
    modules = build(contents["settings"], len(contents["vocabulary"]))
    for module, part in zip(modules, ("model", "criterion")):
        load_module(module, contents[part], f"{path} is damaged: {part}")
        module.to(device)
    set_precision(modules, precision)
    return modules


def load_module(module, state, where):
    """Put the tensors of `state` into `module`; InputError, starting with `where`, if they do not fit."""
    check_tensors(state, module.state_dict(), where)
    module.load_state_dict(state)
    if not is_finite([module]):
        raise InputError(f"{where}: there are weights that are not finite")


def load_optimizer(optimizer, saved, where):
    """Put a state dict into `optimizer`; InputError, starting with `where`, if it is not one of such an optimizer."""
    fresh = optimizer.state_dict()
    saved = {**saved, "param_groups": [{**group, **_own(own)} for group, own
                                       in zip(saved["param_groups"], optimizer.param_groups, strict=True)]}
    if [{**group, "params": len(group["params"])}.keys() for group in fresh["param_groups"]] != [
            dict(group).keys() for group in saved["param_groups"]]:
        raise InputError(f"{where} is of another optimizer")
    for group, like in zip(saved["param_groups"], fresh["param_groups"]):
        for name, value in like.items():
            if (name == "params" and group[name] != value) or not _is_like(group[name], value):
                raise InputError(f"{where}: the optimizer's {name} is not what it should be")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in saved["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.dim() == 0 and value.dtype == torch.float32:
                continue  # a counter
            check_tensor(value, params[index].cpu(), f"{where}: the optimizer's {name}")
    optimizer.load_state_dict(copy.deepcopy(saved))  # or it would go on working in the mapped file's pages


def _own(group):
    """How a step is computed is a matter of this machine, not of the one that saved."""
    return {name: group[name] for name in ("foreach", "fused", "capturable") if name in group}


def _is_like(value, example):
    number = (int, float)
    return type(value) is type(example) or (type(value) in number and type(example) in number)


def check_tensors(found, wanted, where):
    """Raise InputError unless both dicts have the same names and, behind them, tensors of one shape and type."""
    if set(found) != set(wanted):
        odd = sorted(map(str, set(found) ^ set(wanted)))
        raise InputError(f"{where}: unexpected or missing {', '.join(odd[:3])}")
    for name, like in wanted.items():
        check_tensor(found[name], like, f"{where}: {name}")


def check_tensor(tensor, like, where):
    """Raise InputError unless `tensor` is of the shape and type of `like` and has memory behind all its elements."""
    if not isinstance(tensor, torch.Tensor) or tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise InputError(f"{where} is not a {like.dtype} tensor of shape {tuple(like.shape)}")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or not tensor.is_contiguous():
        raise InputError(f"{where} is not a plain tensor")


def choose(args):
    """The checkpoint that pointer.py and generate.py read: `--checkpoint`, else the fine-tuned model, else `--save`."""
    if args.checkpoint:
        return args.checkpoint
    finetuned = Files(args.save, "finetuned").best
    return finetuned if os.path.exists(finetuned) else args.save
