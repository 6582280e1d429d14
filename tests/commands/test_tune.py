"""tune.py: what a search leaves, what it refuses, and that no kill loses a trial.

Most searches here have a main.py that trains nothing; the slow ones run tune.py as a user does.
"""
import json
import multiprocessing
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext, suppress
from types import SimpleNamespace

import pytest
from conftest import ROOT, SMALL, run_script
from test_interruptions import same_weights
from test_refusals import SCRIPTS, refused

import tune
from runtime import options
from training import space

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)
FIXED = [word for pair in zip(SMALL[::2], SMALL[1::2]) for word in pair if pair[0] not in ("--lr", "--alpha")]
SEARCH = [*FIXED, "--space", "alpha=0:2", "lr=log:1:8", "--sampler", "random", "--nonmono", "0"]
# Its state is the number of epochs done.
STAND_IN = """
import json, os, signal, sys, time
words = dict(zip(sys.argv[1:], sys.argv[2:]))
alpha, epochs, stem = float(words["--alpha"]), int(words["--epochs"]), words["--save"][:-3]
if alpha > 3.8:
    sys.exit("main.py: error: out of memory; a smaller batch size, model or corpus needs less")
if 3.6 < alpha <= 3.8:
    os.kill(os.getpid(), signal.SIGKILL)
done = open(stem + ".jsonl").read().splitlines() if os.path.exists(stem + ".jsonl") else []
for epoch in range(len(done) + 1, epochs + 1):
    time.sleep(0.03)
    loss = None if 3.4 < alpha <= 3.6 else (alpha - 1) ** 2 + 1 / epoch
    done.append(json.dumps({"epoch": epoch, "valid_loss": loss}))
    with open(stem + ".new", "w") as file:
        file.write("\\n".join(done) + "\\n")
    os.replace(stem + ".new", stem + ".jsonl")
"""


# ---- what is refused

