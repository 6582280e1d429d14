"""Whatever the user gives: one clear line on stderr, a status that is not zero, and nothing of theirs changed."""
import os
import pickle
import shutil

import pytest
import torch
from conftest import SMALL, run_script

import finetune
import generate
import main
import pointer
from runtime import errors

SCRIPTS = {"main": main.main, "finetune": finetune.main, "pointer": pointer.main, "generate": generate.main}


def refused(script, *words, naming, capsys, monkeypatch):
    """Run a script in this process as `python script.py words` would -> its one line of error."""
    words = [str(word) for word in words]
    monkeypatch.setattr("sys.argv", [f"{script}.py", *words])
    with pytest.raises(SystemExit) as exit:
        errors.run(SCRIPTS[script])
    line = exit.value.code if isinstance(exit.value.code, str) else capsys.readouterr().err
    assert exit.value.code not in (0, None)
    assert len(line.strip().splitlines()) == 1 and "Traceback" not in line, line
    for word in naming:
        assert word in line, line
    return line


@pytest.fixture
def refuse(capsys, monkeypatch):
    return lambda script, *words, naming=(): refused(script, *words, naming=naming, capsys=capsys,
                                                     monkeypatch=monkeypatch)


@pytest.fixture
def corpus(toy, tmp_path):
    """A copy of the toy corpus to spoil."""
    return shutil.copytree(toy, tmp_path / "corpus")


@pytest.mark.parametrize("words", [
    ["--dropout", "1"], ["--dropouth", "-0.1"], ["--wdrop", "nan"], ["--dropouti", "x"], ["--emsize", "0"],
    ["--nhid", "-3"], ["--nlayers", "1.5"], ["--batch_size", "0"], ["--bptt", "0"], ["--lr", "0"], ["--lr", "inf"],
    ["--clip", "-1"], ["--seed", "-1"], ["--model", "RNN"], ["--device", "abacus"], ["--device", "cuda:x"],
    ["--when", "0"], ["--nosuchflag"], ["--cutoffs", "0"], ["--optimizer", "sgdd"], ["--max-minutes", "0"],
    ["--init-range", "1e39"], ["--lr", "1e300"], ["--one-cycle", "1e30", "1", "1", "1"],
    ["--epochs", "9" * 400], ["--nlayers", "999999"],
    ["--log-interval", "0"], ["extra"], ["--emsize", "99999999999999999999"], ["--cutoffs", "9", "5"]])
def test_flags(words, toy, refuse, tmp_path):
    refuse("main", "--data", toy, "--save", tmp_path / "a.pt", *words, naming=[words[0].strip("-").replace("_", "-")])


@pytest.mark.parametrize("flag", ["--save", "--checkpoint", "--resume", "--data", "--cache"])
def test_an_empty_name_is_no_flag_left_out(flag, refuse, trained, tmp_path):
    """As of a variable of a shell that is not set."""
    refuse("pointer", "--save", trained / "toy.pt", flag, "", naming=[flag, "empty"])


