"""fastai's AWD_LSTM: its encoder's names, its language model's, and its vocabulary.

The folder written has `encoder.pth` for `load_encoder`, `model.pth` for `pretrained_fnames` (not with an adaptive
softmax, which fastai does not have), `vocab.pkl` for both, and `awd_lstm.json` with this project's settings.
"""
import json
import os
import pickle
import re

import torch

import checkpoint
from data import EOS, UNK
from interchange.foreign import check_known, check_words, float_tensors, read_json, read_tensors, read_words, take
from interchange.settings import check_folder, exported_settings, refuse
from runtime.errors import InputError
from runtime.log import log
from runtime.paths import atomic_folder

FILES = ENCODER, MODEL, VOCAB, SETTINGS = "encoder.pth", "model.pth", "vocab.pkl", "awd_lstm.json"
NAMES = {UNK: "xxunk", EOS: "xxbos"}         # theirs of what this project calls so
READ_AS = {"xxunk": UNK, "_unk_": UNK, "xxbos": EOS, "xbos": EOS}       # the latter of each from before version 1.0
# Names that other versions give the same tensors, in the order in which they are taken: what drops weights keeps the
# raw ones and, in some versions, a copy that had weights dropped from it.
OTHER_NAMES = (
    (r"encoder_with_dropout\.embed\.weight", r"encoder_dp.emb.weight"),
    (r"rnns\.(\d+)\.module\.weight_hh_l0_raw", r"rnns.\1.weight_hh_l0_raw"),
    (r"rnns\.(\d+)\.(?:layers\.0\.)?linear\.(?:module\.)?(weight)_raw", r"rnns.\1.linear.\2"),
    (r"rnns\.(\d+)\.(?:layers\.0\.)?linear\.(?:module\.)?(weight|bias)", r"rnns.\1.linear.\2"))
PARTS = ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0")


def renamed(words, names):
    """`words` with other names for some, where those are not taken."""
    return [names[word] if word in names and names[word] not in words else word for word in words]


def encoder_of(state, nlayers):
    """This project's state dict -> fastai's of an AWD_LSTM, in fastai's order."""
    encoder = {"encoder.weight": state["encoder.weight"], "encoder_dp.emb.weight": state["encoder.weight"]}
    for layer in range(nlayers):
        encoder[f"rnns.{layer}.weight_hh_l0_raw"] = state[f"rnns.{layer}.weight_hh_l0"]
        encoder |= {f"rnns.{layer}.module.{part}": state[f"rnns.{layer}.{part}"] for part in PARTS}
    return encoder


def write(contents, state, folder, words_seen):
    """A model as files of fastai's in `folder`. InputError for one that is no AWD_LSTM there."""
    settings = contents["settings"]
    refuse(settings, "fastai", {"LSTM"}, {"split"})
    if settings["gate"] != "plain":
        raise InputError(f"a model with --gate {settings['gate']} cannot be exported to fastai; only --gate plain can")
    last, emsize = state[f"rnns.{settings['nlayers'] - 1}.weight_hh_l0"].size(1), settings["emsize"]
    if last != emsize or settings["skip_output"]:
        has = "--skip-output" if settings["skip_output"] else f"a last layer of {last} units, word vectors of {emsize}"
        raise InputError(f"the model has {has}; in fastai's AWD_LSTM the decoder reads the last layer, which is as "
                         "wide as the word vectors")
    encoder = encoder_of(state, settings["nlayers"])
    words = renamed(contents["vocabulary"], NAMES)
    check_folder(folder, FILES, SETTINGS)
    with atomic_folder(folder, replace=True) as partial:
        with open(os.path.join(partial, ENCODER), "wb") as file:
            checkpoint.write(encoder, file)
        if not settings["cutoffs"]:
            decoder = {"1.decoder.weight": state.get("decoder.weight", state["encoder.weight"]),
                       "1.decoder.bias": state["decoder.bias"]}
            with open(os.path.join(partial, MODEL), "wb") as file:
                checkpoint.write({**{f"0.{name}": tensor for name, tensor in encoder.items()}, **decoder}, file)
        with open(os.path.join(partial, VOCAB), "wb") as file:
            pickle.dump(words, file, protocol=2)
        with open(os.path.join(partial, SETTINGS), "w", encoding="utf-8") as file:
            json.dump({**exported_settings(settings, without=()), "words_seen": words_seen,
                       "tokenizer": contents.get("tokenizer")}, file, indent=1)


