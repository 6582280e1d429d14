"""The scripts that time steps: that they run, and that what they compare is the same model. No time is asserted."""
import json
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL, run_script

TINY = ["--words", 50, *SMALL, "--runs", 2, "--json", "figures.json"]


@pytest.mark.parametrize("words", [
    ["--against", "plain"], ["--process-group"], ["--against", "plain", "--model", "GRU"]], ids=" ".join)
def test_a_step_is_timed(words, tmp_path):
    out = run_script("bench.py", *TINY, *words, cwd=tmp_path).stdout
    names = ["training step", *({"plain training step"} if "plain" in words else ()),
             *({"step with collectives"} if "--process-group" in words else ())]
    assert all(name in out for name in names)
    assert json.loads((tmp_path / "figures.json").read_text())


def test_bytes_between_two_processes(tmp_path):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                           str(ROOT / "results/traffic.py"), "--words", "50", *SMALL, "--batch-size", "4", "--json",
                           "traffic.json"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "traffic.json").read_text())
