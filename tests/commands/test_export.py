"""export.py as a user runs it."""
import json
import os
import sys

import pytest
import torch
from conftest import SMALL, run_script
from test_earlier_versions import MADE

import checkpoint
import export
from runtime.errors import InputError
from runtime.paths import atomic_folder

FILES = {"awd_lstm.json", "encoder.pth", "model.pth", "vocab.pkl"}


@pytest.fixture(scope="module")
def plain(toy, tmp_path_factory):
    """A folder with plain.pt, the state dict of an untrained nn.LSTM model, and vocab.txt for the toy text."""
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(5)
    words = ["<eos>", "<unk>", *(f"w{i}" for i in range(30))]
    parts = {"encoder": torch.nn.Embedding(32, 11), "rnn": torch.nn.LSTM(11, 13, 2), "decoder": torch.nn.Linear(13, 32)}
    torch.save(torch.nn.ModuleDict(parts).state_dict(), folder / "plain.pt")
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def test_every_script_works_with_an_imported_model(plain, toy, call, tmp_path):
    vocab = ["--vocab-file", plain / "vocab.txt"]
    said = call("export.py", "--from", "lstm", plain / "plain.pt", *vocab, "--save", "m.pt")
    assert "LSTM with" in said and "32 words" in said
    said = call("evaluate.py", "--save", "m.pt", "--data", toy)
    assert 28 < float(said.split("valid ppl")[1].split()[0]) < 40                    # untrained, of 32 words
    call("generate.py", "--save", "m.pt", "--words", 5)
    call("finetune.py", "--save", "m.pt", "--data", toy, "--epochs", 1, "--batch-size", 4, "--lr", 3, "--device", "cpu")
    call("pointer.py", "--save", "m.pt", "--data", toy, "--window", 50)
    found = checkpoint.load(tmp_path / "m.finetuned.pt")["losses"]
    assert found["words_before"] is None                                             # what it read elsewhere, who knows


def test_a_run_as_a_user_types_it_and_one_line_for_what_is_wrong(plain, trained, tmp_path):
    done = run_script("export.py", "--save", trained / "toy.pt", "--to", "fastai", "out", cwd=tmp_path)
    assert done.stdout.startswith("| summary |") and done.stdout.count("\n") == 1
    assert set(os.listdir(tmp_path / "out")) == FILES
    done = run_script("export.py", "--from", "lstm", plain / "vocab.txt", "--vocab-file", plain / "vocab.txt", "--save",
                      "new.pt", cwd=tmp_path, status=1)
    assert done.stderr.count("\n") == 1 and "vocab.txt" in done.stderr
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("words", "says"), [
    ([], "--to FORMAT TARGET"), (["--to", "fastai", "o", "--from", "hf", "o"], "one of"),
    (["--to", "ggml", "o"], "ggml"), (["--from", "onnx", "o"], "onnx"),
    (["--from", "fastai", "nowhere"], "--vocab-file"), (["--from", "hf", "nowhere"], "nowhere"),
    (["--from", "lstm", "x.pt"], "--vocab-file"), (["--to", "fastai", "o", "--vocab-file", "v"], "--vocab-file"),
    (["--from", "lstm", "x", "--tag"], "--tag"), (["--save", "gone.pt", "--to", "fastai", "o"], "gone.pt"),
    (["--from", "hf", ".", "--vocab-file", "v"], "--vocab-file"),
    (["--from", "hf", __file__], r"\(Not a directory\); .*test_export\.py is no folder"),
    (["--to", "fastai", "o", "--prepend-eos"], "--prepend-eos"),
    (["--from", "hf", "o", "--prepend-eos"], "--prepend-eos")])
