"""tune.py as a user runs it: what it leaves, what it refuses, and what SIGKILL cannot do to it."""
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from conftest import ROOT, SMALL, run_script
from test_bad_input import SCRIPTS, refused

import tune

FIXED = [word for pair in zip(SMALL[::2], SMALL[1::2]) for word in pair if pair[0] not in ("--lr", "--alpha")]
SEARCH = [*FIXED, "--space", "alpha=0:2", "lr=log:1:8", "--sampler", "random", "--nonmono", "0"]


@pytest.fixture
def refuse(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(SCRIPTS, "tune", tune.main)
    monkeypatch.chdir(tmp_path)
    return lambda *words, naming: refused("tune", *words, naming=naming, capsys=capsys, monkeypatch=monkeypatch)


def tune_script(*words, **how):
    return run_script("tune.py", *words, timeout=900, **how)


def same_weights(*paths):
    one, other = ({**contents["model"], **contents["criterion"]} for contents in
                  (torch.load(path, weights_only=True) for path in paths))
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_continued_to_more_epochs_is_the_longer_run(toy, call, tmp_path):
    """With a test of the text and without one in between, and across the switch to averaging."""
    words = ["--data", toy, *SMALL, "--nonmono", 1, "--lr", 60, "--resume", "auto"]
    call("main.py", *words, "--epochs", 6, "--save", "whole.pt")
    for epochs, test in (1, ["--no-test"]), (2, []), (4, ["--no-test"]), (6, []):
        call("main.py", *words, "--epochs", epochs, *test, "--save", "parts.pt")
        assert (tmp_path / "parts.result.json").exists() == (not test)
    assert same_weights(tmp_path / "whole.pt", tmp_path / "parts.pt")
    states = [torch.load(tmp_path / f"{name}.state.pt", weights_only=True) for name in ("whole", "parts")]
    assert states[0]["progress"]["switch_epoch"]
    assert same_weights(tmp_path / "whole.state.pt", tmp_path / "parts.state.pt")
    assert torch.equal(*(state["generators"]["cpu"] for state in states))
    results = [json.loads((tmp_path / f"{name}.result.json").read_text()) for name in ("whole", "parts")]
    assert results[0]["test"] == results[1]["test"]


@pytest.mark.parametrize(("words", "naming"), [
    ([], ["--epochs"]), (["--epochs", "0"], ["--epochs"]), (["--epochs", "4", "--rungs", "1", "3"], ["--rungs 1 3"]),
    (["--rungs", "3", "1"], ["does not grow"]), (["--rungs", "0"], ["--rungs"]),
    (["--epochs", "2", "--reduction", "1"], ["--reduction 1"]), (["--epochs", "2", "--trials", "0"], ["--trials"]),
    (["--epochs", "2", "--workers", "x"], ["--workers"]), (["--epochs", "2", "--sampler", "grid"], ["--sampler"]),
    (["--epochs", "2", "--space", "alhpa=0:4"], ["alhpa"]), (["--epochs", "2", "--space"], ["--space"]),
    (["--epochs", "2", "--space", "alpha=0:4", "--alpha", "1"], ["--alpha", "--space"]),
    (["--epochs", "2", "--space", "beta2=0.9:0.99"], ["--beta2"]),
    (["--epochs", "2", "--model", "QRNN", "--space", "dropoutr=0:0.5"], ["--dropoutr"]),
    (["--epochs", "2", "--alpha", "-1"], ["--alpha"]), (["--epochs", "2", "--nosuchflag"], ["--nosuchflag"]),
    (["--epochs", "2", "--resume", "a.state.pt"], ["--resume auto"]), (["--epochs", "2", "--save", "."], ["--save"]),
    (["--epochs", "2", "--data", "nowhere"], ["nowhere"])])
def test_bad_input_is_one_line(words, naming, toy, refuse, tmp_path):
    refuse("--data", toy, "--sampler", "random", "--save", tmp_path / "t.pt", *words, naming=naming)
    assert not list(tmp_path.iterdir())


def test_without_optuna_the_package_is_named(toy, refuse, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refuse("--data", toy, "--epochs", 2, naming=["pip install optuna", "--sampler random"])


def test_a_storage_that_is_none_is_refused(toy, refuse, tmp_path):
    (tmp_path / "t.search").mkdir()
    (tmp_path / "t.search" / "search.sqlite").write_text("no database" * 200)
    refuse("--data", toy, "--epochs", 2, "--save", "t.pt", "--resume", "auto", naming=["t.search"])


def trials(folder, name="t"):
    """The table of trials -> {number: line as a dict}."""
    head, *lines = (folder / f"{name}.trials.tsv").read_text().splitlines()
    found = [dict(zip(head.split("\t"), line.split("\t"))) for line in lines]
    assert [int(line["trial"]) for line in found] == list(range(len(found)))
    return found


def check_against_uninterrupted(folder, toy, lines):
    """The weights of these trials are those of main.py, run from the start to as many epochs in one go."""
    for line in lines:
        run_script("main.py", "--data", toy, *FIXED, "--nonmono", "0", "--alpha", line["alpha"], "--lr", line["lr"],
                   "--epochs", line["epochs"], "--save", "one.pt", cwd=folder)
        stem = folder / "t.search" / f"trial-{int(line['trial']):04}"
        assert same_weights(folder / "one.pt", f"{stem}.pt")
        assert same_weights(folder / "one.state.pt", f"{stem}.state.pt")


@pytest.mark.slow
def test_a_search_leaves_the_best_trial_as_a_run(toy, tmp_path):
    words = ["--data", toy, *SEARCH, "--rungs", "1", "2", "4", "--reduction", "2", "--save", "t.pt"]
    out = tune_script(*words, "--trials", "5", cwd=tmp_path).stdout
    found = trials(tmp_path)
    assert len(found) == 5 and {line["state"] for line in found} == {"paused", "finished"}
    best = min(found, key=lambda line: float(line["valid_loss"]))
    result = json.loads((tmp_path / "t.result.json").read_text())
    assert f"best: trial {best['trial']}" in out
    assert result["valid"]["loss"] == pytest.approx(float(best["valid_loss"]), 1e-4)
    check_against_uninterrupted(tmp_path, toy, [line for line in found if int(line["epochs"]) > 1][-1:])

    folder = tmp_path / "again"                             # by the command in its result, in another folder
    folder.mkdir()
    command = shlex.split(result["command"])
    subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True)
    assert same_weights(tmp_path / "t.pt", folder / "t.pt")
    assert json.loads((folder / "t.result.json").read_text())["test"] == result["test"]

    before = (tmp_path / "t.pt").stat().st_mtime_ns
    assert "holds a search already" in tune_script(*words, cwd=tmp_path, status=1).stderr
    assert "--nhid" in tune_script(*words, "--nhid", "50", "--resume", "auto", cwd=tmp_path, status=1).stderr
    tune_script("--save", "t.pt", "--resume", "auto", cwd=tmp_path)       # all of it is in the storage
    assert trials(tmp_path) == found and (tmp_path / "t.pt").stat().st_mtime_ns == before


def start(*words, cwd):
    log = open(cwd / "output.txt", "a")
    return subprocess.Popen([sys.executable, str(ROOT / "tune.py"), *map(str, words)], cwd=cwd, stdout=log, stderr=log)


def children(process):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True,
                           check=False)
    return [int(word) for word in found.stdout.split()]


