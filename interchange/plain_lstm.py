"""Plain LSTM and GRU language models: one module of several layers between an encoder and a decoder.

As colorlessgreenRNNs, neural-complexity and torch's own example save them. V words, E emsize, H hidden units.
"""
import re

import torch

from interchange.foreign import cell_of, check_known, check_words, float_tensors, read_tensors, read_words, take
from runtime.errors import InputError

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def read(path, vocab_file):
    """A state dict with encoder.weight (V, E), rnn.weight_ih_l0 …, decoder.weight and decoder.bias -> as in `FROM`.

    Raises InputError for other files, cells and vocabularies.
    """
    if vocab_file is None:
        raise InputError("--from lstm needs the vocabulary, too: --vocab-file FILE, one word a line")
    contents = read_tensors(path)
    parallel = bool(contents) and all(str(name).startswith("module.") for name in contents)
    tensors = float_tensors(contents, path, "module." if parallel else "")
    encoder, decoder = take(tensors, "encoder.weight", path), take(tensors, "decoder.weight", path)
    nlayers = sum(re.fullmatch(r"rnn\.weight_hh_l\d+", name) is not None for name in tensors)
    hidden = take(tensors, "rnn.weight_hh_l0", path)
    tied = torch.equal(encoder, decoder)
    state, known = {"encoder.weight": encoder, "decoder.bias": take(tensors, "decoder.bias", path, 1)}, []
    if not tied:
        state["decoder.weight"] = decoder
    for layer in range(nlayers):
        for part in PARTS:
            name = f"rnn.{part}_l{layer}"
            known.append(name)
            state[f"rnns.{layer}.{part}_l0"] = take(tensors, name, path, 1 if part.startswith("bias") else 2)
    check_known(tensors, ["encoder.weight", "decoder.weight", "decoder.bias", *known], path,
                "a plain LSTM or GRU model")
    words = read_words(vocab_file)
    check_words(words, len(encoder), vocab_file)
    return state, words, {"model": cell_of(hidden, path), "emsize": encoder.size(1), "nhid": hidden.size(1),
                          "nhidlast": hidden.size(1), "nlayers": nlayers, "tied": tied, "cutoffs": []}
