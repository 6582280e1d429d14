"""Full and read-only disks, a damaged state, memory or a GPU that gives out: nothing is lost."""
import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL, run_script
from test_scripts import compare

import checkpoint
from model import RNNModel
from nt_asgd import NTASGD
from runtime import record
from training import step as train_step
from training.compose import compose
from utils import flat_hidden, get_batch


def read(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def failing_disk(monkeypatch):
    """`failing_disk(n)`: the next n saves fail half-way, as on a full disk."""
    left = [0]
    real = torch.save

    def save(contents, file):
        if left[0]:
            left[0] -= 1
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        return real(contents, file)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    return lambda n: left.__setitem__(0, n)


def test_a_disk_that_is_full_for_a_while(toy, call, failing_disk, tmp_path):
    common = ["--data", toy, *SMALL, "--epochs", 3]
    call("main.py", *common, "--save", "whole.pt")
    failing_disk(3)                                # the first epoch's model and state, and the second's model
    said = call("main.py", *common, "--save", "parts.pt")
    assert said.count("No space left on device") == 3 and "will be tried again" in said
    compare(read(tmp_path / "whole.pt"), read(tmp_path / "parts.pt"))
    compare(read(tmp_path / "whole.state.pt"), read(tmp_path / "parts.state.pt"))
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_leaves_the_old_files(toy, call, failing_disk, tmp_path, capsys):
    call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt")
    old = {name: (tmp_path / name).read_bytes() for name in ("a.pt", "a.state.pt")}
    failing_disk(99)
    with pytest.raises(AssertionError):            # its status is not 0: the best model is not saved
        call("main.py", "--epochs", 3, "--resume", "auto", "--save", "a.pt")
    done = capsys.readouterr()
    assert "End of training" in done.out and "could NOT be saved" in done.err
    assert old == {name: (tmp_path / name).read_bytes() for name in old}
    failing_disk(0)
    call("main.py", "--epochs", 3, "--resume", "auto", "--save", "a.pt")
    assert len(read(tmp_path / "a.state.pt")["losses"]["history"]) == 3


def test_a_full_disk_leaves_log_and_result_of_the_run_that_is_continued(toy, call, tmp_path, monkeypatch):
    call("main.py", "--data", toy, *SMALL, "--epochs", 2, "--save", "a.pt")
    before = [(tmp_path / name).read_bytes() for name in ("a.jsonl", "a.result.json")]

    def full(contents):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "finite", full)
    said = call("main.py", "--save", "a.pt", "--resume", "auto")
    assert "a.jsonl could not be written" in said and "a.result.json could not be written" in said
    assert [(tmp_path / name).read_bytes() for name in ("a.jsonl", "a.result.json")] == before


def test_files_that_may_not_grow(toy, tmp_path):
    """The same, from the system itself."""
    done = run_script("main.py", "--data", toy, *SMALL, "--epochs", 2, "--save", "a.pt", cwd=tmp_path, status=1,
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)))
    assert "End of training" in done.stdout and "could not be written" in done.stdout
    assert not (tmp_path / "a.pt").exists() and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("words", "limit", "says"), [
    (["export.py", "--save", "toy.pt", "--to", "fastai", "out"], 30_000, "out: File too large"),
    (["export.py", "--save", "toy.pt", "--to", "hf", "out"], 30_000, "out: File too large"),
    (["prepare.py", "text", "train.txt", "--out", "out"], 1000, "out: File too large"),
    (["generate.py", "--save", "toy.pt", "--words", 3000, "--outf", "out"], 1000, "out: File too large"),
    (["main.py", "--data", ".", "--cache", "none", *SMALL, "--save", "out.pt"], 0, "out.lock: File too large")])
