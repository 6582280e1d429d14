"""Several processes that train one model: the same as one process, and when one of them dies."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, SMALL

from model import build
from nt_asgd import NTASGD
from runtime.processes import single_process_group
from training.compose import compose
from training.step import TrainStep
from utils import get_batch

QUIET = ["--dropout", 0, "--dropouth", 0, "--dropouti", 0, "--dropoute", 0, "--wdrop", 0]
STALLING = ("import main\nfrom runtime import errors\nfrom training import progress\n"
            "progress.has_stalled = lambda losses, nonmono: len(losses) == 2\n"
            "errors.run(main.main)\n")


def start(ranks, *words, cwd, script=ROOT / "main.py"):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks] if ranks > 1 else []
    return subprocess.Popen([sys.executable, *map(str, (*launcher, script, *words))], cwd=cwd, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


def finish(process, status=0, seconds=150):
    out, err = process.communicate(timeout=seconds)
    assert (process.returncode == 0) == (status == 0), out + err
    return out, err


def losses(folder, name):
    return [(e["train_loss"], e["valid_loss"], e["valid_loss_raw"])
            for e in map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())]


def compare(folder, one, other, tolerance=1e-5):
    """Curves and weights are the same within rounding."""
    assert [x for epoch in losses(folder, one) for x in epoch] == pytest.approx(
        [x for epoch in losses(folder, other) for x in epoch], rel=tolerance)
    weights = [torch.load(folder / f"{name}.pt", weights_only=True)["model"] for name in (one, other)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("flags", [[], ["--partial-shuffle", "--pdr", 0.1, "--turn-steps", 50]], ids=["", "options"])
def test_ranks_equal_one_process(ranks, flags, toy, tmp_path):
    """Over some 150 steps, across the switch to averaging, with columns that cannot be shared out evenly."""
    (tmp_path / "stalling.py").write_text(STALLING)
    words = ["--data", toy, *SMALL, *QUIET, *flags, "--batch-size", 7, "--epochs", 3, "--save"]
    for n, name in ((1, "one.pt"), (ranks, "many.pt")):
        out, _ = finish(start(n, *words, name, cwd=tmp_path, script=tmp_path / "stalling.py"))
        assert out.count("averaging starts") == out.count("| summary") == 1          # the first alone speaks
    compare(tmp_path, "one", "many")


THREADS_AT_EXIT = """
import atexit, contextlib, os, pathlib
import main
from runtime import errors

def report():
    names = []
    for thread in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):                    # it ended between the listing and the reading
            names.append((thread / "comm").read_text())
    pathlib.Path("threads." + os.environ["RANK"]).write_text(" ".join(names))

atexit.register(report)
errors.run(main.main)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="asks Linux which threads a process has")
def test_no_thread_of_the_group_outlives_it(toy, tmp_path):
    """Gloo's threads in an interpreter that is coming to its end abort it now and then: seen once in CI."""
    (tmp_path / "threads.py").write_text(THREADS_AT_EXIT)
    finish(start(2, "--data", toy, *SMALL, "--batch-size", 7, "--epochs", 1, "--save", "m.pt", cwd=tmp_path,
                 script=tmp_path / "threads.py"))
    for rank in (0, 1):
        assert "gloo" not in (tmp_path / f"threads.{rank}").read_text()


@pytest.mark.slow
def test_fine_tuning_and_other_numbers_of_ranks(toy, tmp_path):
    words = ["--data", toy, *SMALL, *QUIET, "--batch-size", 7, "--save"]
    finish(start(1, *words, "one.pt", "--epochs", 4, cwd=tmp_path))
    for ranks, epochs in ((2, 1), (3, 2), (1, 3), (2, 4)):
        finish(start(ranks, *words, "parts.pt", "--epochs", epochs, "--resume", "auto", cwd=tmp_path))
    compare(tmp_path, "one", "parts")
    for ranks, name in ((1, "one"), (2, "parts")):
        finish(start(ranks, "--save", f"{name}.pt", "--epochs", 2, "--lr", 4, "--device", "cpu", cwd=tmp_path,
                     script=ROOT / "finetune.py"))
    compare(tmp_path, "one.finetuned", "parts.finetuned")


def whole_and_part(toy, folder):
    """Let two processes train whole.pt to its end; and others parts.pt until a state is there -> those, the flags."""
    words = ["--data", toy, *SMALL, "--epochs", 40, "--save"]
    finish(start(2, *words, "whole.pt", cwd=folder))
    process = start(2, *words, "parts.pt", cwd=folder)
    while not (folder / "parts.state.pt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    return process, words


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_and_it_continues_exactly(toy, tmp_path):
    process, words = whole_and_part(toy, tmp_path)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    began = time.monotonic()
    _, err = finish(process, status=1)
    assert time.monotonic() - began < 60 and "--resume auto" in err
    finish(start(2, *words, "parts.pt", "--resume", "auto", cwd=tmp_path))
    assert losses(tmp_path, "parts") == losses(tmp_path, "whole")


@pytest.mark.slow
def test_a_signal_saves_everything(toy, tmp_path):
    process, _ = whole_and_part(toy, tmp_path)
    process.send_signal(signal.SIGTERM)
    out, _ = finish(process, status=1)
    command = shlex.split(re.search(r"to continue: (.*)", out)[1])
    assert "--nproc-per-node" in command and command[-2:] == ["--resume", "auto"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=150)
    assert losses(tmp_path, "parts") == losses(tmp_path, "whole")


def test_a_process_group_of_one():
    """A step that sums its gradients over a group of one is the step without."""
    alone = single_process_group()
    try:
        found = []
        for group in (None, alone):
            step = make(seed=3, group=group)
            hidden = step.model.init_hidden(4)
            columns = torch.randint(20, (40, 4), generator=torch.Generator().manual_seed(1))
            for row in range(0, 36, 9):
                loss, hidden = step(*get_batch(columns, row, None, 9), hidden)
            found.append([loss, *step.parameters])
        assert torch.equal(found[0][1], found[1][1]) and not torch.equal(found[0][1], make(seed=3).parameters[0])
        for a, b in zip(*found):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    finally:
        torch.distributed.destroy_process_group()


def make(seed, group=None):
    torch.manual_seed(seed)
    settings = {"model": "LSTM", "emsize": 8, "nhid": 12, "nlayers": 2, "tied": True, "cutoffs": [], "dropout": 0.2,
                "dropouth": 0.2, "dropouti": 0.2, "dropoute": 0.1, "wdrop": 0.3, "dropoutr": 0}
    model = build(settings, 20)
    step = TrainStep(model, NTASGD(list(model.parameters()), lr=1), bptt=9, clip=0.25, alpha=2, beta=1)
    return compose(step, group)


def test_too_few_columns(toy, tmp_path):
    _, err = finish(start(2, "--data", toy, *SMALL, "--batch-size", 1, "--save", "a.pt", cwd=tmp_path), status=1)
    assert "--batch-size 1 is less than the number of processes" in err


def test_the_first_process_stopped_while_it_tests_does_not_wait_for_the_others(toy, tmp_path):
    (tmp_path / "stopped.py").write_text(
        "import main\nfrom runtime import errors\nfrom runtime.signals import Stop\nfrom training import run\n"
        "def stop(*args): raise Stop('stopped', 0)\n"
        "run.checkpoint.restore = stop\n"
        "errors.run(main.main)\n")
    out, _ = finish(start(2, "--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt", cwd=tmp_path,
                          script=tmp_path / "stopped.py"), seconds=60)
    assert "the last good state is in a.state.pt" in out and "to continue" in out
