"""fastai's AWD_LSTM: what is written for it, what is read, and, slow, fastai itself."""
import pickle
import subprocess
import sys

import pytest
import torch
from models import SHAPES, WORDS, contents_of, logprobs, same_model

import checkpoint
import export
from corpus.vocabulary import TOKENIZERS
from interchange import fastai, settings
from runtime.errors import InputError

FITTING = ("lstm", "one layer", "untied")          # of SHAPES; an untied one with a narrow last layer
# The state dict of fastai 2.8's AWD_LSTM(25, 5, 9, 2): names in its order, and shapes.
ENCODER = {"encoder.weight": (25, 5), "encoder_dp.emb.weight": (25, 5),
           "rnns.0.weight_hh_l0_raw": (36, 9), "rnns.0.module.weight_ih_l0": (36, 5),
           "rnns.0.module.bias_ih_l0": (36,), "rnns.0.module.bias_hh_l0": (36,),
           "rnns.1.weight_hh_l0_raw": (20, 5), "rnns.1.module.weight_ih_l0": (20, 9),
           "rnns.1.module.bias_ih_l0": (20,), "rnns.1.module.bias_hh_l0": (20,)}


def made(kind="lstm", **more):
    return contents_of(**{**SHAPES[kind], **({"nhidlast": 5} if kind == "untied" else {}), **more})


def read(path, vocab_file=None):
    return settings.contents_of(*fastai.read(str(path), vocab_file and str(vocab_file)), str(path))


@pytest.fixture
def out(tmp_path):
    model, contents = made()
    fastai.write(contents, model.state_dict(), str(tmp_path / "out"), 5)
    return tmp_path / "out"


def test_names_order_and_shapes_are_fastais(out):
    encoder = torch.load(out / "encoder.pth", weights_only=True)
    assert list({name: tuple(tensor.shape) for name, tensor in encoder.items()}.items()) == list(ENCODER.items())
    whole = torch.load(out / "model.pth", weights_only=True)
    assert list(whole) == [*(f"0.{name}" for name in ENCODER), "1.decoder.weight", "1.decoder.bias"]
    assert pickle.loads((out / "vocab.pkl").read_bytes()) == ["xxbos", "xxunk", *WORDS[2:]]


@pytest.mark.parametrize("kind", FITTING)
def test_back_bit_for_bit(kind, tmp_path):
    model, contents = made(kind, **({"nhid": 5} if kind == "one layer" else {}))     # the width that there is
    fastai.write(contents, model.state_dict(), str(tmp_path / "out"), 5)
    found = read(tmp_path / "out")
    assert same_model(found, contents) and checkpoint.words_seen(found) == 5


def test_the_tokenizer_comes_back(tmp_path):
    words = ["<eos>", "<unk>", *(chr(97 + i) for i in range(22)), "▁"]
    model, contents = contents_of(words)
    contents["tokenizer"] = TOKENIZERS["chars"](lower=True).state()
    fastai.write(contents, model.state_dict(), str(tmp_path / "out"), 5)
    assert read(tmp_path / "out")["tokenizer"] == contents["tokenizer"]


def test_files_of_fastais_own(out, tmp_path):
    """A model beside an optimizer's state, with copies as old versions kept; its vocabulary filled up with xxfake."""
    whole = torch.load(out / "model.pth", weights_only=True)
    whole["0.rnns.0.module.weight_hh_l0"] = whole["0.rnns.0.weight_hh_l0_raw"] + 1
    torch.save({"model": whole, "opt": {"lr": 0.1}}, tmp_path / "m.pth")
    words = ["xxbos", "xxunk", *WORDS[2:-3], "\n", "xxfake", "xxfake"]
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(words))
    found = read(tmp_path / "m.pth", tmp_path / "v.pkl")
    assert found["vocabulary"] == [*WORDS[:-3], "word22", "xxfake", "xxfake_word24"]
    model = checkpoint.restore(found, "m.pth", export.CPU)
    assert torch.allclose(logprobs(model, [2, 9, 4])[0], logprobs(made()[0], [2, 9, 4])[0])


