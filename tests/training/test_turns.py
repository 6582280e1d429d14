"""Turns of so many steps in an epoch's place, and what follows when they bring no progress."""
import json

import pytest
import torch
from conftest import SMALL, run_script

import training.reader
from evaluation.stalling import has_no_new_best
from training.progress import Progress
from training.settings import TrainingConfig


def history(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("losses", "patience", "since", "stalled"), [
    ([3, 2, 1], 1, 0, False), ([3, 2, 2], 1, 0, True), ([3, 2, 2.5], 2, 0, False), ([3, 2, 2.5, 2.1], 2, 0, True),
    ([3, 2, 2.5, 1.9], 2, 0, False), ([1, 2, 3, 4], 3, 0, True), ([1, 2, 3, 4], 3, 2, False), ([5], 1, 0, False),
    ([1, 2, 3, 4, 5], 3, 2, True), ([2, 3, 1, 4, 5], 3, 1, False)])
def test_no_new_best(losses, patience, since, stalled):
    assert has_no_new_best(losses, patience, since) == stalled


def test_turns_read_the_text_as_epochs_do(toy, call, tmp_path, monkeypatch):
    """Turns of 7 steps, with a validation after each, train the weights that epochs train; the text goes on."""
    words = ["--data", toy, *SMALL, "--batch-size", 12, "--partial-shuffle", "--save"]
    windows, get_batch = [], training.reader.get_batch
    monkeypatch.setattr(training.reader, "get_batch", lambda *given: windows.append(get_batch(*given)) or windows[-1])
    call("main.py", *words, "epochs.pt", "--epochs", 2)
    read = windows[:]
    windows.clear()
    turns, left = divmod(len(read), 7)
    said = call("main.py", *words, "turns.pt", "--epochs", turns, "--turn-steps", 7)
    assert f"| end of turn {turns:3d} |" in said and "epoch" not in said
    assert [line["epoch"] for line in history(tmp_path, "turns")] == list(range(1, turns + 1))
    call("main.py", *words, "turns.pt", "--epochs", turns + left, "--turn-steps", 1, "--resume", "auto")
    assert len(windows) == len(read)
    assert all(torch.equal(a, b) for pair in zip(read, windows) for a, b in zip(*pair))
    epochs, others = (torch.load(tmp_path / f"{name}.state.pt", weights_only=True) for name in ("epochs", "turns"))
    assert others["progress"]["times_read"] == 1 and others["progress"]["row"] == others["progress"]["rows"] - 1
    assert all(torch.equal(tensor, others["model"][name]) for name, tensor in epochs["model"].items())


@pytest.mark.parametrize(("words", "divisor"), [(["--on-stall", "divide", "--stall-divisor", 4], 4),
                                                (["--on-stall", "divide"], 10), (["--on-stall", "halve"], 2)])
def test_the_rate_follows_the_rule(words, divisor, toy, call, tmp_path):
    """Worked out again from the losses: divided after 2 turns without a new best, counted from the last time."""
    call("main.py", "--data", toy, *SMALL, "--lr", 40, "--turn-steps", 3, "--patience", 2, *words, "--epochs", 40,
         "--save", "m.pt")
    rate, best, since, divided = 40, float("inf"), 0, 0
    for turn in history(tmp_path, "m"):
        assert turn["lr"] == pytest.approx(rate)
        best, since = (turn["valid_loss"], 0) if turn["valid_loss"] < best else (best, since + 1)
        if since >= 2:
            rate, since, divided = rate / divisor, 0, divided + 1
    assert divided >= 2


def test_averaging_starts_at_the_latest_after(toy, call, tmp_path):
    words = ["--data", toy, *SMALL, "--turn-steps", 5, "--epochs", 6, "--average-from", 3, "--patience", 50]
    for optimizer in (["--lr", 4], ["--optimizer", "averaged-adam", "--lr", 0.01, "--beta1", 0]):
        said = call("main.py", *words, *optimizer, "--save", "m.pt")
        assert said.count("averaging starts: after turn 3 at the latest") == 1
        assert [turn["valid_loss_averaged"] is not None for turn in history(tmp_path, "m")] == [False] * 3 + [True] * 3
    said = call("main.py", *words, "--lr", 900, "--patience", 1, "--save", "m.pt")
    assert "averaging starts: no new best for 1 turn" in said and "at the latest" not in said


def test_stalled_by_an_epoch_at_the_latest(toy, tmp_path):
    """The rate falls after the epoch given; not where it has fallen before."""
    run_script("main.py", "--data", toy, *SMALL, "--optimizer", "adam", "--lr", 1e-3, "--epochs", 5, "--stall-by", 3,
               "--on-stall", "divide", "--patience", 50, "--save", "m.pt", cwd=tmp_path)
    assert [epoch["lr"] for epoch in history(tmp_path, "m")] == pytest.approx([1e-3] * 3 + [1e-4] * 2)
    progress = Progress(TrainingConfig(patience=50))
    progress.history = [{"valid_loss": 1.0}] * 3
    for before, stalled in (0, True), (2, False):
        progress.stall_epoch = before
        assert progress.stalled(3) is stalled