def newest_state(folder):
    """When the last state of a trial was saved."""
    return max((path.stat().st_mtime_ns for path in folder.glob("t.search/*.state.pt")), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(seed, toy, tmp_path):
    """SIGKILL of the search or of a trial's process: from its start on, or once it has saved."""
    draw = random.Random(seed)
    words = ["--data", toy, *SEARCH, "--rungs", "2", "4", "--reduction", "2", "--trials", 4, "--save", "t.pt",
             "--checkpoint-minutes", "0.001", "--resume", "auto"]
    for kill in range(6):
        process, before = start(*words, cwd=tmp_path), newest_state(tmp_path)
        while process.poll() is None and not (children(process) if kill % 3 == 0 else newest_state(tmp_path) > before):
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 1))
        if kill % 3 == 1:                                   # twice: a third time might make it a bad trial
            for child in children(process):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.5)
        process.kill()
        process.wait()
    tune_script(*words, cwd=tmp_path)
    found = trials(tmp_path)
    assert len(found) == 4 and all(line["reason"] == "" for line in found)
    assert {line["state"] for line in found} == {"paused", "finished"}
    check_against_uninterrupted(tmp_path, toy, [line for line in found if line["state"] == "finished"])


@pytest.mark.slow
def test_two_processes_on_one_storage_and_a_ctrl_c(toy, tmp_path):
    words = ["--data", toy, *SEARCH, "--rungs", "1", "3", "--reduction", "2", "--trials", 6, "--save", "t.pt",
             "--resume", "auto"]
    first = start(*words, cwd=tmp_path)
    second = start(*words, cwd=tmp_path)
    while not children(first):
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(120) == 130 and second.wait(240) == 0
    assert "to continue" in (tmp_path / "output.txt").read_text()
    found = trials(tmp_path)
    assert len(found) == 6 and {line["state"] for line in found} == {"paused", "finished"}
    check_against_uninterrupted(tmp_path, toy, [line for line in found if line["state"] == "finished"][:1])


@pytest.mark.slow
def test_a_trial_that_diverges_is_bad_and_the_search_goes_on(toy, tmp_path):
    words = ["--data", toy, *FIXED, "--space", "lr=4,1e9", "alpha=0:1", "--sampler", "random", "--trials", 4,
             "--rungs", 1, "--max-bad-steps", 2]
    tune_script(*words, "--save", "t.pt", cwd=tmp_path)
    found = trials(tmp_path)
    assert len(found) == 4 and {line["state"] for line in found} == {"bad", "finished"}
    for line in found:
        assert (line["state"] == "bad") == (float(line["lr"]) == 1e9) == ("no finite loss" in line["reason"])
    words[words.index("lr=4,1e9")] = "lr=1e9,1e10"
    error = tune_script(*words, "--save", "all.pt", cwd=tmp_path, status=1).stderr
    assert "all trials were bad" in error and not (tmp_path / "all.pt").exists()


@pytest.mark.slow
def test_tpe_learns_and_the_picture_is_drawn(toy, tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    words = ["--data", toy, *FIXED, "--space", "alpha=0:2", "lr=log:1:8", "--rungs", 1, "--trials", 11, "--save",
             "t.pt"]
    tune_script(*words, cwd=tmp_path)
    assert len(trials(tmp_path)) == 11 and (tmp_path / "t.trials.png").read_bytes()[:4] == b"\x89PNG"
