"""The systems that the recipes reproduce, in a small size, through every script and in two processes.

A new one is an entry of KINDS: the flags of main.py that make it. Those in QUICK run with the other tests, the
others with `-m slow`.
"""
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL
from systems import through_every_script

KINDS = {
    "RHN": "--model RHN --rhn-depth 3 --nlayers 1 --wdrop 0 --dropoutr 0.1 --init-range 0.04",
    "skip LSTM": "--gate capped --forget-bias 1 --skip-output --emsize 48 --dropoutr 0.1 --state-drop 0.01 "
                 "--per-step-dropout",
    "coupled LSTM": "--gate coupled",
    "variational LSTM": "--no-tied --untied-masks --word-masks stream --dropouti 0.1 --dropoute 0.1 --dropoutr 0.1 "
                        "--wdrop 0",
    "variational GRU": "--model GRU --untied-masks --dropoutr 0.1",
    "Mogrifier": "--model Mogrifier --gate capped --forget-bias 1 --mogrifier-rank 8 --skip-output --dropoutr 0.1 "
                 "--state-drop 0.01",
    "mixture of softmaxes": "--mixtures 3 --nhidlast 40 --dropoutl 0.3 --advsoft 0.05",
    "mixture, not tied": "--mixtures 2 --no-tied --optimizer adam --lr 0.01",
    "adversarial noise": "--advsoft 0.05",
    "past decoding, partial shuffle": "--pdr 0.1 --partial-shuffle",
    "adabelief": "--optimizer adabelief --lr 0.01",
}
QUICK = {"RHN", "skip LSTM", "mixture of softmaxes"}
QUIET = ["--dropout", 0, "--dropouth", 0, "--dropouti", 0, "--dropoute", 0, "--wdrop", 0, "--dropoutr", 0,
         "--state-drop", 0]


def kinds(quick):
    return [pytest.param(kind, marks=() if kind in quick else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", kinds(QUICK))
def test_every_script_works_with_it(kind, toy, call, tmp_path):
    through_every_script(call, tmp_path, ["--data", toy, *KINDS[kind].split()])


@pytest.mark.parametrize("kind", kinds({"RHN"}))
def test_two_processes_equal_one(kind, toy, call, tmp_path):
    """One epoch without dropout, whose masks are each process's own."""
    quiet = [*QUIET, *(["--dropoutl", 0] if "--mixtures" in KINDS[kind] else [])]
    words = ["--data", toy, *SMALL, *KINDS[kind].split(), *quiet, "--epochs", 1, "--batch-size", 5]
    call("main.py", *words, "--save", "one.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, ROOT / "main.py",
               *words, "--save", "two.pt"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False,
                          timeout=150, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    losses = [contents["losses"]["history"][0]["valid_loss"] for contents in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for part in "model", "criterion":
        for name, tensor in one[part].items():
            torch.testing.assert_close(tensor, two[part][name], rtol=1e-4, atol=1e-4)