def test_files_from_before_version_1(out, tmp_path):
    """As fwd_wt103.h5: other names, no bias in the decoder, the file format of then, a vocabulary with _unk_."""
    model, _ = made()
    whole = torch.load(out / "model.pth", weights_only=True)
    del whole["1.decoder.bias"]
    names = {name: name.replace("_dp.emb", "_with_dropout.embed").replace(".weight_hh", ".module.weight_hh")
             for name in whole}
    torch.save({names[name]: tensor for name, tensor in whole.items()}, tmp_path / "fwd.h5",
               _use_new_zipfile_serialization=False)
    (tmp_path / "itos.pkl").write_bytes(pickle.dumps(["xbos", "_unk_", *WORDS[2:-1], "_pad_"]))
    found = read(tmp_path / "fwd.h5", tmp_path / "itos.pkl")
    assert found["vocabulary"] == [*WORDS[:-1], "_pad_"]
    model.decoder.bias.data.zero_()
    assert torch.equal(logprobs(checkpoint.restore(found, "fwd.h5", export.CPU), [2, 9, 4])[0],
                       logprobs(model, [2, 9, 4])[0])


QRNN_NAMES = {"v1": ("layers.0.linear.weight_raw", "layers.0.linear.module.bias", "layers.0.linear.module.weight"),
              "without weight drop": ("layers.0.linear.weight", "layers.0.linear.bias", None),
              "before v1": ("linear.module.weight_raw", "linear.module.bias", None)}


@pytest.mark.parametrize("version", QRNN_NAMES)
def test_qrnns(version, tmp_path):
    """Against a loop over its equations: h ← f · z + (1 - f) · h, where f is of the present word and the one before."""
    torch.manual_seed(4)
    weight, bias, copy = QRNN_NAMES[version]
    widths = [5, 7, 5]
    state = {"encoder.weight": torch.randn(len(WORDS), 5)}
    state["encoder_dp.emb.weight"] = state["encoder.weight"]
    for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:])):
        state[f"rnns.{layer}.{weight}"] = torch.randn(3 * n_out, n_in if layer else 2 * n_in)
        state[f"rnns.{layer}.{bias}"] = torch.randn(3 * n_out)
        if copy:
            state[f"rnns.{layer}.{copy}"] = torch.zeros(3 * n_out, n_in if layer else 2 * n_in)
    torch.save(state, tmp_path / "encoder.pth")
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(["xxbos", "xxunk", *WORDS[2:]]))
    ids = [3, 0, 7, 7, 20]
    x = state["encoder.weight"].double()[ids]                                                       # (T, E)
    for layer in range(2):
        inputs = x if layer else torch.cat([x, torch.cat([torch.zeros_like(x[:1]), x[:-1]])], 1)
        gates = inputs @ state[f"rnns.{layer}.{weight}"].double().t() + state[f"rnns.{layer}.{bias}"].double()
        h, outputs = 0, []
        for z, f, o in zip(*gates.chunk(3, 1)):
            h = f.sigmoid() * z.tanh() + (1 - f.sigmoid()) * h
            outputs.append(o.sigmoid() * h)
        x = torch.stack(outputs)
    found = read(tmp_path / "encoder.pth", tmp_path / "v.pkl")
    assert found["settings"]["model"] == "QRNN" and found["settings"]["nhid"] == 7
    model = checkpoint.restore(found, "encoder.pth", export.CPU)
    assert torch.allclose(logprobs(model, ids)[1].double(), x, atol=1e-6)


def test_an_encoder_alone_gets_its_word_vectors_as_decoder(out, capsys):
    found = read(out / "encoder.pth", out / "vocab.pkl")
    assert "no decoder" in capsys.readouterr().out
    assert not found["model"]["decoder.bias"].any() and found["settings"]["tied"]
    model = checkpoint.restore(found, "encoder.pth", export.CPU)
    assert torch.equal(logprobs(model, [2, 9, 4])[1], logprobs(made()[0], [2, 9, 4])[1])


def test_of_an_adaptive_softmax_the_encoder_is_written(tmp_path):
    model, contents = made("adaptive")
    fastai.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    assert not (tmp_path / "out" / "model.pth").exists()
    assert list(torch.load(tmp_path / "out" / "encoder.pth", weights_only=True)) == list(ENCODER)


@pytest.mark.parametrize(("shape", "says"), [
    ({"model": "GRU"}, "--model GRU"), ({"model": "QRNN"}, "--model QRNN"), ({"tied": False}, "last layer of 9"),
    ({"skip_output": True}, "--skip-output"), ({"gate": "capped"}, "--gate capped"),
    ({"softmax": "mixture"}, "--softmax mixture")])
