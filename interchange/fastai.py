"""fastai's AWD_LSTM: its encoder's names, its language model's, and its vocabulary.

The folder written has `encoder.pth` for `load_encoder`, `model.pth` for `pretrained_fnames` (not with an adaptive
softmax, which fastai does not have), `vocab.pkl` for both, and `awd_lstm.json` with this project's settings.
"""
import json
import os
import pickle

import torch

from data import EOS, UNK
from interchange.foreign import check_known, check_words, float_tensors, read_json, read_tensors, read_words, take
from interchange.settings import kept, refuse
from runtime.errors import InputError
from runtime.log import log
from runtime.paths import atomic_folder

FILES = ENCODER, MODEL, VOCAB, SETTINGS = "encoder.pth", "model.pth", "vocab.pkl", "awd_lstm.json"
NAMES = {UNK: "xxunk", EOS: "xxbos"}         # theirs of what this project calls so
PARTS = ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0")


def renamed(words, names):
    """`words` with other names for some, where those are not taken."""
    return [names[word] if word in names and names[word] not in words else word for word in words]


def encoder_of(state, nlayers):
    """This project's state dict -> fastai's of an AWD_LSTM, in fastai's order."""
    found = {"encoder.weight": state["encoder.weight"], "encoder_dp.emb.weight": state["encoder.weight"]}
    for layer in range(nlayers):
        found[f"rnns.{layer}.weight_hh_l0_raw"] = state[f"rnns.{layer}.weight_hh_l0"]
        found |= {f"rnns.{layer}.module.{part}": state[f"rnns.{layer}.{part}"] for part in PARTS}
    return found


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
    with atomic_folder(folder, FILES, SETTINGS) as partial:
        torch.save(encoder, os.path.join(partial, ENCODER))
        if not settings["cutoffs"]:
            decoder = {"1.decoder.weight": state.get("decoder.weight", state["encoder.weight"]),
                       "1.decoder.bias": state["decoder.bias"]}
            torch.save({**{f"0.{name}": tensor for name, tensor in encoder.items()}, **decoder},
                       os.path.join(partial, MODEL))
        with open(os.path.join(partial, VOCAB), "wb") as file:
            pickle.dump(words, file, protocol=2)
        with open(os.path.join(partial, SETTINGS), "w", encoding="utf-8") as file:
            json.dump({**kept(settings, without=()), "words_seen": words_seen}, file, indent=1)


def read(path, vocab_file):
    """An encoder, or a language model, that fastai or `write` saved -> as in `FROM`.

    path: a .pth, or a folder of `write`'s. An encoder without a decoder gets one that is tied and has no bias.
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
    tensors, decoder = float_tensors(contents, path, prefix), float_tensors(contents, path, "1.decoder.")
    for mark, kind in ((".layers.", "QRNNs"), ("_reverse", "bidirectional")):
        if any(mark in name for name in tensors):
            raise InputError(f"{path}: its recurrent layers are {kind}; only LSTMs of one direction can be read")
    encoder = take(tensors, "encoder.weight", path)
    nlayers = sum(name.endswith("weight_hh_l0_raw") for name in tensors)
    hidden = take(tensors, "rnns.0.weight_hh_l0_raw", path)
    last = take(tensors, f"rnns.{nlayers - 1}.weight_hh_l0_raw", path)
    state = {"encoder.weight": encoder}
    for layer in range(nlayers):
        state[f"rnns.{layer}.weight_hh_l0"] = take(tensors, f"rnns.{layer}.weight_hh_l0_raw", path)
        for part in PARTS:
            name = f"rnns.{layer}.module.{part}"
            state[f"rnns.{layer}.{part}"] = take(tensors, name, path, 2 if part.startswith("weight") else 1)
    copies = [f"rnns.{layer}.module.weight_hh_l0" for layer in range(nlayers)]         # as earlier versions saved
    check_known(tensors, [*encoder_of(state, nlayers), *copies], path, "an AWD_LSTM")
    state["decoder.bias"] = take(decoder, "bias", path, 1) if "bias" in decoder else encoder.new_zeros(len(encoder))
    tied = "weight" not in decoder or torch.equal(decoder["weight"], encoder)
    if not tied:
        state["decoder.weight"] = take(decoder, "weight", path)
    if not decoder:
        log(f"| {path} has no decoder: its word vectors are taken, without a bias; fine-tune the model before use")
    words = usable(renamed(read_words(vocab_file), {theirs: ours for ours, theirs in NAMES.items()}))
    check_words(words, len(encoder), vocab_file)
    return state, words, {**settings, "model": "LSTM", "emsize": encoder.size(1), "nhid": hidden.size(1),
                          "nhidlast": last.size(1), "nlayers": nlayers, "tied": tied, "cutoffs": []}


def usable(words):
    """`words` with a name of its own for each that has white space or stands there again, such as xxfake."""
    found, seen = [], set()
    for i, word in enumerate(words):
        if word in seen or word.split() != [word]:
            word = "_".join([*word.split(), f"word{i}"])
        seen.add(word)
        found.append(word)
    return found
