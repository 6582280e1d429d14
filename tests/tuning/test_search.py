"""A search with a main.py that trains nothing: kills at random moments, several processes, trials that go wrong."""
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

import main
from runtime.errors import InputError
from tuning import sampling, space, workers
from tuning.halving import BAD, PAUSED, Trial
from tuning.search import Names, Search
from tuning.storage import Storage, claim

FLAGS = main.make_parser().flags
RUNGS = [1, 2, 4]
# Its state is the number of epochs done; a line of `ledger` for every epoch done and not undone by a kill.
STAND_IN = """
import json, os, signal, sys, time
words = dict(zip(sys.argv[1::1], sys.argv[2:]))
alpha, epochs, stem = float(words["--alpha"]), int(words["--epochs"]), words["--save"][:-3]
if alpha > 3.8:
    sys.exit("main.py: error: out of memory; a smaller batch size, model or corpus needs less")
if 3.6 < alpha <= 3.8:
    os.kill(os.getpid(), signal.SIGKILL)
done = open(stem + ".jsonl").read().splitlines() if os.path.exists(stem + ".jsonl") else []
for epoch in range(len(done) + 1, epochs + 1):
    time.sleep(0.03)
    loss = None if 3.4 < alpha <= 3.6 else (alpha - 1) ** 2 + 1 / epoch
    done.append(json.dumps({"epoch": epoch, "valid_loss": loss, "seconds": 0.03}))
    with open(stem + ".new", "w") as file:
        file.write("\\n".join(done) + "\\n")
    os.replace(stem + ".new", stem + ".jsonl")
    print("epoch", epoch, flush=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to search in, with the stand-in for main.py."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(workers, "MAIN", tmp_path / "stand_in.py")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.search").mkdir()
    return tmp_path


def search(limit=12, words=("alpha=0:3",), seed=1):
    return Search(Names("s.pt"), space.parse(words, FLAGS), sampling.draw_random, RUNGS, 2, limit, seed, [], FLAGS)


def run(number=1, **how):
    assert search(**how).run([None] * number) is None


def in_another_process(**how):
    process = multiprocessing.get_context("fork").Process(target=run, kwargs=how)
    process.start()
    return process


def outcome():
    """What came out -> settings, epochs, state of every trial."""
    return [(trial.settings, trial.losses, trial.state, trial.rung) for trial in search().trials()]


def check(limit):
    """Every trial is there once, has the epochs of its rung and the losses of its settings."""
    for settings, losses, state, rung in outcome():
        assert state == PAUSED and len(losses) == RUNGS[rung]
        assert losses == [(settings["alpha"] - 1) ** 2 + 1 / epoch for epoch in range(1, len(losses) + 1)]
    assert len(outcome()) == limit
    for number in range(limit):                            # no epoch was trained that is not counted
        lines = (open(f"s.search/trial-{number:04}.jsonl").read().splitlines())
        assert len(lines) == len(outcome()[number][1])


def test_one_worker_and_what_it_drew(folder):
    run(limit=12)
    check(12)
    alone = outcome()
    assert [rung for *_, rung in alone].count(0) < 7 and any(rung == 2 for *_, rung in alone)
    assert [settings for settings, *_ in alone] == [
        sampling.draw_random(space.parse(["alpha=0:3"], FLAGS), [None] * number, RUNGS, 1) for number in range(12)]
    run(limit=15)                                          # more trials: those that were there stay
    assert len(outcome()) == 15 and [found[0] for found in outcome()[:12]] == [found[0] for found in alone]


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(folder, seed, monkeypatch):
    """SIGKILL of the search and of what it runs: it ends as if nothing had happened."""
    monkeypatch.setattr("tuning.search.PATIENCE", 99)
    run(limit=8)
    whole = outcome()
    os.rename("s.search", "whole.search")
    os.mkdir("s.search")
    draw, kills = random.Random(seed), 0
    while kills < 8:
        process = in_another_process(limit=8)
        time.sleep(draw.uniform(0.01, 0.4))
        if draw.random() < 0.5:
            for child in children(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.1)
        process.kill()
        process.join()
        kills += 1
    run(limit=8)
    check(8)
    assert outcome() == whole                              # one worker: the same decisions in the same order


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def test_several_processes_share_a_search_and_one_of_them_dies(folder):
    processes = [in_another_process(limit=20, number=2) for _ in range(3)]
    time.sleep(0.5)
    processes[0].kill()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0]
    check(20)


def test_trials_that_go_wrong_are_bad_and_the_search_goes_on(folder):
    run(limit=9, number=2, words=["alpha=3:4"], seed=42)
    reasons = {"out of memory": 0, "killed 3 times": 0, "no epoch had a finite": 0}
    for settings, losses, state, _ in outcome():
        assert (state == BAD) == (settings["alpha"] > 3.4) and (state == PAUSED or not losses or math.isinf(losses[0]))
    for trial in search().trials():
        for reason in reasons:
            reasons[reason] += reason in trial.reason
    assert all(reasons.values()) and sum(reasons.values()) == sum(state == BAD for _, _, state, _ in outcome())


def test_a_time_limit_stops_and_another_run_goes_on(folder):
    stopped = search(limit=10)
    stop = stopped.run([None, None], max_minutes=0.4 / 60)
    assert stop.status == 0 and 0 < len(outcome()) < 10 and not stopped.busy
    assert claim("s.search/trial-0000.log") is not None
    run(limit=10)
    check(10)


# ---- the storage

def test_an_error_takes_back_what_was_written(tmp_path):
    storage = Storage(tmp_path / "a.sqlite")
    with pytest.raises(KeyError), storage.transaction():
        storage.save(Trial(0, {"alpha": 1}))
        raise KeyError
    with storage.transaction():
        assert storage.trials() == []
        storage.save(Trial(0, {"alpha": 1.5}, losses=[1.0, math.inf], reason="a\tb"))
    with storage.transaction():
        assert storage.trials() == [Trial(0, {"alpha": 1.5}, losses=[1.0, math.inf], reason="a\tb")]


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"x" * 2000])
def test_a_damaged_storage_is_an_error_of_one_line(tmp_path, content):
    (tmp_path / "a.sqlite").write_bytes(content)
    with pytest.raises(InputError, match="a.sqlite"):
        Storage(tmp_path / "a.sqlite")


def test_a_damaged_trial_is_an_error_of_one_line(tmp_path):
    storage = Storage(tmp_path / "a.sqlite")
    with storage.transaction():
        storage.save(Trial(0, {}))
        storage._run("UPDATE trials SET losses = 'x'")
    with pytest.raises(InputError, match="damaged"), storage.transaction():
        storage.trials()


def _add(path, times):
    storage = Storage(path)
    for _ in range(times):
        with storage.transaction():
            storage.save(Trial(len(storage.trials()), {}, reason=str(os.getpid())))


def test_transactions_of_several_processes_come_one_after_another(tmp_path):
    path = str(tmp_path / "a.sqlite")
    processes = [multiprocessing.get_context("fork").Process(target=_add, args=(path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    storage = Storage(path)
    with storage.transaction():
        assert [trial.number for trial in storage.trials()] == list(range(100))
        assert len({trial.reason for trial in storage.trials()}) == 4


def test_a_claim_lasts_as_long_as_the_process_that_inherited_it(tmp_path):
    path = tmp_path / "a.log"
    held = claim(path)
    assert claim(path) is None
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=held)
    held.close()
    assert claim(path) is None
    process.communicate()
    assert claim(path) is not None


def test_half_a_line_of_a_log_is_no_epoch(tmp_path):
    line = json.dumps({"valid_loss": 1.5, "seconds": 2.0})
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line}\n{line[:9]}")
    assert workers.epochs_done(tmp_path / "a.jsonl") == ([1.5, 1.5], 4.0)
    assert workers.epochs_done(tmp_path / "b.jsonl") == ([], 0.0)


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [found["OMP_NUM_THREADS"] for found in workers.environments(3, "cpu")] == ["2"] * 3
    assert "OMP_NUM_THREADS" not in workers.environments(1, "cpu")[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(workers.torch, "cuda", SimpleNamespace(is_available=lambda: True, device_count=lambda: 2))
    assert [found["CUDA_VISIBLE_DEVICES"] for found in workers.environments(3, "auto")] == ["4", "6", "4"]
    assert workers.environments(3, "cpu")[0]["OMP_NUM_THREADS"] == "2"
