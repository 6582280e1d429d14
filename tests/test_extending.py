"""Adding a thing touches one place: a cell, a softmax and an optimizer from outside run in every script."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import extension
import pytest
import torch
from conftest import ROOT, SMALL, run_script

from runtime.errors import InputError

ENTRIES = [(registry, name, registry.pop(name)) for registry, name in [
    (extension.CELLS, "Leaky"), (extension.SOFTMAXES, "projected"), (extension.OPTIMIZERS, "adafactor")]]
EXTENSION = ROOT / "tests" / "extension.py"
KINDS = {"cell": ["--model", "Leaky", "--leak", "0.3"], "softmax": ["--softmax", "projected", "--dropoutl", "0.4"],
         "optimizer": ["--optimizer", "adafactor"]}


@pytest.fixture
def registered(monkeypatch):
    """The entries of extension.py, for one test."""
    for registry, name, entry in ENTRIES:
        monkeypatch.setitem(registry, name, entry)


def block(kind, text):
    """The lines of extension.py from `# kind` to the next such comment."""
    return re.search(rf"^# {kind}\n(.*?)^# \w+$", text, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_the_page_are_these_and_short(kind):
    example = block(kind, EXTENSION.read_text())
    assert example.strip() in (ROOT / "docs" / "extending.md").read_text()
    assert len([line for line in example.splitlines() if line.strip()]) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_works_with_it(kind, registered, toy, call, tmp_path):
    """Training that is killed and continued equals training that was not; then all that reads a model."""
    flags = [*SMALL, *KINDS[kind], "--dropoute", "0.1", "--nonmono", 0, "--checkpoint-minutes", "0.0005"]
    flags = [*flags, "--lr", {"optimizer": 0.01, "softmax": 1}.get(kind, 4), "--data", toy, "--epochs", 4]
    call("main.py", *flags, "--save", "whole.pt")
    with open(tmp_path / "log", "w") as log:                # as a user would run it, with extension.py in between
        words = [sys.executable, EXTENSION, "main.py", *flags, "--save", "m.pt"]
        process = subprocess.Popen(list(map(str, words)), cwd=tmp_path, stdout=log)
        while not (tmp_path / "m.jsonl").exists():          # an epoch has ended
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert "continuing from m.state.pt" in call("main.py", *flags, "--save", "m.pt", "--resume", "auto")
    whole, parts = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "m"))
    for part in ("model", "criterion"):
        assert whole[part].keys() == parts[part].keys()
        assert all(torch.equal(tensor, parts[part][name]) for name, tensor in whole[part].items())
    assert parts["losses"]["history"][-1]["valid_loss"] < parts["losses"]["history"][0]["valid_loss"]

    call("finetune.py", "--save", "m.pt", "--epochs", 1)
    call("pointer.py", "--save", "m.pt", "--window", 50)
    call("dynamiceval.py", "--save", "m.pt", "--split", "test", "--bptt", 20)
    call("generate.py", "--save", "m.pt", "--words", 30)
    found = []
    for seed in (1, 2):
        call("evaluate.py", "--save", "m.pt", "--seed", seed)
        found.append(json.loads((tmp_path / "m.finetuned.evaluation.result.json").read_text())["test"]["loss"])
    assert found[0] == found[1]
    tested = json.loads((tmp_path / "m.finetuned.result.json").read_text())["test"]["loss"]
    assert found[0] == pytest.approx(tested, rel=1e-6)


@pytest.mark.parametrize(("words", "named"), [
    (["--model", "Leaky", "--dropoutr", 0.2], "--dropoutr"),
    (["--model", "Leaky", "--precision", "bf16"], "--precision"),
    (["--softmax", "projected", "--precision", "bf16"], "--precision"),
    (["--model", "LSTM", "--leak", 0.2], "--leak"),
    (["--dropoutl", 0.2], "--dropoutl"),
    (["--model", "QRNN", "--dropoutr", 0.2], "--dropoutr"),
    (["--optimizer", "adafactor", "--beta2", 0.9], "--beta2")])
def test_a_flag_that_is_not_honoured_is_refused_by_name(words, named, registered, toy, tmp_path, call):
    with pytest.raises(InputError, match=named):
        call("main.py", "--data", toy, *SMALL, *words)
    assert not list(tmp_path.glob("model*"))


def test_an_unknown_cell_is_refused_in_one_line(toy, tmp_path):
    assert "Leakyy" in run_script("main.py", "--data", toy, "--model", "Leakyy", cwd=tmp_path, status=2).stderr