def test_what_does_not_fit_is_one_line_that_names_it_and_leaves_nothing(words, limit, says, toy, trained, tmp_path):
    if "hf" in words:
        pytest.importorskip("safetensors")
    for source in trained / "toy.pt", *toy.iterdir():
        shutil.copy(source, tmp_path)
    before = set(os.listdir(tmp_path))
    done = run_script(*words, cwd=tmp_path, status=1,
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.stderr.splitlines()[-1].endswith(says) and set(os.listdir(tmp_path)) == before


def test_a_pass_that_is_stopped_and_cannot_be_kept_says_so(trained, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)
    done = run_script("pointer.py", "--save", "toy.pt", "--max-minutes", "1e-9", cwd=tmp_path,
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    assert "toy.pointer.state.pt could not be written (File too large)" in done.stdout
    assert "nothing of it is saved" in done.stdout and "to continue" not in done.stdout


def test_a_log_on_a_disk_that_becomes_full_ends_no_run(toy, tmp_path):
    (tmp_path / "filling.py").write_text(
        "import os, main\nfrom runtime import errors\nfrom training.run import Run\n"
        "real = Run.validate\n"
        "def validate(self):\n"
        "    os.dup2(os.open('/dev/full' if len(self.progress.history) == 1 else 'log', os.O_WRONLY | os.O_CREAT), 1)\n"
        "    real(self)\n"
        "Run.validate = validate\n"
        "errors.run(main.main)\n")
    done = subprocess.run([sys.executable, "filling.py", "--data", str(toy), *SMALL, "--epochs", "3", "--save", "a.pt"],
                          cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / "a.result.json").exists() and "End of training" in (tmp_path / "log").read_text()


def test_a_folder_becomes_read_only(toy, call, tmp_path, monkeypatch):
    real, refused = open, []

    def refuse(name, mode="r", *rest, **named):
        if str(name).endswith((".partial", ".jsonl")) and len(refused) < 4:
            refused.append(name)
            raise PermissionError(30, "Read-only file system", str(name))
        return real(name, mode, *rest, **named)

    monkeypatch.setattr("builtins.open", refuse)
    said = call("main.py", "--data", toy, *SMALL, "--epochs", 3, "--save", "a.pt")
    assert len(refused) == 4 and said.count("Read-only file system") == 4
    assert read(tmp_path / "a.state.pt")["losses"]["history"][-1]["epoch"] == 3 and read(tmp_path / "a.pt")


def test_a_damaged_state_is_replaced_by_the_one_before(toy, call, tmp_path, capsys):
    common = ["--data", toy, *SMALL, "--epochs", 3]
    call("main.py", *common, "--save", "whole.pt")
    call("main.py", *common[:-1], 2, "--save", "parts.pt")
    good = (tmp_path / "parts.state.pt").read_bytes()
    at = good.index(b"generators")           # a name in what is pickled; some bytes of the file mean nothing
    (tmp_path / "parts.state.pt").write_bytes(good[:at] + b"damage" + good[at + 6:])
    said = call("main.py", *common, "--save", "parts.pt", "--resume", "auto")
    assert "continuing from parts.state.previous.pt: epoch 2" in said
    for name in (".pt", ".state.pt"):
        compare(read(tmp_path / f"whole{name}"), read(tmp_path / f"parts{name}"))


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
def test_a_window_too_long_for_memory_is_read_in_two_halves(cell, monkeypatch):
    def train(limit):
        torch.manual_seed(0)
        model = RNNModel(cell, 40, 10, 14, 2, dropout=0, dropouth=0, dropouti=0, dropoute=0, cutoffs=[20])
        optimizer = NTASGD(model.parameters(), lr=1)
        real = model.forward

        def forward(data, *args, **kwargs):
            if data.size(1) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(data, *args, **kwargs)

        monkeypatch.setattr(model, "forward", forward)
        step = compose(train_step.TrainStep(model, optimizer, bptt=9, clip=0.25, alpha=2, beta=1))
        columns, hidden, losses = torch.randint(40, (60, 5)), model.init_hidden(5), []
        for row in range(0, 54, 9):
            loss, hidden = step(*get_batch(columns, row, None, 9), hidden)
            losses.append(loss)
        return torch.stack(losses), list(model.parameters()), flat_hidden(hidden)

    whole, halves = train(5), train(3)
    torch.testing.assert_close(whole[0], halves[0])
    for a, b in zip(whole[1] + whole[2], halves[1] + halves[2]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(torch.OutOfMemoryError):
        train(2)


@pytest.mark.parametrize(("error", "said", "batch"), [
    ("torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB')", "out of memory", 30),
    ("RuntimeError('CUDA error: an illegal memory access was encountered\\nCompile with...')", "the GPU failed", None)])
def test_a_gpu_that_fails_ends_in_one_line_and_the_last_good_state(error, said, batch, toy, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text("import torch, main\nfrom runtime import errors\nfrom training import step as train_step\n"
                      "real, n = train_step.TrainStep.forward_backward, [0]\n"
                      "def backward(*args, **kwargs):\n"
                      "    n[0] += 1\n"
                      f"    if n[0] > 30: raise {error}\n"
                      "    return real(*args, **kwargs)\n"
                      "train_step.TrainStep.forward_backward = backward\n"
                      "errors.run(main.main)\n")
    done = subprocess.run([sys.executable, str(script), "--data", str(toy), *SMALL, "--save", "a.pt",
                           "--checkpoint-minutes", "0.0001"], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "a.state.pt" in done.stderr and said in done.stderr
    saved = read(tmp_path / "a.state.pt")["progress"]["batch"]
    assert saved == batch if batch else 0 < saved <= 30
