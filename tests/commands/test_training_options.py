"""Options of training: killed with SIGKILL in mid-epoch and continued, a run ends the same; then it is fine-tuned."""
import json
import time
from contextlib import suppress

import pytest
import torch
from conftest import SMALL
from test_kill import finish, start
from test_scripts import compare

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


def kill_in_mid_epoch(script, words, state, folder):
    """Start a run, and kill it once it has saved a state in the middle of its second epoch or later."""
    process = start(script, [*words, "--checkpoint-minutes", "0.001"], folder)
    found = None
    while not (found and found["losses"]["history"] and found["progress"]["batch"]):
        assert process.is_alive(), (folder / "output.txt").read_text()[-2000:]
        time.sleep(0.03)
        with suppress(FileNotFoundError):                          # not yet, or just being put aside for the next one
            found = torch.load(state, weights_only=True)
    process.kill()
    process.join()


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
        kill_in_mid_epoch(script, words, tmp_path / f"parts{stage}.state.pt", tmp_path)
        finish(script, words, tmp_path)
        for suffix in (f"{stage}.state.pt", f"{stage}.pt"):
            compare(read(tmp_path / f"whole{suffix}"), read(tmp_path / f"parts{suffix}"))
        histories = [[json.loads(line) for line in (tmp_path / f"{name}{stage}.jsonl").read_text().splitlines()]
                     for name in ("whole", "parts")]
        for epoch in (*histories[0], *histories[1]):
            del epoch["settings"]["checkpoint_minutes"]
        compare(*histories)
    assert (tmp_path / "output.txt").read_text().count("| continuing from") == len(runs)
