"""Files that other programs wrote, read without trusting them: nothing in them is executed.

V words, E emsize, H hidden units.
"""
import io
import json
import pickle
import warnings
import zipfile

import torch

import checkpoint
from data import check_different_words, naming
from runtime.errors import InputError
from runtime.log import counted


def read_tensors(path):
    """A state dict saved by `torch.save` -> dict, not checked further. InputError for anything else."""
    with naming(path), open(path, "rb") as file:
        try:
            if zipfile.is_zipfile(path):
                checkpoint.check_archive(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                contents = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:      # a damaged file raises almost anything
            if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
                raise InputError("holds more than tensors, such as a whole module, which is not read because that "
                                 "could execute anything; save its state_dict(), and no optimizer") from None
            reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_line(error)})"       # torch's is advice
            raise InputError(f"is damaged or was not written by torch.save{reason}") from None
    if not isinstance(contents, dict):
        raise InputError(f"{path}: is not a state dict, but a {type(contents).__name__}; save its state_dict()")
    if contents.get("format") == checkpoint.FORMAT:
        raise InputError(f"{path}: is a checkpoint of this program, which the scripts read as it is")
    return contents


def float_tensors(contents, path, prefix=""):
    """Those entries of a state dict whose names begin with `prefix`, without it, in float32."""
    floats = {name.removeprefix(prefix): tensor for name, tensor in contents.items()
              if isinstance(name, str) and name.startswith(prefix)}
    for name, tensor in floats.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise InputError(f"{path}: {prefix}{name} is not a tensor of floating-point numbers; save the model's "
                             "state_dict() alone")
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in floats.items()}


def take(tensors, name, path, dim=2):
    """The tensor of that name and number of dimensions, out of a dict; InputError if it has none."""
    if name not in tensors or tensors[name].dim() != dim or not tensors[name].numel():
        raise InputError(f"{path}: has no {name}" + (f" of {dim} dimensions" if name in tensors else ""))
    return tensors[name]


def check_known(tensors, known, path, what):
    """InputError if there are tensors of other names than those in `known`."""
    other = sorted(set(tensors) - set(known))
    if other:
        raise InputError(f"{path}: has {other[0]}, which {what} does not have")


def cell_of(weight_hh, path):
    """LSTM or GRU, as which a hidden-to-hidden matrix is so high (4·H or 3·H, H). InputError for other cells."""
    gates, rest = divmod(*weight_hh.shape)
    if rest or gates not in (3, 4):
        raise InputError(f"{path}: its recurrent layers are no LSTM and no GRU: their hidden-to-hidden matrix is "
                         f"{weight_hh.size(0)} × {weight_hh.size(1)}")
    return {4: "LSTM", 3: "GRU"}[gates]


class _Words(pickle.Unpickler):
    """A pickle of lists and strings alone."""

    def find_class(self, module, name):
        raise InputError(f"holds a {module}.{name}, which is not read because that could execute anything; pickle a "
                         "plain list of str, list(vocab)")


def read_words(path):
    """A vocabulary: a pickled list of str (.pkl), or a text with one word a line -> list."""
    with naming(path), open(path, "rb") as file:
        contents = file.read()
        if not path.endswith(".pkl"):
            try:
                return contents.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
            except UnicodeDecodeError:
                raise InputError("is not UTF-8; give a text with one word a line, or a .pkl") from None
        try:
            words = _Words(io.BytesIO(contents)).load()
        except InputError:
            raise
        except Exception as error:      # a damaged file raises almost anything
            raise InputError(f"is no pickle of a list of words ({_line(error)})") from None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError("is no pickle of a list of words")
    return words


def check_words(words, ntoken, path):
    """InputError unless `words` are so many different words, none with white space."""
    if len(words) != ntoken:
        raise InputError(f"{path}: {counted(len(words), 'words')} for a model of {ntoken:,}; give the vocabulary that "
                         "it was trained with")
    with naming(path):
        check_different_words(words)


def read_json(path):
    """A JSON file with an object -> dict."""
    with naming(path), open(path, encoding="utf-8") as file:
        try:
            value = json.load(file)
        except (ValueError, RecursionError):
            raise InputError("is not JSON") from None
        if not isinstance(value, dict):
            raise InputError("is not a JSON object")
        return value


def _line(error):
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
