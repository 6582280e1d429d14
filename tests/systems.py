"""A model of any kind in every script, as a user runs them."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, SMALL


def through_every_script(call, folder, flags, by=()):
    """Training that is killed and continued equals training that was not; then all that reads a model.

    call: the fixture, with `folder` as its own. flags: of main.py, the data among them. by: [a file that runs main.py].
    """
    flags = [*SMALL, "--dropoute", "0.1", "--nonmono", 0, "--checkpoint-minutes", "0.0005", "--epochs", 4, *flags]
    call("main.py", *flags, "--save", "whole.pt")
    with open(folder / "log", "w") as log:
        words = [sys.executable, *by, "main.py" if by else ROOT / "main.py", *flags, "--save", "m.pt"]
        process = subprocess.Popen(list(map(str, words)), cwd=folder, stdout=log)
        # An epoch has ended, and there is a state to continue from: its line of JSON is written first.
        while not all((folder / name).exists() for name in ("m.jsonl", "m.state.pt")):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert "continuing from m.state." in call("main.py", *flags, "--save", "m.pt", "--resume", "auto")
    whole, parts = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("whole", "m"))
    for part in ("model", "criterion"):
        assert whole[part].keys() == parts[part].keys()
        assert all(torch.equal(tensor, parts[part][name]) for name, tensor in whole[part].items())
    history = parts["losses"]["history"]
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]

    call("finetune.py", "--save", "m.pt", "--epochs", 1)
    call("pointer.py", "--save", "m.pt", "--window", 50)
    call("dynamiceval.py", "--save", "m.pt", "--split", "test", "--bptt", 20)
    call("generate.py", "--save", "m.pt", "--words", 30)
    call("ensemble.py", "m.pt", "m.finetuned.pt:cache,window=50", "--split", "test")
    found = []
    for seed in (1, 2):
        call("evaluate.py", "--save", "m.pt", "--seed", seed)
        found.append(json.loads((folder / "m.finetuned.evaluation.result.json").read_text())["test"]["loss"])
    assert found[0] == found[1]
    tested = json.loads((folder / "m.finetuned.result.json").read_text())["test"]["loss"]
    assert found[0] == pytest.approx(tested, rel=1e-6)
