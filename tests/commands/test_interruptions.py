"""Signals, closed streams, pipes: a run saves and says so, and nothing ends in a traceback."""
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
import torch
from conftest import ROOT, SMALL, run_script, stop_after
from test_scripts import compare, figure

import checkpoint
import evaluate
import main
from runtime import signals
from runtime.errors import InputError
from runtime.processes import resume_command
from training import reports
from training import step as train_step

STREAMS = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def start(*words, cwd, **how):
    return subprocess.Popen([sys.executable, str(ROOT / "main.py"), *map(str, words)], cwd=cwd, **{**STREAMS, **how})


def in_the_middle(folder):
    """Wait for the first state of a run in `folder`."""
    while not (folder / "a.state.pt").exists():
        time.sleep(0.02)


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_run_continues(number, toy, tmp_path):
    process = start("--data", toy, *SMALL, "--epochs", 500, "--save", "a.pt", cwd=tmp_path)
    in_the_middle(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "everything is saved in a.state.pt" in out
    assert ("saving; press Ctrl-C again to give up" in err) == (number == signal.SIGINT)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="asks Linux what a process has loaded")
@pytest.mark.parametrize("delay", [0, 0.1, 0.3, 0.6, 1, 2])
def test_ctrl_c_at_any_moment_and_twice(delay, toy, tmp_path):
    """From the moment on at which torch is being imported; before that it is Python that starts."""
    process = start("--data", toy, *SMALL, "--epochs", 500, "--save", "a.pt", cwd=tmp_path)
    while "libtorch" not in open(f"/proc/{process.pid}/maps").read():
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    time.sleep(0.03)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in err, err


def test_a_reader_that_goes_away_ends_no_run(toy, tmp_path):
    """main.py … | head -1"""
    process = start("--data", toy, *SMALL, "--epochs", 3, "--save", "a.pt", cwd=tmp_path)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0 and process.stderr.read() == ""
    assert (tmp_path / "a.result.json").exists()


@pytest.mark.parametrize("closed", [(1,), (0, 1), (0, 1, 2)])
def test_closed_streams(closed, toy, tmp_path):
    def close():
        for number in closed:
            os.close(number)

    process = start("--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt", cwd=tmp_path, preexec_fn=close,
                    stdout=None, stderr=None if 2 in closed else subprocess.PIPE)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and not err, err
    assert torch.load(tmp_path / "a.pt", weights_only=True)["format"] and (tmp_path / "a.result.json").exists()


def test_scripts_that_only_print_end_quietly(trained, tmp_path):
    words = [sys.executable, str(ROOT / "generate.py"), "--checkpoint", str(trained / "toy.pt"), "--outf", "-",
             "--words", "200000", "--device", "cpu"]
    process = subprocess.Popen(words, cwd=tmp_path, **STREAMS)
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(timeout=120) in (0, 1) and "Traceback" not in process.stderr.read()


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_is_ended_takes_away_what_it_has_begun_to_write(number, trained, tmp_path):
    words = [sys.executable, str(ROOT / "generate.py"), "--checkpoint", str(trained / "toy.pt"), "--words", "9999999",
             "--device", "cpu"]
    process = subprocess.Popen(words, cwd=tmp_path, **STREAMS)
    while "generated 100/" not in process.stderr.readline():
        pass
    assert os.listdir(tmp_path) == ["generated.txt.partial"]
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err and not os.listdir(tmp_path), err


def test_a_device_is_not_replaced(toy, tmp_path):
    """As root, renaming a file over /dev/null would take its place."""
    os.mkfifo(tmp_path / "pipe")
    error = run_script("main.py", "--data", toy, *SMALL, "--save", "pipe", cwd=tmp_path, status=1).stderr
    assert "pipe is not a regular file" in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(("script", "words"), [
    ("generate.py", ["--outf"]), ("bench.py", ["--words", "50", *SMALL[:6], "--runs", "1", "--json"])])
