"""Options of training: killed with SIGKILL in mid-epoch and continued, a run ends the same; then it is fine-tuned.

And models that are saved after so many words.
"""
import json
import os
import signal

import pytest
import torch
from conftest import SERVER, SMALL
from test_kill import child, finish
from test_scripts import compare

import checkpoint
import main
from runtime.signals import Stop
from training.run import Run
from training.state import CheckpointManager

ADAM = ["--beta1", 0, "--lr", 0.01]
# Flags of main.py, and those that finetune.py has, too.
OPTIONS = {
    "partial shuffle, past decode": (["--cutoffs", 8, 20], ["--partial-shuffle", "--pdr", 0.1]),
    "turns of Adam, divided": (["--optimizer", "adam", *ADAM, "--on-stall", "divide", "--patience", 2],
                               ["--turn-steps", 9, "--epochs", 6]),
    "averaged Adam": (["--optimizer", "averaged-adam", *ADAM, "--average-from", 1], []),
    "adabelief": (["--optimizer", "adabelief", "--lr", 0.01], []),
}


def read(path):
    """A checkpoint without the one setting in which the runs differ."""
    contents = torch.load(path, weights_only=True)
    del contents["settings"]["checkpoint_minutes"]
    return contents


def killed_in_mid_epoch(script, words, folder):
    """A process that is killed when it has saved its third state in the middle of an epoch that is not the first."""
    save, saved = CheckpointManager.save_state, []

    def save_state(self, contents):
        written = save(self, contents)
        saved.extend([written] * bool(contents["losses"]["history"] and contents["progress"]["batch"]))
        if len(saved) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return written
    CheckpointManager.save_state = save_state
    child(script, words, folder)


@pytest.mark.parametrize("option", [pytest.param(option, marks=pytest.mark.slow if i else ()) for i, option in
                                    enumerate(OPTIONS)])
def test_killed_in_mid_epoch(option, toy, tmp_path):
    own, shared = OPTIONS[option]
    runs = [("main.py", "", ["--data", toy, *SMALL, "--batch-size", 12, "--epochs", 3, *own, *shared])]
    if shared:
        runs.append(("finetune.py", ".finetuned", ["--lr", 4, "--epochs", 3, *shared]))
    for script, stage, words in runs:
        finish(script, [*words, "--save", "whole.pt"], tmp_path)
        words = [*words, "--save", "parts.pt", "--resume", "auto"]
        process = SERVER.Process(target=killed_in_mid_epoch, args=(
            script, [*map(str, words), "--checkpoint-minutes", "1e-6"], tmp_path))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "output.txt").read_text()[-2000:]
        finish(script, words, tmp_path)
        for suffix in (f"{stage}.state.pt", f"{stage}.pt"):
            compare(read(tmp_path / f"whole{suffix}"), read(tmp_path / f"parts{suffix}"))
        histories = [[json.loads(line) for line in (tmp_path / f"{name}{stage}.jsonl").read_text().splitlines()]
                     for name in ("whole", "parts")]
        for epoch in (*histories[0], *histories[1]):
            del epoch["settings"]["checkpoint_minutes"]
        compare(*histories)
    assert (tmp_path / "output.txt").read_text().count("| continuing from") == len(runs)


# ---- --save-at-words

@pytest.mark.parametrize(("lines", "words_read"), [(101, 1004), (100, 996)])
def test_a_model_saved_at_words_is_the_model_of_that_step(lines, words_read, tmp_path, call):
    """The 1,000th word is read in the last step of the only epoch, or almost: the model of that epoch and that of 1,000
    words are one. They are not when the run goes on."""
    text = "".join(" ".join(f"w{(3 * i + j) % 17}" for j in range(10)) + "\n" for i in range(lines))
    (tmp_path / "data").mkdir()
    for split in "train", "valid", "test":
        (tmp_path / "data" / f"{split}.txt").write_text(text)
    words = ["--data", "data", *SMALL, "--no-variable-bptt", "--save", "m.pt", "--save-at-words", "2K", "1000", "1K"]
    call("main.py", *words, "--epochs", 1)
    best, found = (checkpoint.load(tmp_path / name) for name in ("m.pt", "m.1K.pt"))
    compare(best["model"], found["model"])
    assert checkpoint.words_seen(found) == checkpoint.words_seen(best) == words_read
    assert not (tmp_path / "m.2K.pt").exists()

    call("main.py", *words, "--epochs", 2, "--resume", "auto")
    assert checkpoint.words_seen(checkpoint.load(tmp_path / "m.2K.pt")) == 2 * words_read
    assert 1000 <= checkpoint.words_seen(checkpoint.load(tmp_path / "m.1K.pt")) <= 1044        # a step is 43 words
    call("export.py", "--checkpoint", "m.2K.pt", "--to", "fastai", "out", "--tag")
    assert (tmp_path / "out" / "chck_2K").exists()


@pytest.mark.parametrize("optimizer", [
    ["--average-from", 1], ["--optimizer", "adam", "--lr", 0.01, "--turn-steps", 30]], ids=["averaged", "turns"])
def test_a_stopped_run_saves_the_same_models_at_words(optimizer, toy, tmp_path, call, monkeypatch):
    words = ["--data", toy, *SMALL, *optimizer, "--epochs", 3, "--save-at-words", "1K", "2K", "3K", "10K"]
    call("main.py", *words, "--save", "whole.pt")
    pause, pauses = Run._pause, []

    def stop(run):
        pauses.append(run)
        pause(run)
        if len(pauses) == 40:
            raise Stop("stopped by the test", 0)

    monkeypatch.setattr(Run, "_pause", stop)
    call("main.py", *words, "--save", "parts.pt")
    monkeypatch.setattr(Run, "_pause", pause)
    before = {path.name for path in tmp_path.glob("parts.*K.pt")}
    call("main.py", "--save", "parts.pt", "--resume", "auto", "--device", "cpu")       # the flag is the state's
    names = [path.name for path in tmp_path.glob("whole.*K.pt")]
    assert before and len(before) < len(names)
    for name in names:
        whole, parts = (checkpoint.load(tmp_path / each) for each in (name, name.replace("whole", "parts")))
        compare(*({key: contents[key] for key in ("model", "losses", "digest")} for contents in (whole, parts)))

    call("main.py", *words[:-5], "--epochs", 1, "--save", "parts.pt")                  # another run: they make room
    assert {path.name for path in tmp_path.glob("parts.*K.pt")} == {name.replace("whole", "parts.1") for name in names}


@pytest.mark.parametrize("words", ["1", "1500", "0K", "K", "1.5M", "1m", ""])
def test_words_to_save_at_are_thousands(words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main.main(["--save-at-words", words])
    assert "such as 500K or 10M" in capsys.readouterr().err