def test_what_fastai_does_not_have_is_refused_by_name(shape, says, tmp_path):
    model, contents = contents_of(**shape)
    with pytest.raises(InputError, match=says):
        fastai.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    assert not list(tmp_path.iterdir())


class Anything:
    pass


@pytest.mark.parametrize(("vocab", "says"), [
    (pickle.dumps(Anything()), "Anything"), (pickle.dumps({"a": 1}), "list of words"), (pickle.dumps([1]), "list"),
    (b"junk", "pickle"), (b"", "pickle"), (b"cos\nsystem\n(S'touch hurt'\ntR.", "system"), (None, "No such file")])
def test_a_vocabulary_that_is_no_list_of_words_is_refused_and_not_run(vocab, says, out, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (out / "vocab.pkl").unlink()
    if vocab is not None:
        (out / "vocab.pkl").write_bytes(vocab)
    with pytest.raises(InputError, match=says):
        read(out)
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize(("old", "new", "says"), [
    ("rnns.0.module.weight_ih_l0", "rnns.0.layers.0.linear.weight", "linear.bias"),
    ("rnns.0.module.bias_ih_l0", "rnns.0.layers_bwd.0.linear.bias", "bidirectional"),
    ("rnns.0.module.bias_ih_l0", "rnns.0.module.bias_ih_l0_reverse", "bidirectional"),
    ("rnns.1.weight_hh_l0_raw", "rnns.1.weight", "rnns.1"), ("encoder.weight", "word.weight", "encoder.weight")])
def test_another_encoder_is_refused(old, new, says, out):
    encoder = torch.load(out / "encoder.pth", weights_only=True)
    torch.save({name.replace(old, new): tensor for name, tensor in encoder.items()}, out / "encoder.pth")
    (out / "model.pth").unlink()
    with pytest.raises(InputError, match=says):
        found = read(out)
        checkpoint.restore(found, "out", export.CPU)


FASTAI = """
import torch
from fastai.data.core import DataLoader, DataLoaders
from fastai.text.learner import language_model_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
from fastcore.all import load_pickle
words = load_pickle("out/vocab.pkl")
config = {**awd_lstm_lm_config, "emb_sz": 5, "n_hid": 9, "n_layers": 2}

def learner(words, **kwargs):
    loaders = DataLoaders(DataLoader([0]), DataLoader([0]))
    loaders.vocab = words
    return language_model_learner(loaders, AWD_LSTM, config=dict(config), path=".", model_dir="out", **kwargs)

ids = torch.tensor([[3, 0, 7, 7, 20, 1, 11]])
with torch.no_grad():
    learn = learner(words, pretrained=False).load_encoder("encoder")
    torch.save(learn.model.eval()[0](ids)[0], "features.pt")
    other = words[3:] + ["new", "xxpad"] + words[:3]              # matched by word, as for a text of one's own
    learn = learner(other, pretrained_fnames=["model", "vocab"])
    moved = torch.tensor([[other.index(words[i]) for i in ids[0]]])
    found = learn.model.eval()(moved)[0][0]
    torch.save(found[:, [other.index(word) for word in words]], "logits.pt")
    learn = learner(words, pretrained=False).load_encoder("encoder")
    learn.save_encoder("saved")
    torch.save(learn.model.state_dict(), "out/whole.pth")
"""


@pytest.mark.slow
def test_fastai_gives_our_features(own_packages, tmp_path):
    env = own_packages("fastai", "fastai fastcore fastprogress<1.1 fasttransform plum-dispatch<2.10 fastdownload",
                       "matplotlib pandas pillow pyyaml requests scikit-learn scipy cloudpickle beartype rich")
    model, contents = made()
    fastai.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    done = subprocess.run([sys.executable, "-c", FASTAI], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected, features = logprobs(model, [3, 0, 7, 7, 20, 1, 11])
    assert torch.allclose(torch.load(tmp_path / "features.pt"), features, atol=1e-5)
    assert torch.allclose(torch.load(tmp_path / "logits.pt").log_softmax(-1), expected, atol=1e-5)
    for name in ("saved", "whole"):                                # as fastai saves it
        found = read(tmp_path / "out" / f"{name}.pth", tmp_path / "out" / "vocab.pkl")
        assert torch.equal(found["model"]["rnns.1.weight_hh_l0"], contents["model"]["rnns.1.weight_hh_l0"])
        assert torch.equal(found["model"]["encoder.weight"], contents["model"]["encoder.weight"])
