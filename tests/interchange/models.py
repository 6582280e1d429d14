"""Small models with random weights, as checkpoints."""
import torch

import checkpoint
import model as network
from corpus.vocabulary import Vocabulary
from runtime import options

WORDS = ["<eos>", "<unk>", "café", "don't", *(f"w{i}" for i in range(21))]
SHAPES = {"lstm": {}, "gru": {"model": "GRU"}, "untied": {"tied": False}, "one layer": {"nlayers": 1},
          "adaptive": {"cutoffs": [6, 15]}, "adaptive untied gru": {"model": "GRU", "tied": False, "cutoffs": [4]},
          "nhidlast": {"nhidlast": 7}, "skip": {"skip_output": True, "tied": False},
          "skip tied": {"skip_output": True}, "capped skip": {"gate": "capped", "skip_output": True, "nlayers": 3},
          "coupled": {"gate": "coupled", "forget_bias": 1.0},
          "mixture": {"softmax": "mixture", "mixtures": 3, "dropoutl": 0.1},
          "mixture untied": {"softmax": "mixture", "mixtures": 2, "tied": False, "nhidlast": 6, "model": "GRU"},
          "RHN": {"model": "RHN", "rhn_depth": 3, "nlayers": 1, "transform_bias": -1.0},
          "RHN in two layers": {"model": "RHN", "rhn_depth": 2},
          "QRNN": {"model": "QRNN", "nlayers": 3}, "QRNN skip": {"model": "QRNN", "skip_output": True},
          "Mogrifier": {"model": "Mogrifier", "mogrifier_rounds": 4},
          "Mogrifier of low rank": {"model": "Mogrifier", "mogrifier_rank": 2, "gate": "capped", "tied": False}}


def contents_of(words=WORDS, **settings):
    """A checkpoint's contents: two layers of 9 units over vectors of 5, unless told otherwise."""
    torch.manual_seed(1)
    flags = checkpoint.kept_flags()
    cutoffs = None if "mixtures" in settings else []      # as main.py leaves them
    settings = options.checked({"emsize": 5, "nhid": 9, "nlayers": 2, "cutoffs": cutoffs, "dropouti": 0.25, **settings},
                               flags, "test")
    model = network.build(settings, len(words)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.7, 0.7)
    return model, checkpoint.contents_of(model, settings, Vocabulary(words), {"words_before": 0, "history": [
        {"epoch": 1, "valid_loss": 3.0, "words": 700_000}, {"epoch": 2, "valid_loss": 2.0, "words": 700_000}]})


def logprobs(model, ids):
    """Of all words after each of `ids` (T,), from a zero state -> (T, V), and the features (T, E)."""
    with torch.no_grad():
        features, _ = model(torch.tensor(ids)[:, None], model.init_hidden(1))
        return model.logprob(features), features


def same_model(found, expected):
    """Whether two checkpoints' contents hold the same weights, bit for bit, words and shape."""
    assert found["vocabulary"] == expected["vocabulary"]
    for part in ("model", "criterion"):
        assert found[part].keys() == expected[part].keys()
        assert all(torch.equal(tensor, expected[part][name]) for name, tensor in found[part].items())
    return found["settings"] == {**expected["settings"], "data": found["settings"]["data"]}
