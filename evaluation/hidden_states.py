"""The hidden state of a model after every word of a text, for probing it.

N tokens, T window length, B batch size, H width of a layer.
"""
import argparse

import numpy as np
import torch
from tqdm import tqdm

from evaluation.batches import PADDING, read_batches
from evaluation.loss import evaluating
from evaluation.text import sentences
from runtime import values
from runtime.errors import InputError
from runtime.options import Flag
from runtime.paths import atomic_write

LONGEST_WORD = 100             # characters that are written of a word: numpy takes as many for every one


def layer(text):
    """A value of --layer: a layer's number, or "all"."""
    try:
        return text if text == "all" else values.width(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither the number of a layer, from 1 on, nor all") from None


FLAGS = (
    Flag("features", None, "file for the hidden state after every word, a .npz of numpy", metavar="FILE"),
    Flag("layer", None, "layer of these states, 1 being the first, or all; the last if not given", layer, "N|all"),
)


def chosen_layers(choice, model):
    """The layers that --layer names -> their numbers, from 1 on. Raises InputError where there is no such layer."""
    if choice == "all":
        return list(range(1, model.nlayers + 1))
    if choice and choice > model.nlayers:
        raise InputError(f"--layer {choice}: the model has {model.nlayers} layer{'s' * (model.nlayers > 1)}")
    return [choice or model.nlayers]


def hidden_states(model, streams, bptt, layers, check=lambda: None):
    """Read `streams`, a list of (n + 1, 1), each from a zero state -> {layer: its outputs (N, H) in fp32 on the CPU}.

    A row is the state after its word was read, the word itself included; the first token of each stream, which is not
    scored, has none. All rows are in memory: 4·H bytes for each token and layer. check: called after every window.
    """
    def step(data, hidden):
        _, hidden, raw, _ = model(data, hidden, return_h=True)
        return [raw[number - 1] for number in layers], hidden

    # A stream's last word is read, too: it gets a word to predict. Places are counted with its first token, as well.
    longer = [torch.cat([stream, stream[-1:]]) for stream in streams]
    states = {}
    lengths = torch.tensor([len(stream) - 1 for stream in longer])
    scored = torch.ones(int(lengths.sum()), dtype=torch.bool).index_fill_(0, lengths.cumsum(0) - lengths, False)
    rows = scored.cumsum(0) - 1                                                       # of a place, its row in the file
    with evaluating(model), tqdm(total=len(scored), disable=None, leave=False, unit=" tokens") as bar:
        for outputs, _, places in read_batches(step, model.init_hidden, longer, bptt, len(streams)):
            places = places.flatten()
            has_row = (places != PADDING) & scored[places]
            for number, output in zip(layers, outputs):                               # (T, B, H)
                if number not in states:
                    states[number] = torch.empty(int(scored.sum()), output.size(2))
                states[number][rows[places[has_row]]] = output.flatten(0, 1).cpu()[has_row].float()
            bar.update(int((places != PADDING).sum()))
            check()
    return states


def write(path, text, states):
    """Write {layer: (N, H)} of a `Text` to `path`, whole or not at all, for `numpy.load`.

    Arrays: `layer_1` and so on; `word` (N,), of each its first 100 characters, `sentence` and `position` (N,), the
    numbers of its line and of itself, from 1 on.
    """
    arrays = {"position": np.arange(1, len(text.words) + 1), "sentence": np.array(sentences(text.ends)),
              "word": np.array([word[:LONGEST_WORD] for word in text.words]),
              **{f"layer_{number}": rows.numpy() for number, rows in states.items()}}
    with atomic_write(path, "wb") as file:
        np.savez(file, **arrays)
