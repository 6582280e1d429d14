"""Adding a thing touches one place: a cell, a softmax and an optimizer from outside run in every script."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, SMALL

EXTENSION = ROOT / "tests" / "extension.py"
KINDS = {"cell": ["--model", "Leaky", "--leak", "0.3"], "softmax": ["--softmax", "projected", "--dropoutl", "0.4"],
         "optimizer": ["--optimizer", "adafactor"]}


def command(script, *words):
    return [sys.executable, str(EXTENSION), script, *map(str, words)]


def run(script, *words, cwd, status=0):
    done = subprocess.run(command(script, *words), cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done


def block(kind, text):
    """The lines of extension.py from `# kind` to the next such comment."""
    return re.search(rf"^# {kind}\n(.*?)^# \w+$", text, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_the_page_are_these_and_short(kind):
    example = block(kind, EXTENSION.read_text())
    assert example.strip() in (ROOT / "docs" / "extending.md").read_text()
    assert len([line for line in example.splitlines() if line.strip()]) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_works_with_it(kind, toy, tmp_path):
    """Training that is killed and continued equals training that was not; then all that reads a model."""
    flags = [*SMALL, *KINDS[kind], "--dropoute", "0.1", "--nonmono", 0, "--checkpoint-minutes", "0.0005"]
    flags = [*flags, "--lr", {"optimizer": 0.01}.get(kind, 4), "--data", toy, "--epochs", 4]
    run("main.py", *flags, "--save", "whole.pt", cwd=tmp_path)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command("main.py", *flags, "--save", "m.pt"), cwd=tmp_path, stdout=log)
        while not (tmp_path / "m.jsonl").exists():          # an epoch has ended
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    resumed = run("main.py", *flags, "--save", "m.pt", "--resume", "auto", cwd=tmp_path).stdout
    assert "continuing from m.state.pt" in resumed
    whole, parts = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "m"))
    for part in ("model", "criterion"):
        assert whole[part].keys() == parts[part].keys()
        assert all(torch.equal(tensor, parts[part][name]) for name, tensor in whole[part].items())
    assert parts["losses"]["history"][-1]["valid_loss"] < parts["losses"]["history"][0]["valid_loss"]

    run("finetune.py", "--save", "m.pt", "--epochs", 1, cwd=tmp_path)
    run("pointer.py", "--save", "m.pt", "--window", 50, cwd=tmp_path)
    run("dynamiceval.py", "--save", "m.pt", "--split", "test", "--max-minutes", 1, cwd=tmp_path)
    run("generate.py", "--save", "m.pt", "--words", 30, cwd=tmp_path)
    found = []
    for seed in (1, 2):
        run("evaluate.py", "--save", "m.pt", "--seed", seed, cwd=tmp_path)
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
    (["--optimizer", "adafactor", "--beta2", 0.9], "--beta2")])
def test_a_flag_that_is_not_honoured_is_refused_by_name(words, named, toy, tmp_path):
    error = run("main.py", "--data", toy, *SMALL, *words, cwd=tmp_path, status=1).stderr
    assert error.count("\n") == 1 and named in error, error


def test_an_unknown_entry_is_refused(toy, tmp_path):
    assert "Leakyy" in run("main.py", "--data", toy, "--model", "Leakyy", cwd=tmp_path, status=2).stderr