def test_texts_are_written_to_a_device(script, words, trained, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    model = ["--checkpoint", trained / "toy.pt"] if script == "generate.py" else []
    run_script(script, *model, *words, "pipe", cwd=tmp_path)
    assert len(reader.communicate(timeout=60)[0]) > 100 and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("words", [["--epochs", 0], ["--lr", "1e30", "--epochs", 3, "--max-bad-steps", 3]])
def test_a_run_that_fails_leaves_the_names_of_the_one_before(words, toy, tmp_path):
    run_script("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt", cwd=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run_script("main.py", "--data", toy, *SMALL, *words, "--save", "a.pt", cwd=tmp_path, status=1)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_state_of_another_script_leaves_them_too(toy, trained, tmp_path):
    for name in ("toy.pt", "toy.state.pt"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    run_script("finetune.py", "--save", "toy.pt", "--epochs", 1, cwd=tmp_path)
    before = sorted(os.listdir(tmp_path))
    run_script("finetune.py", "--save", "toy.pt", "--resume", "toy.state.pt", cwd=tmp_path, status=1)
    assert before == sorted(os.listdir(tmp_path))


def test_a_fine_tuned_model_of_another_is_not_read(toy, trained, tmp_path, call):
    (tmp_path / "a.pt").write_bytes((trained / "toy.pt").read_bytes())
    call("finetune.py", "--save", "a.pt", "--epochs", 1)
    assert "reading a.finetuned.pt" in call("evaluate.py", "--save", "a.pt", "--split", "test")
    tuned, model = (checkpoint.read(tmp_path / name) for name in ("a.finetuned.pt", "a.pt"))
    assert tuned["settings"][checkpoint.MADE_OF] == model["digest"]
    for contents in tuned, model:
        assert checkpoint.digest({**contents, "digest": None}) == contents["digest"]  # as in older files
    (tmp_path / "other.finetuned.pt").write_bytes((tmp_path / "a.finetuned.pt").read_bytes())
    call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--seed", 7, "--save", "other.pt", "--resume", "auto")
    (tmp_path / "other.finetuned.pt").write_bytes((tmp_path / "a.finetuned.pt").read_bytes())
    said = run_script("evaluate.py", "--save", "other.pt", "--split", "test", cwd=tmp_path)
    assert "reading other.pt" in said.stdout and "fine-tuned from another model" in said.stderr


def same_weights(*paths):
    one, other = ({**contents["model"], **contents["criterion"]} for contents in
                  (torch.load(path, weights_only=True) for path in paths))
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_fine_tuning_that_is_stopped_before_its_first_step_still_keeps_what_it_starts_from(toy, call, tmp_path):
    call("main.py", "--data", toy, *SMALL, "--epochs", 2, "--save", "a.pt", "--no-test")
    words = ["--save", "a.pt", "--lr", 1000, "--epochs", 1, "--resume", "auto"]        # after which it is worse
    said = call("finetune.py", *words, "--max-minutes", 1e-9)
    assert "everything is saved" in said and not (tmp_path / "a.finetuned.pt").exists()
    assert "before the first epoch" in call("finetune.py", *words)
    assert same_weights(tmp_path / "a.pt", tmp_path / "a.finetuned.pt")


def test_fine_tuning_begins_anew_where_its_model_was_trained_on(toy, call, tmp_path):
    words = ["--data", toy, *SMALL, "--save", "a.pt", "--no-test", "--resume", "auto"]
    call("main.py", *words, "--epochs", 1)
    call("finetune.py", "--save", "a.pt", "--epochs", 1)
    old = (tmp_path / "a.finetuned.pt").read_bytes()
    assert "continuing from" in call("finetune.py", "--save", "a.pt", "--epochs", 1, "--resume", "auto")
    call("main.py", *words, "--epochs", 3)
    said = call("finetune.py", "--save", "a.pt", "--epochs", 2, "--resume", "auto")
    assert "a.finetuned.state.pt is of another model than a.pt is now" in said and "continuing from" not in said
    assert checkpoint.made_of(tmp_path / "a.finetuned.pt") == checkpoint.read(tmp_path / "a.pt")["digest"]
    assert (tmp_path / "a.1.finetuned.pt").read_bytes() == old
    call("finetune.py", "--save", "a.pt", "--resume", "a.1.finetuned.state.pt", "--epochs", 2)
    assert checkpoint.made_of(tmp_path / "a.finetuned.pt") == checkpoint.made_of(tmp_path / "a.1.finetuned.pt")


def test_a_run_continued_to_more_epochs_is_the_longer_run(toy, call, tmp_path, monkeypatch):
    """With a test of the text, one that is stopped and without one in between, and across the switch to averaging."""
    words = ["--data", toy, *SMALL, "--nonmono", 1, "--lr", 60, "--resume", "auto"]
    call("main.py", *words, "--epochs", 6, "--save", "whole.pt")
    for epochs, test in (1, ["--no-test"]), (2, []), (4, ["--no-test"]), (6, []):
        call("main.py", *words, "--epochs", epochs, *test, "--save", "parts.pt")
        assert (tmp_path / "parts.result.json").exists() == (not test)
        if epochs == 4:
            with monkeypatch.context() as patch:
                patch.setattr(reports, "evaluate", lambda model, *rest: stop_after(1)(model))
                assert "stopped by the test; everything is saved" in call(
                    "main.py", *words, "--epochs", epochs, "--save", "parts.pt")
    assert same_weights(tmp_path / "whole.pt", tmp_path / "parts.pt")
    states = [torch.load(tmp_path / f"{name}.state.pt", weights_only=True) for name in ("whole", "parts")]
    assert states[0]["progress"]["switch_epoch"]
    assert same_weights(tmp_path / "whole.state.pt", tmp_path / "parts.state.pt")
    assert torch.equal(*(state["generators"]["cpu"] for state in states))
    results = [json.loads((tmp_path / f"{name}.result.json").read_text()) for name in ("whole", "parts")]
    assert results[0]["test"] == results[1]["test"]


@pytest.mark.parametrize("words", [["--save", "a.1.pt", "--resume", "auto"], ["--save", "b.pt", "--resume", "a.1.pt"],
                                   ["--save", "a.pt", "--resume", "a.1.state.pt"]])
def test_a_run_that_another_took_the_name_of_is_continued_with_its_own_best_model(words, toy, call, tmp_path):
    common = ["--data", toy, *SMALL, "--epochs", 2, "--save", "a.pt"]
    call("main.py", *common)
    first = (tmp_path / "a.pt").read_bytes()
    call("main.py", *common, "--seed", 7)
    second = (tmp_path / "a.pt").read_bytes()
    said = call("main.py", *words, "--no-test")
    assert "continuing from a.1.state.pt" in said
    assert (tmp_path / words[1]).read_bytes() == (tmp_path / "a.1.pt").read_bytes() == first
    assert (tmp_path / ("a.2.pt" if words[1] == "a.pt" else "a.pt")).read_bytes() == second


@pytest.mark.parametrize("words", [["evaluate.py", "--checkpoint", "žluť.pt", "--split", "test"],
                                   ["evaluate.py", "--checkpoint", "none/žluť.pt"],
                                   ["generate.py", "--checkpoint", "žluť.pt", "--words", 3, "--prompt", "žluť"]])
def test_a_terminal_without_the_letters_of_a_path(words, trained, tmp_path):
    """An ASCII one shows them as escapes; what was asked for is done."""
    shutil.copy(trained / "toy.pt", tmp_path / "žluť.pt")
    fails = "--split" not in words
    done = run_script(*words, "--device", "cpu", cwd=tmp_path, status=int(fails),
                      env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert "\\u017elu\\u0165" in done.stdout + done.stderr


def test_results_for_a_standard_output_that_is_no_file(trained, monkeypatch):
    """As in notebooks, whose standard output has no file number: rows go there and the log to stderr."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    evaluate.main(["--checkpoint", str(trained / "toy.pt"), "--split", "test", "--per-sentence", "-"])
    heading, *rows = out.getvalue().splitlines()
    assert "perplexity" in heading.split("\t") and len(rows) == 60 and "| reading" in err.getvalue()


def read(path):
    return torch.load(path, weights_only=True)


def test_stopping_within_two_batches_and_going_on(toy, call, tmp_path, monkeypatch):
    common = ["--data", toy, *SMALL, "--epochs", 2]
    call("main.py", *common, "--save", "whole.pt")
    real, steps = train_step.TrainStep.__call__, []

    def step(self, *args):
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(train_step.TrainStep, "__call__", step)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["main.py"])
    assert main.main([str(word) for word in [*common, "--save", "parts.pt"]]) == 128 + signal.SIGTERM
    assert len(steps) <= 6 and read(tmp_path / "parts.state.pt")["progress"]["batch"] == len(steps)
    call("main.py", "--save", "parts.pt", "--resume", "auto", "--log-interval", 10)  # other flags come from the state
    for name in (".pt", ".state.pt"):
        compare(read(tmp_path / f"whole{name}"), read(tmp_path / f"parts{name}"))


def test_a_time_limit(toy, call, tmp_path):
    said = call("main.py", "--data", toy, *SMALL, "--epochs", 2, "--save", "a.pt", "--max-minutes", "0.0001")
    assert "stopped after 0.0001 minutes" in said and "--resume auto" in said
    assert "End of training" in call("main.py", "--save", "a.pt", "--resume", "auto")
    said = call("main.py", "--save", "a.pt", "--resume", "auto")
    assert "continuing from a.state.pt: its training has ended" in said and "end of epoch" not in said


def test_the_cache_pointer_goes_on_too(trained, toy, call, tmp_path):
    common = ["--checkpoint", trained / "toy.pt", "--window", 50, "--bptt", 20]
    whole = call("pointer.py", *common)
    stopped = call("pointer.py", *common, "--max-minutes", "0.00001")
    assert "stopped after" in stopped and "End of pointer" not in stopped
    files = [path for path in trained.iterdir() if "pointer" in path.name]
    assert len(files) == 1 and "takes its place" not in stopped
    assert "this run takes its place" in call("pointer.py", *common, "--max-minutes", "0.00001")
    going_on = call("pointer.py", *common, "--resume", "auto")
    assert "continuing from" in going_on and going_on.splitlines()[-1] == whole.splitlines()[-1]
    assert [figure(going_on, split) for split in ("valid", "test")] == [figure(whole, s) for s in ("valid", "test")]
    assert not files[0].exists()


def test_a_pass_over_a_text_that_begins_with_another_word_is_not_continued(trained, toy, call, tmp_path, monkeypatch):
    """The first word is no target, but all that follows was read after it."""
    data = shutil.copytree(toy, tmp_path / "data")
    model = shutil.copy(trained / "toy.pt", tmp_path / "a.pt")
    words = ["--checkpoint", model, "--data", data, "--bptt", 20]
    with monkeypatch.context() as patch:
        patch.setattr(signals.Interruption, "check", stop_after(5))
        assert "to continue" in call("pointer.py", *words)
    first, rest = (data / "valid.txt").read_text().split(" ", 1)
    (data / "valid.txt").write_text(f"{'w1' if first != 'w1' else 'w2'} {rest}")
    with pytest.raises(InputError, match="of another text; leave --resume out"):
        call("pointer.py", *words, "--resume", "auto")


@pytest.mark.parametrize("script", ["main.py", "pointer.py"])
def test_a_state_that_is_not_there(script, trained, toy, call):
    with pytest.raises(InputError, match=r"^no\.state\.pt: there is no such state to continue; --resume auto"):
        call(script, "--data", toy, "--save", trained / "toy.pt", "--resume", "no.state.pt")


def test_two_runs_under_one_name(toy, tmp_path):
    command = [sys.executable, "-u", str(ROOT / "main.py"), "--data", str(toy), *SMALL, "--epochs", "500",
               "--save", "a.pt"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        while "epoch   2" not in first.stdout.readline():
            pass
        second = run_script("main.py", *command[3:], cwd=tmp_path, status=1)
        assert f"process {first.pid}" in second.stderr and second.stderr.count("\n") == 1
    finally:
        first.kill()
        first.wait()
    assert (tmp_path / "a.lock").exists()           # left by the dead process, and in nobody's way
    going_on = run_script("main.py", "--resume", "auto", "--save", "a.pt", "--max-minutes", "0.0001", cwd=tmp_path)
    assert "continuing from a.state." in going_on.stdout


def test_a_run_waits_while_the_one_before_it_saves_and_continues_from_that(toy, call, tmp_path):
    words, state = ["--data", toy, *SMALL, "--save", "a.pt", "--resume", "auto", "--no-test"], tmp_path / "a.state.pt"
    call("main.py", *words, "--epochs", 1)
    old = state.read_bytes()
    call("main.py", *words, "--epochs", 2)
    state.rename(tmp_path / "new")
    state.write_bytes(old)
    with ExitStack() as held:
        held.enter_context(signals.exclusive(tmp_path / "a.lock"))
        def save_and_end():
            time.sleep(0.3)
            (tmp_path / "new").rename(state)
            held.close()
        saving = threading.Thread(target=save_and_end)
        saving.start()
        said = call("main.py", *words, "--epochs", 3)
        saving.join()
    assert "waiting 10 s" in said and "continuing from a.state.pt: epoch 3," in said


def test_a_clock_set_back(toy, call, tmp_path, monkeypatch):
    call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    call("main.py", "--epochs", 2, "--save", "a.pt", "--resume", "auto", "--checkpoint-minutes", "0.0005")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and all(line["seconds"] > 0 for line in lines)


def test_the_command_that_continues_is_one_a_shell_understands(monkeypatch):
    monkeypatch.setattr("sys.argv", ["a folder/main.py", "--save", "it's; rm -rf $HOME.pt", "--resu", "x.pt",
                                     "--epoch", "3"])
    words = shlex.split(resume_command())
    assert words == [sys.executable, "a folder/main.py", "--save", "it's; rm -rf $HOME.pt", "--epoch", "3",
                     "--resume", "auto"]
    assert re.search(r"'it'\"'\"'s; rm", resume_command())
    monkeypatch.setattr("sys.argv", ["ensemble.py", "--resume", "x.pt", "--", "-a.pt", "--resume"])
    assert resume_command().endswith(" ensemble.py --resume auto -- -a.pt --resume")
