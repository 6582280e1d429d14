"""The position in the training text."""
import json

import pytest
import torch
from conftest import SMALL, run_script

from training.partial_shuffle import offsets
from training.reader import TextReader


def test_reading_on_where_a_pass_ends():
    """Streams of 14,524 tokens, windows of 70: passes have their first boundaries at 0, 36, 2, 38 (Melis et al.)."""
    length, starts = 14_524, offsets(14_524, 2, 5, 0)
    streams = torch.arange(length)[:, None].expand(length, 2)                      # a token is its place
    reader = TextReader(streams, lambda bsz: [torch.zeros(1, bsz, 1)], 2, slice(0, 2), 5, read_on=True)
    reader.hidden[0] += 1
    first, expected = {}, starts
    for _ in range(4 * length // 70):
        data, targets = reader.read(70)
        first.setdefault(reader.times_read, reader.row - 70)
        assert data.shape == (70, 2) and torch.equal(data[0], expected % length)
        assert torch.equal(targets.view(70, 2), (data + 1) % length)
        expected = expected + 70
    assert list(first.values()) == [0, 36, 2, 38]
    assert reader.hidden[0].all()                                                  # never reset


@pytest.mark.parametrize("turns", [[], ["--turn-steps", 40]], ids=["epochs", "turns"])
def test_reading_on_is_continued_exactly(turns, toy, tmp_path):
    words = ["--data", toy, *SMALL, "--read-on", "--state-drop", 0.1, "--epochs", 4, *turns]
    run_script("main.py", *words, "--save", "one.pt", cwd=tmp_path)
    run_script("main.py", *words, "--save", "parts.pt", "--max-minutes", 1e-4, cwd=tmp_path)
    for _ in range(3):
        run_script("main.py", *words, "--save", "parts.pt", "--max-minutes", 0.004, "--resume", "auto", cwd=tmp_path)
    run_script("main.py", *words, "--save", "parts.pt", "--resume", "auto", cwd=tmp_path)
    one, parts = ([json.loads(line)["valid_loss"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
                  for name in ("one", "parts"))
    assert one == parts and len(one) == 4


def test_two_ways_to_begin(toy, tmp_path):
    done = run_script("main.py", "--data", toy, *SMALL, "--read-on", "--partial-shuffle", cwd=tmp_path, status=1)
    assert "leave one of them out" in done.stderr