def read(path, vocab_file):
    """An encoder, or a language model, that any version of fastai or `write` saved -> as in `FROM`.

    path: a .pth or .h5, or a folder of `write`'s. An encoder without a decoder gets one that is tied and has no bias.
    """
    settings = {}
    if os.path.isdir(path):
        settings = read_json(os.path.join(path, SETTINGS))
        vocab_file = vocab_file or os.path.join(path, VOCAB)
        path = os.path.join(path, MODEL if os.path.exists(os.path.join(path, MODEL)) else ENCODER)
    if vocab_file is None:
        raise InputError("--from fastai needs the vocabulary, too: --vocab-file FILE, a .pkl or one word a line")
    contents = read_tensors(path)
    contents = contents["model"] if isinstance(contents.get("model"), dict) else contents   # beside an optimizer
    prefix = "0." if "0.encoder.weight" in contents else ""
    tensors = under_known_names(float_tensors(contents, path, prefix))
    decoder = float_tensors(contents, path, "1.decoder.")
    if any("_reverse" in name or ".layers_bwd." in name for name in tensors):
        raise InputError(f"{path}: its recurrent layers are bidirectional; only those of one direction can be read")
    encoder = take(tensors, "encoder.weight", path)
    qrnn = "rnns.0.linear.weight" in tensors
    layers, widths = (qrnn_layers if qrnn else lstm_layers)(tensors, encoder.size(1), path)
    state = {"encoder.weight": encoder, **layers}
    state["decoder.bias"] = take(decoder, "bias", path, 1) if "bias" in decoder else encoder.new_zeros(len(encoder))
    tied = "weight" not in decoder or torch.equal(decoder["weight"], encoder)
    if not tied:
        state["decoder.weight"] = take(decoder, "weight", path)
    if not decoder:
        log(f"| {path} has no decoder: its word vectors are taken, without a bias; fine-tune the model before use")
    words = usable(renamed(read_words(vocab_file), READ_AS))
    check_words(words, len(encoder), vocab_file)
    return state, words, {**settings, "model": "QRNN" if qrnn else "LSTM", "emsize": encoder.size(1),
                          "nhid": widths[0], "nhidlast": widths[-1], "nlayers": len(widths), "tied": tied,
                          "cutoffs": []}


def under_known_names(tensors):
    """Tensors with the names that `OTHER_NAMES` says."""
    known = {}
    for pattern, name in OTHER_NAMES:
        for theirs in [name for name in tensors if re.fullmatch(pattern, name)]:
            known.setdefault(re.sub(pattern, name, theirs), tensors.pop(theirs))
    return {**tensors, **known}


def lstm_layers(tensors, emsize, path):
    """A state dict of LSTMs, from fastai's, and their widths."""
    state, widths = {}, []
    for layer in range(sum(name.endswith("weight_hh_l0_raw") for name in tensors)):
        hidden = state[f"rnns.{layer}.weight_hh_l0"] = take(tensors, f"rnns.{layer}.weight_hh_l0_raw", path)
        widths.append(hidden.size(1))
        for part in PARTS:
            name = f"rnns.{layer}.module.{part}"
            state[f"rnns.{layer}.{part}"] = take(tensors, name, path, 2 if part.startswith("weight") else 1)
    if not widths:
        raise InputError(f"{path}: has no rnns.0.weight_hh_l0_raw and no rnns.0.linear.weight: no LSTM and no QRNN")
    copies = [f"rnns.{layer}.module.weight_hh_l0" for layer in range(len(widths))]     # as earlier versions saved
    known = encoder_of({**state, "encoder.weight": None}, len(widths))
    check_known(tensors, [*known, *copies], path, "an AWD_LSTM")
    return state, widths


def qrnn_layers(tensors, emsize, path):
    """A state dict of QRNNs, from fastai's, and their widths. Its gate f says what comes in, ours what stays: 1 - f."""
    state, widths = {}, []
    for layer in range(sum(name.endswith("linear.weight") for name in tensors)):
        weight, bias = (take(tensors, f"rnns.{layer}.linear.{part}", path, dim) for part, dim in
                        (("weight", 2), ("bias", 1)))                                  # (3H, inputs), (3H,)
        inputs = widths[-1] if layer else 2 * emsize
        if len(bias) % 3 or weight.shape != (len(bias), inputs):
            raise InputError(f"{path}: rnns.{layer}.linear.weight is of shape {tuple(weight.shape)}, not (3 · H, "
                             f"{inputs}), as in a QRNN with output gates whose first layer sees two words at a time")
        widths.append(len(bias) // 3)
        gate = slice(widths[-1], 2 * widths[-1])
        weight[gate], bias[gate] = -weight[gate], -bias[gate]
        state |= {f"rnns.{layer}.linear.weight": weight, f"rnns.{layer}.linear.bias": bias}
    check_known(tensors, ["encoder.weight", "encoder_dp.emb.weight", *state], path, "an AWD_LSTM with qrnn=True")
    return state, widths


def usable(words):
    """`words` with a name of its own for each that has white space or stands there again, such as xxfake."""
    unique, seen = [], set()
    for i, word in enumerate(words):
        if word in seen or word.split() != [word]:
            word = "_".join([*word.split(), f"word{i}"])
        seen.add(word)
        unique.append(word)
    return unique
