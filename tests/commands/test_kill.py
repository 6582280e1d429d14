"""Killed with SIGKILL at random moments and continued, a run ends as if it had never been interrupted."""
import json
import os
import random
import sys
import time
from importlib import import_module

import pytest
import torch
from conftest import SERVER, SMALL
from test_scripts import compare

KILLS = 7                                         # of each of the eight kinds of run: more than fifty in all


def child(script, words, folder):
    """What a shell would do, with the output in a file."""
    os.chdir(folder)
    sys.stdout = sys.stderr = open("output.txt", "a")
    sys.argv = [script, *words]
    torch.set_num_threads(1)
    errors, module = import_module("runtime.errors"), import_module(script.removesuffix(".py"))
    errors.run(module.main)


def start(script, words, folder):
    process = SERVER.Process(target=child, args=(script, [str(word) for word in words], str(folder)))
    process.start()
    return process


def finish(script, words, folder):
    """Run to the end -> seconds."""
    began = time.monotonic()
    process = start(script, words, folder)
    process.join(120)
    assert process.exitcode == 0, (folder / "output.txt").read_text()[-2000:]
    return time.monotonic() - began


def stamp(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:      # not yet, or just being put aside for the next one
        return None


@pytest.mark.slow
@pytest.mark.parametrize("script", ["main.py", "finetune.py"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("cutoffs", [[], ["--cutoffs", 8, 20]], ids=["full", "adaptive"])
def test_killed_at_random_moments(script, cell, cutoffs, toy, tmp_path):
    draw = random.Random(f"{script} {cell} {cutoffs}")
    common = ["--data", toy, *SMALL, "--model", cell, *cutoffs, "--dropoute", "0.1", "--dropouti", "0.1",
              "--batch-size", 12, "--nonmono", 0, "--lr", 400, "--checkpoint-minutes", "0.0005"]
    words = [*common, "--epochs", 6]
    if script == "finetune.py":
        for name in ("whole.pt", "parts.pt"):
            finish("main.py", [*common, "--epochs", 1, "--save", name], tmp_path)
        words = ["--epochs", 4, "--nonmono", 9, "--checkpoint-minutes", "0.0005"]
    seconds = finish(script, [*words, "--save", "whole.pt"], tmp_path)

    stage = ".finetuned" if script == "finetune.py" else ""
    words += ["--save", "parts.pt", "--resume", "auto"]
    state = tmp_path / f"parts{stage}.state.pt"
    for _ in range(KILLS):
        before = stamp(state)
        process = start(script, words, tmp_path)
        while stamp(state) == before and process.is_alive():       # until it trains
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1 * seconds))
        process.kill()
        process.join()
        for name in os.listdir(tmp_path):                          # at any moment, what bears a name is whole
            if name.startswith("parts") and name.endswith(".pt"):
                torch.load(tmp_path / name, weights_only=True)
    finish(script, words, tmp_path)

    for suffix in (".state.pt", ".pt"):
        compare(*(torch.load(tmp_path / f"{name}{stage}{suffix}", weights_only=True) for name in ("whole", "parts")))
    whole, parts = ([json.loads(line) for line in (tmp_path / f"{name}{stage}.jsonl").read_text().splitlines()]
                    for name in ("whole", "parts"))
    compare(whole, parts)
    assert whole[-1]["valid_loss_averaged"] is not None            # the switch to averaging was on the way
    assert (tmp_path / "output.txt").read_text().count("| continuing from") >= KILLS // 2
