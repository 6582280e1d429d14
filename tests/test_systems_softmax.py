"""Softmaxes in every script: training that is killed and continued, all that reads a model, two processes."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, SMALL

KINDS = {"mixture": ["--mixtures", 3, "--nhidlast", 40, "--dropoutl", 0.3, "--advsoft", 0.05, "--lr", 20],
         "mixture, not tied": ["--mixtures", 2, "--no-tied", "--optimizer", "adam", "--lr", 0.01],
         "full, with adversarial noise": ["--advsoft", 0.05]}
QUIET = ["--dropout", 0, "--dropouth", 0, "--dropoutl", 0, "--wdrop", 0]


def start(ranks, *words, cwd):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks] if ranks > 1 else []
    words = [sys.executable, *launcher, ROOT / "main.py", *words]
    return subprocess.Popen(list(map(str, words)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def weights(folder, name):
    contents = torch.load(folder / f"{name}.pt", weights_only=True)
    return {**contents["model"], **{f"softmax.{key}": tensor for key, tensor in contents["criterion"].items()}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_works_with_it(kind, toy, call, tmp_path):
    flags = ["--data", toy, *SMALL, *KINDS[kind], "--nonmono", 0, "--checkpoint-minutes", "0.0005", "--epochs", 3]
    call("main.py", *flags, "--save", "whole.pt")
    process = start(1, *flags, "--save", "m.pt", cwd=tmp_path)
    while not (tmp_path / "m.jsonl").exists():               # an epoch has ended
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert "continuing from m.state.pt" in call("main.py", *flags, "--save", "m.pt", "--resume", "auto")
    whole, parts = weights(tmp_path, "whole"), weights(tmp_path, "m")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    epochs = json.loads((tmp_path / "m.result.json").read_text())["epochs"]
    assert epochs[-1]["valid_loss"] < epochs[0]["valid_loss"]

    call("finetune.py", "--save", "m.pt", "--epochs", 1, "--lr", 4)
    call("pointer.py", "--save", "m.pt", "--window", 50)
    call("dynamiceval.py", "--save", "m.pt", "--split", "test", "--bptt", 20)
    call("generate.py", "--save", "m.pt", "--words", 30)
    found = []
    for words in (["--seed", 1], ["--seed", 2, "--per-token", "words.tsv"], ["--mc-samples", 2]):
        call("evaluate.py", "--save", "m.pt", "--split", "test", *words)
        name = "m.finetuned.evaluation.test" + (".mc-2" if "--mc-samples" in words else "")
        found.append(json.loads((tmp_path / f"{name}.result.json").read_text()))
    tested = json.loads((tmp_path / "m.finetuned.result.json").read_text())["test"]["loss"]
    assert [each["test"]["loss"] for each in found] == pytest.approx([tested] * 3, rel=1e-5)
    assert found[2]["test_sampled"]["loss"] != pytest.approx(tested, rel=1e-4)


def test_two_processes_equal_one(toy, tmp_path):
    """Without dropout, with columns that cannot be shared out evenly."""
    flags = ["--data", toy, *SMALL, *QUIET, "--mixtures", 3, "--nhidlast", 40, "--batch-size", 7, "--epochs", 1,
             "--save"]
    for ranks, name in ((1, "one"), (2, "two")):
        process = start(ranks, *flags, f"{name}.pt", cwd=tmp_path)
        said = process.communicate(timeout=150)[0]
        assert process.returncode == 0, said
    one, two = weights(tmp_path, "one"), weights(tmp_path, "two")
    assert "softmax.latent.weight" in one
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-4)
