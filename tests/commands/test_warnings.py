"""Flags without effect, unknown words, ends of grids: what is said of them, and by one process of several."""
import re
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL, run_script


@pytest.mark.parametrize(("words", "says"), [
    (["--optimizer", "adam", "--on-stall", "average"], "--on-stall average"),
    (["--momentum", 0.9, 0.8], "--momentum has no effect without --one-cycle")])
def test_flags_that_contradict_are_refused(words, says, toy, tmp_path):
    error = run_script("main.py", "--data", toy, *SMALL, *words, cwd=tmp_path, status=1).stderr
    assert says in error and error.count("\n") == 1


def test_a_cycle_that_is_cut_short_is_named(toy, call):
    said = call("main.py", "--data", toy, *SMALL, "--optimizer", "adam", "--lr", 0.01, "--one-cycle", 1, 1, 1, 1,
                "--epochs", 2)
    assert "WARNING: --one-cycle takes 4 epochs, --epochs 2 ends before its end" in said
    assert "| epochs 2," in call("main.py", "--resume", "auto")         # continued, it ends there, too


def test_one_temperature(trained, tmp_path):
    error = run_script("evaluate.py", "--save", trained / "toy.pt", "--temperature", 0.9, "--search-temperature",
                       cwd=tmp_path, status=1).stderr
    assert "--search-temperature" in error


def test_cutoffs_beyond_the_vocabulary_are_named(toy, call):
    said = call("main.py", "--data", toy, *SMALL, "--cutoffs", 10, 5000, "--epochs", 1)
    assert "WARNING: --cutoffs 5000 have no effect: the vocabulary has 31 words" in said


def test_an_unk_that_is_never_trained_is_named(toy, call, tmp_path):
    assert "it is never trained" in call("main.py", "--data", toy, *SMALL, "--vocab", "train", "--epochs", 1)
    call("finetune.py", "--epochs", 1)
    (tmp_path / "a.txt").write_text("w1 cat\n")
    for model in "model.pt", "model.finetuned.pt":
        done = run_script("evaluate.py", "--checkpoint", model, "--text", "a.txt", cwd=tmp_path)
        assert "the model saw no <unk> in training" in done.stderr


def test_an_unk_in_a_split_is_named_too_where_it_was_never_trained(toy, call, tmp_path):
    (tmp_path / "corpus").mkdir()
    for split in "train", "valid", "test":
        (tmp_path / "corpus" / f"{split}.txt").write_text((toy / f"{split}.txt").read_text() + "w1 w2\n")
    with open(tmp_path / "corpus" / "test.txt", "a") as text:
        text.write("w1 cat\n")
    call("main.py", "--data", "corpus", *SMALL, "--vocab", "train", "--epochs", 1)
    assert "saw no <unk> in training" in run_script("evaluate.py", "--split", "test", cwd=tmp_path).stderr
    with open(tmp_path / "corpus" / "train.txt", "a") as text:
        text.write("w1 <unk>\n")
    call("main.py", "--data", "corpus", *SMALL, "--vocab", "train", "--epochs", 1)
    said = run_script("evaluate.py", "--split", "test", cwd=tmp_path).stderr
    assert "are <unk>" in said and "saw no" not in said


def test_the_best_at_the_end_of_a_grid_is_named(trained, call, monkeypatch, tmp_path):
    import dynamiceval
    from evaluation import neural_cache
    (tmp_path / "a.pt").write_bytes((trained / "toy.pt").read_bytes())
    monkeypatch.setattr(neural_cache, "THETAS", (0.1, 0.2))
    said = call("pointer.py", "--save", "a.pt", "--window", 50, "--search")
    assert re.search(r"WARNING: theta 0\.[12] is the (first|last) of its grid", said)
    monkeypatch.setattr(dynamiceval, "FACTORS", (1, 2))
    said = call("dynamiceval.py", "--save", "a.pt", "--rule", "sgd", "--search", "--search-tokens", 50, "--split",
                "valid", "--bptt", 20)
    assert re.search(r"WARNING: lr [\d.]+ is the (first|last) of its grid", said)


@pytest.mark.parametrize("words", [["--nonsense"], ["--lr", "-1"], ["--data", "nowhere"]])
def test_one_process_of_several_speaks(words, tmp_path):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           str(ROOT / "main.py"), *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("main.py: error:") == 1


def test_a_path_that_does_not_exist_is_no_matter_of_permissions(trained, tmp_path):
    done = run_script("evaluate.py", "--checkpoint", trained / "toy.pt", "--text", "nothing.txt", cwd=tmp_path,
                      status=1)
    assert "No such file" in done.stderr and "permissions" not in done.stderr
