"""Losses that are not finite: the run ends with advice, and the last good state is kept."""
import re
import shlex

from conftest import SMALL, run_script

import main


def test_losses_that_are_not_finite_end_the_run_with_advice(toy, tmp_path):
    done = run_script("main.py", "--data", toy, *SMALL, "--epochs", 2, "--lr", "1e30", "--max-bad-steps", 4,
                      "--save", "a.pt", cwd=tmp_path, status=1)
    assert "4 steps in a row" in done.stderr and "--lr (now 1e+30)" in done.stderr and "--clip" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "a.state.pt").exists()


def test_the_last_good_state_outlives_a_divergence(toy, call, tmp_path, monkeypatch):
    call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt")
    good = (tmp_path / "a.state.pt").read_bytes()
    monkeypatch.setattr("sys.argv", ["main.py"])
    assert main.main(["--epochs", "2", "--lr", "1e30", "--max-bad-steps", "4", "--save", "a.pt",
                      "--resume", "auto"]) == 1
    assert (tmp_path / "a.state.pt").read_bytes() == good
    assert "End of training" in call("main.py", "--epochs", 2, "--lr", 1, "--save", "a.pt", "--resume", "auto")


def test_a_divergence_offers_a_command_that_does_not_diverge_again(toy, tmp_path):
    run_script("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt", cwd=tmp_path)
    words = ["--data", toy, *SMALL, "--epochs", 3, "--max-bad-steps", 3, "--save", "a.pt", "--resume", "auto"]
    done = run_script("main.py", *words, "--lr", "1e30", cwd=tmp_path, status=1)
    assert "the last good state is in a.state.pt" in done.stdout and "is kept" not in done.stdout
    command = shlex.split(re.search(r"with a lower rate: (.*)", done.stdout)[1])
    assert float(command[command.index("--lr", command.index("--save")) + 1]) < 1e30 and "1e30" not in command
    assert command[-2:] == ["--resume", "auto"]
    done = run_script("main.py", "--data", toy, *SMALL, "--lr", "1e30", "--max-bad-steps", 3, "--save", "b.pt",
                      cwd=tmp_path, status=1)
    assert "no state is saved" in done.stdout
    assert "--resume" not in re.search(r"with a lower rate: (.*)", done.stdout)[1]