@pytest.fixture
def refuse(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(SCRIPTS, "tune", tune.main)
    monkeypatch.chdir(tmp_path)
    return lambda *words, naming: refused("tune", *words, naming=naming, capsys=capsys, monkeypatch=monkeypatch)


@pytest.mark.parametrize(("words", "naming"), [
    ([], ["--epochs"]), (["--epochs", "0"], ["--epochs"]), (["--epochs", "4", "--min-epochs", "5"], ["--min-epochs 5"]),
    (["--epochs", "4", "--min-epochs", "0"], ["--min-epochs"]), (["--epochs", "4", "--pruner", "x"], ["--pruner"]),
    (["--epochs", "2", "--reduction", "1"], ["--reduction 1"]), (["--epochs", "2", "--trials", "0"], ["--trials"]),
    (["--epochs", "2", "--workers", "x"], ["--workers"]), (["--epochs", "2", "--sampler", "grid"], ["--sampler"]),
    (["--epochs", "2", "--space", "alhpa=0:4"], ["alhpa"]), (["--epochs", "2", "--space"], ["--space"]),
    (["--epochs", "2", "--space", "alpha=0:4", "--alpha", "1"], ["--alpha", "--space"]),
    (["--epochs", "2", "--space", "beta2=0.9:0.99"], ["--beta2"]),
    (["--epochs", "2", "--model", "QRNN", "--space", "dropoutr=0:0.5"], ["--dropoutr"]),
    (["--epochs", "2", "--alpha", "-1"], ["--alpha"]), (["--epochs", "2", "--nosuchflag"], ["--nosuchflag"]),
    (["--epochs", "2", "--resume", "a.state.pt"], ["--resume auto"]), (["--epochs", "2", "--save", "."], ["--save"]),
    (["--epochs", "2", "--save", "a" * 230], ["too long"]),
    (["--epochs", "2", "--data", "nowhere"], ["nowhere"])])
def test_bad_input_is_one_line(words, naming, toy, refuse, tmp_path):
    refuse("--data", toy, "--save", tmp_path / "t.pt", *words, naming=naming)
    assert not list(tmp_path.iterdir())


def test_without_optuna_the_package_is_named(toy, refuse, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refuse("--data", toy, "--epochs", 2, naming=["pip install optuna"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", [None, "sqlite:////nowhere/at/all.db", "postgresql+none://u@h/d", "no url"])
def test_a_storage_that_cannot_be_used_is_one_line(url, toy, refuse, tmp_path):
    (tmp_path / "t.search").mkdir()
    (tmp_path / "t.search" / "study.db").write_text("no database" * 200)
    storage = ["--storage", url] if url else []
    refuse("--data", toy, "--epochs", 2, "--save", "t.pt", "--resume", "auto", *storage, naming=[url or "t.search"])


def test_a_search_is_continued_when_asked_to_and_with_its_flags(folder, refuse, toy):
    run(toy=toy, limit=1)
    refuse(*words_of(toy), naming=["holds a search already"])
    refuse(*words_of(toy), "--resume", "auto", "--nhid", 40, naming=["--nhid (not given)", "40"])
    refuse(*words_of(toy), "--resume", "auto", "--epochs", 5, naming=["--epochs 4", "5"])


# ---- searches with the stand-in for main.py

@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to search in, with the stand-in for main.py."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(tune, "MAIN", tmp_path / "stand_in.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words_of(toy, alpha="0:3"):
    return ["--data", str(toy), "--device", "cpu", "--sampler", "random", "--space", f"alpha={alpha}", "--epochs", "4",
            "--min-epochs", "1", "--reduction", "2", "--save", "s.pt"]


def search(toy="toy", limit=8, alpha="0:3", words=()):
    parser = tune.make_parser()
    words = [*words_of(toy, alpha), "--trials", str(limit), "--resume", "auto", *words]
    args = tune.completed(options.parse(parser, words))
    of_main = {name: flag for name, flag in parser.flags.items() if flag not in tune.FLAGS}
    study = tune.open_study(args, "sqlite:///s.search/study.db", parser.flags)
    return tune.Search(study, args, space.parse(args.space, of_main), of_main)


def run(workers=1, **how):
    found = search(**how)
    assert tune.run(found, [None] * workers) is None
    return trials_of(found)


def trials_of(search):
    return {trial.number: trial for trial in search.study.trials}


def check(trials, limit):
    """Every run is there once, has ended as it should, and reported the losses of its settings."""
    assert len(trials) == limit
    for run, trial in trials.items():
        losses = [*trial.intermediate_values.values()]
        assert losses == [(trial.params["alpha"] - 1) ** 2 + 1 / epoch for epoch in range(1, len(losses) + 1)]
        assert trial.state.name == ("COMPLETE" if len(losses) == 4 else "PRUNED")
        done = open(f"s.search/trial-{run:04}.jsonl").read().splitlines()
        assert len(losses) <= len(done) <= 4


def test_successive_halving_prunes_what_falls_behind(folder):
    trials = run(limit=8)
    check(trials, 8)
    assert trials[0].params["alpha"] == 2                          # main.py's own
    epochs = [len(trial.intermediate_values) for trial in trials.values()]
    assert set(epochs) <= {1, 2, 4} and epochs.count(1) >= 2
    best = min(trials.values(), key=lambda trial: (trial.params["alpha"] - 1) ** 2)
    assert len(best.intermediate_values) == 4
    more = run(limit=9)                                            # those that were there stay
    assert len(more) == 9 and all(more[number].params == trials[number].params for number in trials)
    assert len({trial.params["alpha"] for trial in more.values()}) == 9


def test_without_a_pruner_all_are_trained_to_the_end(folder):
    assert {len(trial.intermediate_values) for trial in run(limit=3, words=["--pruner", "none"]).values()} == {4}


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_tpe_finds_better_settings_than_chance(folder, pruner):
    drawn = [trial.params["alpha"] for trial in
             run(limit=25, words=["--sampler", "tpe", "--pruner", pruner]).values()]
    assert sum(abs(alpha - 1) for alpha in drawn[-8:]) / 8 < 0.5 < sum(abs(alpha - 1) for alpha in drawn[1:6]) / 5


def test_a_result_that_is_not_written_is_not_named(folder, monkeypatch, capsys):
    found = search(limit=1)
    tune.run(found, [None])
    for name in "trial-0000.pt", "trial-0000.state.pt":
        (folder / "s.search" / name).touch()
    monkeypatch.setattr(tune.checkpoint, "read", lambda path: {"losses": {"history": [{}] * 4}})
    assert found.leave_best()
    line = capsys.readouterr().out.splitlines()[-1]
    assert "best: trial 0 " in line and line.endswith("model s.pt")


def in_another_process(**how):
    process = multiprocessing.get_context("fork").Process(target=run, kwargs=how)
    process.start()
    return process


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(folder, seed, monkeypatch):
    """SIGKILL of the search and of what it runs: no trial is lost, none is there twice."""
    monkeypatch.setattr(tune, "KILLS", 99)
    draw = random.Random(seed)
    for _ in range(5):
        process = in_another_process(limit=6)
        time.sleep(draw.uniform(0.05, 1.2))
        if draw.random() < 0.5:
            for child in children(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.1)
        process.kill()
        process.join()
    check(run(limit=6), 6)


@pytest.mark.slow
def test_several_processes_share_a_search_and_one_of_them_dies(folder):
    processes = [in_another_process(limit=12, workers=2) for _ in range(3)]
    time.sleep(1.5)
    processes[0].kill()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0]
    check(run(limit=12), 12)


@pytest.mark.slow
def test_trials_that_go_wrong_fail_with_a_reason_and_the_search_goes_on(folder):
    trials = run(limit=10, workers=2, alpha="3:4", words=["--pruner", "none"])
    reasons = {"out of memory": 0, "killed 3 times": 0, "no epoch had a finite": 0}
    for trial in trials.values():
        assert (trial.state.name == "FAIL") == (trial.params["alpha"] > 3.4)
        for reason in reasons:
            reasons[reason] += reason in trial.user_attrs.get("reason", "")
    assert len(trials) == 10 and all(reasons.values())
    assert len({trial.params["alpha"] for trial in trials.values()}) == 10


def test_a_time_limit_stops_and_another_process_goes_on(folder):
    stand_in = folder / "stand_in.py"
    stand_in.write_text(STAND_IN.replace("time.sleep(0.03)", "time.sleep(600)"))
    stopped = search(limit=5, words=["--max-minutes", "0.02"])
    stop = tune.run(stopped, [None, None])
    assert stop.status == 0 and not any(trial.state.is_finished() for trial in stopped.study.trials)
    stand_in.write_text(STAND_IN)
    check(run(limit=5), 5)


def test_a_trial_that_another_worker_has_is_left_to_it(folder):
    """One whose worker is gone is taken at once; the system drops the lock of one that was killed."""
    first, second = search(limit=1), search(limit=1)
    with ExitStack() as held:
        trial, _ = first._next(held)
        assert trial.number == 0
        assert second._next(held) == (None, False)                 # to be waited for
    assert second._next(held)[0].number == 0
    held.close()
    check(run(limit=1), 1)


def test_workers_leave_each_other_their_trials_where_a_file_system_has_no_locks(folder, monkeypatch):
    monkeypatch.setattr(tune, "exclusive", lambda *path, **how: nullcontext())
    check(run(limit=4, workers=3, words=["--pruner", "none"]), 4)


def test_half_a_line_of_a_log_is_no_epoch(tmp_path):
    lines = [json.dumps({"valid_loss": loss}) for loss in (1.5, None, 1.75, 1.25)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, lines[0][:9]]))
    assert tune.losses_of(tmp_path / "a.jsonl") == [1.5, 1.5, 1.5, 1.25]
    assert tune.losses_of(tmp_path / "b.jsonl") == []


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [found["OMP_NUM_THREADS"] for found in tune.environments(3, "cpu")] == ["2"] * 3
    assert "OMP_NUM_THREADS" not in tune.environments(1, "cpu")[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(tune.torch, "cuda", SimpleNamespace(is_available=lambda: True, device_count=lambda: 2))
    assert [found["CUDA_VISIBLE_DEVICES"] for found in tune.environments(3, "auto")] == ["4", "6", "4"]
    assert tune.environments(3, "cpu")[0]["OMP_NUM_THREADS"] == "2"


# ---- as a user runs it

def tune_script(*words, **how):
    return run_script("tune.py", *words, timeout=900, **how)


def trials(folder, name="t"):
    """The trials of a search, by the number of their run."""
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/{name}.search/study.db")
    return {trial.number: trial for trial in study.trials}


def check_against_uninterrupted(folder, toy, run, trial):
    """The weights of a trial that was not pruned are those of main.py, run in one go."""
    values = [word for name, value in trial.params.items() for word in (f"--{name}", value)]
    run_script("main.py", "--data", toy, *FIXED, "--nonmono", "0", *values, "--epochs", len(trial.intermediate_values),
               "--save", "one.pt", cwd=folder)
    assert same_weights(folder / "one.pt", folder / "t.search" / f"trial-{run:04}.pt")
    assert same_weights(folder / "one.state.pt", folder / "t.search" / f"trial-{run:04}.state.pt")


@pytest.mark.slow
def test_a_search_leaves_the_best_trial_as_a_run(toy, tmp_path):
    words = ["--data", toy, *SEARCH, "--epochs", 3, "--min-epochs", 1, "--trials", "4", "--save", "t.pt"]
    out = tune_script(*words, cwd=tmp_path).stdout
    found = trials(tmp_path)
    assert sorted(found) == [0, 1, 2, 3] and {trial.state.name for trial in found.values()} <= {"COMPLETE", "PRUNED"}
    best = min(found, key=lambda run: found[run].value)
    result = json.loads((tmp_path / "t.result.json").read_text())
    assert f"best: trial {best} " in out and result["valid"]["loss"] == pytest.approx(found[best].value, 1e-6)
    check_against_uninterrupted(tmp_path, toy, best, found[best])

    folder = tmp_path / "again"                             # by the command in its result, in another folder
    folder.mkdir()
    subprocess.run([sys.executable, *shlex.split(result["command"])], cwd=folder, check=True, capture_output=True)
    assert same_weights(tmp_path / "t.pt", folder / "t.pt")
    assert json.loads((folder / "t.result.json").read_text())["test"] == result["test"]

    before = (tmp_path / "t.pt").stat().st_mtime_ns
    tune_script(*words, "--resume", "auto", cwd=tmp_path)
    assert trials(tmp_path) == found and (tmp_path / "t.pt").stat().st_mtime_ns == before


def start(*words, cwd):
    log = open(cwd / "output.txt", "a")
    return subprocess.Popen([sys.executable, str(ROOT / "tune.py"), *map(str, words)], cwd=cwd, stdout=log, stderr=log)


@pytest.mark.slow
def test_killed_and_continued_a_trial_is_the_uninterrupted_run(toy, tmp_path):
    words = ["--data", toy, *SEARCH, "--epochs", 4, "--trials", 2, "--save", "t.pt", "--checkpoint-minutes", "0.001",
             "--pruner", "none", "--resume", "auto"]
    for _ in range(2):
        process, states = start(*words, cwd=tmp_path), lambda: {
            path.stat().st_mtime_ns for path in tmp_path.glob("t.search/*.state.pt")}
        before = states()
        while process.poll() is None and states() <= before:
            time.sleep(0.02)
        process.kill()
        process.wait()
    assert start(*words, cwd=tmp_path).wait(300) == 0
    found = trials(tmp_path)
    assert len(found) == 2
    assert {trial.state.name for trial in found.values()} == {"COMPLETE"}
    for run, trial in found.items():
        check_against_uninterrupted(tmp_path, toy, run, trial)


@pytest.mark.slow
def test_two_processes_on_one_study_and_a_ctrl_c(toy, tmp_path):
    words = ["--data", toy, *SEARCH, "--epochs", 3, "--trials", 5, "--save", "t.pt", "--resume", "auto"]
    first, second = (start(*words, cwd=tmp_path) for _ in range(2))
    while not children(first.pid) and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(120) == 130 and second.wait(240) == 0
    assert "to continue" in (tmp_path / "output.txt").read_text()
    assert len(trials(tmp_path)) == 5
    assert {trial.state.name for trial in trials(tmp_path).values()} <= {"COMPLETE", "PRUNED"}


@pytest.mark.slow
def test_where_all_trials_fail_the_reason_is_the_error(toy, tmp_path):
    words = ["--data", toy, *FIXED, "--space", "lr=1e9,1e10", "--trials", 2, "--epochs", 1, "--max-bad-steps", 2]
    error = tune_script(*words, "--save", "t.pt", cwd=tmp_path, status=1).stderr
    assert "all trials failed" in error and "no finite loss" in error and not (tmp_path / "t.pt").exists()