def test_what_cannot_be_meant_is_refused(words, says, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        export.main(words)
    assert not list(tmp_path.iterdir())


def test_no_checkpoint_is_overwritten(plain, trained, tmp_path, call):
    (tmp_path / "m.pt").write_bytes((trained / "toy.pt").read_bytes())
    with pytest.raises(InputError, match=r"m\.pt is there already"):
        call("export.py", "--from", "lstm", plain / "plain.pt", "--vocab-file", plain / "vocab.txt", "--save", "m.pt")
    assert (tmp_path / "m.pt").read_bytes() == (trained / "toy.pt").read_bytes()


def test_an_export_replaces_an_earlier_one_and_nothing_else(trained, tmp_path, call):
    def write():
        call("export.py", "--checkpoint", trained / "toy.pt", "--to", "fastai", "out")
    write()
    (tmp_path / "out" / "encoder.pth").write_bytes(b"old")
    write()
    assert (tmp_path / "out" / "encoder.pth").stat().st_size > 1000
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        write()
    (tmp_path / "out" / "awd_lstm.json").unlink()
    (tmp_path / "out" / "notes.txt").unlink()
    with pytest.raises(InputError, match="not what an earlier export wrote"):          # another program's folder
        write()
    assert set(os.listdir(tmp_path / "out")) == FILES - {"awd_lstm.json"} and os.listdir(tmp_path) == ["out"]


def test_a_failed_export_leaves_the_earlier_one(tmp_path):
    def write(text):
        with atomic_folder(str(tmp_path / "out"), replace=True) as partial:
            for name in ("a", "b"):
                with open(os.path.join(partial, name), "w") as file:
                    file.write(text)
            if text == "new":
                raise OSError("disk full")
    write("old")
    with pytest.raises(OSError):
        write("new")
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out" / "b").read_text() == "old"


def test_no_export_takes_the_place_of_a_file(trained, tmp_path, call):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="no folder"):
        call("export.py", "--checkpoint", trained / "toy.pt", "--to", "fastai", "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_tags_count_the_words_of_every_reading_of_the_training_text(toy, trained, tmp_path, call):
    """In main.py and then in finetune.py; a model of an earlier version, which counted tokens, has no tag."""
    words = len((toy / "train.txt").read_text().split())
    (tmp_path / "m.pt").write_bytes((trained / "toy.pt").read_bytes())
    call("finetune.py", "--save", "m.pt", "--data", toy, *SMALL[6:8], "--epochs", 3, "--device", "cpu", "--lr", 4)
    for name, epochs in ("m.pt", 2), ("m.finetuned.pt", None):
        contents = checkpoint.load(tmp_path / name)
        epochs = epochs or 2 + len(contents["losses"]["history"])
        assert 0 <= words * epochs - checkpoint.words_seen(contents) <= 8 * epochs       # what no whole row of 4 holds
        call("export.py", "--checkpoint", name, "--to", "fastai", "out", "--tag")
        assert (tmp_path / "out" / f"chck_{round(words * epochs / 1000)}K" / "encoder.pth").exists()
    contents = checkpoint.load(tmp_path / "m.pt")
    for epoch in contents["losses"]["history"]:
        del epoch["words"]
    checkpoint.save(tmp_path / "old.pt", contents)
    with pytest.raises(InputError, match="leave --tag out"):
        call("export.py", "--checkpoint", "old.pt", "--to", "fastai", "out", "--tag")


def test_a_tag_counts_words_where_tokens_are_characters(tmp_path, call):
    text = "".join(f"{'a bc ' * (i % 7)}{'dédé' * (i % 3)}\n" for i in range(900))
    (tmp_path / "text.txt").write_text(text)
    call("prepare.py", "text", "text.txt", "--out", "chars", "--tokenizer", "chars")
    call("main.py", "--data", "chars", *SMALL, "--epochs", 2, "--save", "m.pt")
    sizes = json.loads((tmp_path / "chars" / "tokenizer.json").read_text())["sizes"]["train"]
    ends = (tmp_path / "chars" / "train.txt").read_text().count("\n")
    words, contents = sizes["words"] - ends, checkpoint.load(tmp_path / "m.pt")    # the ends of lines are words there
    assert checkpoint.words_seen(contents) == pytest.approx(words * len(contents["losses"]["history"]), rel=0.01)
    assert words < len(text.split()) < 1.2 * words


@pytest.mark.parametrize(("words", "name"), [(999_499, "chck_999K"), (999_500, "chck_1M"), (1_400_000, "chck_1M"),
                                             (99_600_000, "chck_100M"), (0, "chck_0K")])
def test_names_of_tags(words, name):
    assert export.tag(words, "m.pt") == name


@pytest.mark.parametrize("package", ["safetensors", "tokenizers"])
def test_a_missing_package_is_named(package, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "safetensors":
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match="pip install safetensors tokenizers"):
        export.main(["--checkpoint", str(trained / "toy.pt"), "--to", "hf", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_models_of_earlier_versions(tmp_path, call):
    call("export.py", "--checkpoint", MADE / "lstm.pt", "--to", "fastai", "out")
    assert set(os.listdir(tmp_path / "out")) == FILES
    with pytest.raises(InputError, match="--model GRU"):
        call("export.py", "--checkpoint", MADE / "gru.pt", "--to", "fastai", "other")


def test_a_target_that_is_taken_is_told_before_a_package_that_is_missing(trained, tmp_path, monkeypatch):
    for name in ("safetensors", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise ImportError(name=__name__)\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("text")
    (tmp_path / "file").write_text("text")
    for target, says in ("taken", "mine is in it"), ("file", "is no folder"), ("new", "needs the package"):
        done = run_script("export.py", "--checkpoint", trained / "toy.pt", "--to", "hf", target, cwd=tmp_path, status=1,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert says in done.stderr and done.stderr.count("\n") == 1
