"""bench.py runs, and what it compares is the same model. No time is asserted."""
import json

import pytest
from conftest import SMALL, run_script

import bench
from runtime.errors import InputError

TINY = ["--words", 50, *SMALL, "--runs", 2, "--json", "figures.json"]


@pytest.mark.parametrize("words", [
    ["--against", "plain"], ["--process-group"], ["--against", "plain", "--model", "GRU"]], ids=" ".join)
def test_a_step_is_timed(words, tmp_path):
    out = run_script("bench.py", *TINY, *words, cwd=tmp_path).stdout
    names = ["training step", *({"plain training step"} if "plain" in words else ()),
             *({"step with collectives"} if "--process-group" in words else ())]
    assert all(name in out for name in names)
    assert json.loads((tmp_path / "figures.json").read_text())


@pytest.mark.parametrize("words", [["--folder", "nowhere"], ["--json", "nowhere/figures.json"]], ids=" ".join)
def test_what_cannot_be_written_is_said_before_the_timing(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "new_model", None)
    with pytest.raises((OSError, InputError), match="nowhere"):
        bench.main([*map(str, TINY), *words])
