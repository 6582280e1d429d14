"""Plain LSTM and GRU models, as colorlessgreenRNNs and neural-complexity save them, as checkpoints."""
import gzip

import pytest
import torch
from models import WORDS, logprobs
from torch import nn

import checkpoint
import export
from runtime.errors import InputError


class Plain(nn.Module):
    """Such a model, as their code has it."""

    def __init__(self, kind, ntoken, ninp, nhid, nlayers, tied):
        super().__init__()
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = getattr(nn, kind)(ninp, nhid, nlayers)
        self.decoder = nn.Linear(nhid, ntoken)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids):
        return self.decoder(self.rnn(self.encoder(ids))[0]).log_softmax(-1)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """`saved(...)` writes plain.pt and vocab.txt -> the model."""
    def save(kind="LSTM", nhid=9, nlayers=2, tied=False, change=lambda state: state):
        torch.manual_seed(3)
        plain = Plain(kind, len(WORDS), 7 if tied else 5, 7 if tied else nhid, nlayers, tied).double()
        for parameter in plain.parameters():
            nn.init.uniform_(parameter, -0.7, 0.7)
        torch.save(change(plain.state_dict()), "plain.pt")
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        return plain
    monkeypatch.chdir(tmp_path)
    return save


def read(*words):
    assert export.main(["--from", "lstm", "plain.pt", "--vocab-file", "vocab.txt", "--save", "new.pt", *words]) == 0
    contents = checkpoint.load("new.pt")
    return contents, checkpoint.restore(contents, "new.pt", export.CPU)


@pytest.mark.parametrize(("kind", "nlayers", "tied"), [
    ("LSTM", 2, False), ("LSTM", 3, True), ("GRU", 2, True), ("GRU", 1, False)])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_same_log_probabilities(kind, nlayers, tied, prefix, saved):
    plain = saved(kind, nlayers=nlayers, tied=tied,
                  change=lambda state: {prefix + name: tensor for name, tensor in state.items()})
    contents, model = read()
    assert contents["vocabulary"] == WORDS and contents["settings"]["tied"] == tied
    assert contents["settings"]["precision"] == "fp32" and contents["settings"]["vocab"] == "train"
    ids = [3, 0, 7, 7, 20, 1, 11]
    with torch.no_grad():
        expected = plain(torch.tensor(ids)[:, None])[:, 0]
        assert torch.allclose(logprobs(model, ids)[0].double(), expected, atol=1e-5)
        assert torch.allclose(logprobs(model.double(), ids)[0], expected, atol=1e-6)     # its weights were rounded once


def rename(old, new):
    return lambda state: {name.replace(old, new): tensor for name, tensor in state.items()}


class Anything(nn.Module):
    pass


@pytest.mark.parametrize(("change", "says"), [
    (rename("rnn.weight_hh_l1", "rnn.weight_hh_l5"), "rnn.weight_ih_l1|rnn.weight_hh_l1"),
    (rename("encoder.weight", "emb.weight"), "encoder.weight"), (rename("_l1", "_l0_reverse"), "reverse"),
    (lambda state: {**state, "extra.weight": torch.ones(2)}, "extra.weight"),
    (lambda state: {**state, "decoder.bias": torch.ones(3)}, "decoder.bias"),
    (lambda state: {**state, "decoder.bias": torch.full((len(WORDS),), torch.nan)}, "finite"),
    (lambda state: {**state, "decoder.bias": "x"}, "decoder.bias"), (lambda state: [1], "not a state dict"),
    (lambda state: {"state_dict": state, "epoch": 3}, "state_dict is not a tensor.*alone"),
    (lambda state: {"format": checkpoint.FORMAT, "model": state}, "a checkpoint of this program"),
    (lambda state: Anything(), "whole module"), (lambda state: {}, "encoder.weight"),
    (lambda state: {3: torch.ones(2)}, "encoder.weight")])
def test_another_file_is_refused_by_name(change, says, saved):
    saved(change=change)
    with pytest.raises(InputError, match=says) as refused:
        read()
    assert "\n" not in str(refused.value)


def test_another_cell_is_refused(saved):
    saved("RNN")
    with pytest.raises(InputError, match="no LSTM and no GRU"):
        read()


@pytest.mark.parametrize(("text", "says"), [
    (b"a\nb\n", "2 words for a model of 25"), (b"\n".join([b"a"] * 25), "more than once"),
    ("\n".join([*WORDS[:-1], "two words"]).encode(), "two words"), (b"\xff\xfe", "UTF-8"), (None, "vocab.txt")])
def test_a_bad_vocabulary_is_refused(text, says, saved, tmp_path):
    saved()
    file = tmp_path / "vocab.txt"
    file.unlink() if text is None else file.write_bytes(text)
    with pytest.raises(InputError, match=says):
        read()


@pytest.mark.parametrize("damage", [b"", b"junk", b"PK\x03\x04junk", gzip.compress(b"junk")])
def test_a_damaged_file_is_refused(damage, saved, tmp_path):
    saved()
    whole = (tmp_path / "plain.pt").read_bytes()
    for contents in (damage, whole[:len(whole) // 2]):
        (tmp_path / "plain.pt").write_bytes(contents)
        with pytest.raises(InputError, match=r"plain\.pt") as refused:
            read()
        assert "weights_only" not in str(refused.value)


def test_crlf_and_a_bom_in_the_vocabulary(saved, tmp_path):
    saved()
    (tmp_path / "vocab.txt").write_bytes(("\ufeff" + "\r\n".join(WORDS) + "\r\n").encode())
    assert read()[0]["vocabulary"] == WORDS