def test_a_search_and_what_it_chooses(refuse, tmp_path):
    refuse("pointer", "--save", tmp_path / "a.pt", "--search", "--lambdasm", 0.2, naming=["--search chooses --theta"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_such_device(toy, refuse, tmp_path):
    refuse("main", "--data", toy, "--device", "cuda", "--save", tmp_path / "a.pt", naming=["cuda", "auto"])


@pytest.mark.parametrize("script", ["main", "pointer", "finetune"])
def test_no_data(script, trained, refuse, tmp_path):
    save = tmp_path / "toy.pt"
    shutil.copy(trained / "toy.pt", save)
    refuse(script, "--data", tmp_path / "nowhere", "--save", save, naming=["nowhere", "getdata.sh"])
    (tmp_path / "empty").mkdir()
    refuse(script, "--data", tmp_path / "empty", "--save", save, naming=["empty", "train.txt"])


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_spoilt_texts(split, corpus, refuse, tmp_path):
    text = corpus / f"{split}.txt"
    command = ["main", "--data", corpus, *SMALL, "--epochs", 1, "--save", tmp_path / "a.pt"]
    good = text.read_bytes()
    text.write_bytes(good[:100] + b"\xff\xfe" + good[100:])
    refuse(*command, naming=[text.name, "UTF-8", "100"])
    text.write_bytes(b"")
    refuse(*command, naming=[text.name, "empty"])
    text.write_bytes(good[:200] + b"\0" + good[200:])
    refuse(*command, naming=[text.name, "NUL"])
    text.write_bytes(b"\n")
    refuse(*command, naming=[text.name, "1 token;", "two are needed"])
    if split == "train":
        text.write_bytes(b"a b\n")
        refuse(*command, naming=[text.name, "3 tokens", "--batch-size 1"])
    text.unlink()
    refuse(*command, naming=[text.name])
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("script", ["finetune", "pointer", "generate"])
def test_checkpoints_that_are_none(script, trained, toy, refuse, tmp_path):
    save = tmp_path / "a.pt"
    refuse(script, "--save", save, naming=["a.pt", "no such"])
    good = (trained / "toy.pt").read_bytes()
    for length in (0, 10, len(good) // 2, len(good) - 1):
        save.write_bytes(good[:length])
        refuse(script, "--save", save, naming=["a.pt"])
        assert save.read_bytes() == good[:length]
    save.write_bytes(pickle.dumps([1, 2]))                 # what the old code's files look like
    refuse(script, "--save", save, naming=["a.pt", "not a checkpoint of this program"])
    torch.save({"model": {"weight": torch.zeros(3)}}, save)
    refuse(script, "--save", save, naming=["a.pt", "not a checkpoint of this program"])
    torch.save(torch.nn.Linear(2, 2), save)
    refuse(script, "--save", save, naming=["a.pt", "not a checkpoint of this program"])
    save.unlink()
    save.mkdir()
    refuse(script, "--save", save, naming=["a.pt", "folder"])


class Bomb:
    """Unpickled freely, it would write a file."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def test_a_checkpoint_runs_no_code(trained, refuse, tmp_path):
    contents = torch.load(trained / "toy.pt", weights_only=True)
    contents["settings"]["data"] = Bomb(tmp_path / "exploded")
    torch.save(contents, tmp_path / "a.pt")
    refuse("generate", "--save", tmp_path / "a.pt", naming=["a.pt"])
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("words", [["--nhid", 33], ["--emsize", 25], ["--nlayers", 3], ["--model", "GRU"],
                                   ["--no-tied"], ["--cutoffs", 5]])
def test_another_architecture(words, trained, refuse):
    refuse("finetune", "--save", trained / "toy.pt", *words, naming=[words[0].replace("no-", ""), "was trained with"])
    refuse("main", "--resume", trained / "toy.pt", "--save", trained / "toy.pt", *words, naming=["was trained with"])


@pytest.mark.parametrize("script", ["finetune", "pointer"])
def test_another_vocabulary(script, trained, corpus, refuse):
    with open(corpus / "valid.txt", "a") as text:
        text.write("xylophone\n")
    refuse(script, "--save", trained / "toy.pt", "--data", corpus, naming=["xylophone", "vocabulary"])


def spoil(contents, what):
    """Damage that a checksum cannot tell."""
    if what == "shape":
        contents["model"]["rnns.0.weight_hh_l0"] = torch.zeros(3, 4)
    elif what == "huge":
        contents["model"]["encoder.weight"] = torch.zeros(1).expand(10**9, 24)
    elif what == "dtype":
        contents["model"]["decoder.bias"] = contents["model"]["decoder.bias"].to(torch.int64)
    elif what == "missing":
        del contents["model"]["rnns.1.bias_hh_l0"]
    elif what == "vocabulary":
        contents["vocabulary"][0] = contents["vocabulary"][1]
    elif what == "words":
        contents["vocabulary"].append(7)
    elif what == "settings":
        contents["settings"]["nhid"] = "10; import os"
    elif what == "no settings":
        contents["settings"] = {}
    elif what == "layers":
        contents["settings"]["nlayers"] = 10**9
    elif what == "size":
        contents["settings"]["nhid"] = 2**30


@pytest.mark.parametrize("what", ["shape", "huge", "dtype", "missing", "vocabulary", "words", "settings", "no settings",
                                  "layers", "size"])
def test_checkpoints_that_contradict_themselves(what, trained, refuse, tmp_path):
    contents = torch.load(trained / "toy.pt", weights_only=True)
    spoil(contents, what)
    torch.save(contents, tmp_path / "a.pt")
    refuse("generate", "--save", tmp_path / "a.pt", naming=["a.pt", "damaged"])


def test_a_model_is_no_state(trained, toy, refuse, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path / "alone.pt")
    refuse("main", "--resume", tmp_path / "alone.pt", "--save", tmp_path / "b.pt", naming=["alone.pt", "state"])
    refuse("main", "--resume", tmp_path / "none.pt", "--save", tmp_path / "b.pt", naming=["none.pt"])


def test_another_text_cannot_be_resumed(trained, corpus, refuse, tmp_path):
    lines = (corpus / "train.txt").read_text().splitlines(keepends=True)
    (corpus / "train.txt").write_text("".join(lines[:-50]))
    refuse("main", "--resume", trained / "toy.state.pt", "--save", tmp_path / "b.pt", "--data", corpus,
           naming=["--data"])


def test_prompt_of_unknown_words(trained, refuse):
    refuse("generate", "--save", trained / "toy.pt", "--prompt", "w1 xylophone", naming=["xylophone"])


def test_as_a_process(tmp_path):
    """The same through the system: the line is on stderr, the status 1."""
    done = run_script("main.py", "--data", tmp_path / "no", "--save", "a.pt", cwd=tmp_path, status=1)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("main.py: error: ")
    done = run_script("main.py", "--emsize", "0", cwd=tmp_path, status=2)
    assert done.stderr.count("\n") == 1 and "--emsize" in done.stderr


def test_a_model_larger_than_memory(toy, refuse, tmp_path):
    refuse("main", "--data", toy, "--nhid", 10**6, "--save", tmp_path / "a.pt", naming=["GiB", "--nhid"])


def test_what_is_no_name_for_a_model(toy, refuse, tmp_path):
    refuse("main", "--data", toy, *SMALL, "--save", tmp_path, naming=["--save"])
    refuse("main", "--data", toy, *SMALL, "--save", f"{tmp_path}/", naming=["--save"])
    refuse("main", "--data", toy, *SMALL, "--save", "", naming=["--save"])
    refuse("main", "--data", toy, *SMALL, "--save", tmp_path / ("a" * 230), naming=["too long"])
    assert list(tmp_path.iterdir()) == []


NOT_UTF8 = os.fsdecode(b"l\xfc")


def test_a_name_that_is_not_utf8(trained, toy, refuse, tmp_path):
    """A model is not trained under it, since it could not be read; a model that has it is said to need another."""
    refuse("main", "--data", toy, *SMALL, "--save", tmp_path / f"{NOT_UTF8}.pt", naming=["--save", "UTF-8"])
    assert list(tmp_path.iterdir()) == []
    shutil.copy(trained / "toy.pt", tmp_path / f"{NOT_UTF8}.pt")
    refuse("generate", "--save", tmp_path / f"{NOT_UTF8}.pt", naming=["rename"])
    with pytest.raises(SystemExit, match="error: the name .* is not UTF-8"):       # as of a folder for safetensors
        errors.run(NOT_UTF8.encode)


def test_each_script_continues_its_own_runs(trained, refuse, tmp_path):
    for name in ("toy.pt", "toy.state.pt"):
        shutil.copy(trained / name, tmp_path / name)
    refuse("finetune", "--save", tmp_path / "toy.pt", "--resume", tmp_path / "toy.state.pt", naming=["main.py"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.pt", "toy.state.pt"]
