"""The host side of the CUDA path, on a CUDA runtime that computes nothing: what falls back, and what a run survives.

Runs where ../shared/fakecuda has been built (its README says how; $FOLDER or /tmp/fakecuda). No test looks at values.
"""
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, run_script

WRAPPER = ROOT.parent / "shared" / "fakecuda" / "run"
BUILT = Path(os.environ.get("FOLDER", "/tmp/fakecuda"))
TOY = [word for pair in zip(SMALL[::2], SMALL[1::2]) if pair[0] not in ("--device", "--precision") for word in pair]
pytestmark = [pytest.mark.stand_in, pytest.mark.skipif(not (WRAPPER.exists() and (BUILT / "libcuda.so.1").exists()),
                                                       reason="the stand-in for CUDA is not built here")]


def run(script, *words, cwd, status=0, **environment):
    """A script, one of the project or one of a test, on the stand-in -> what it printed, and its warnings."""
    path = script if Path(script).is_absolute() else ROOT / script
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FOLDER": str(BUILT), **environment}
    done = subprocess.run([str(WRAPPER), str(path), *map(str, words)], cwd=cwd, capture_output=True, text=True,
                          timeout=300, check=False, env=environment)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout, done.stderr


def problems(stderr):
    return re.search(r"problems: (.*)", stderr)[1]


@pytest.mark.parametrize("model", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("flags", [[], ["--precision", "bf16"], ["--optimizer", "adam", "--lr", "0.001"]],
                         ids=" ".join)
def test_training_is_recorded_without_a_violation(model, flags, toy, tmp_path):
    _, errors = run("main.py", "--data", toy, *TOY, "--model", model, *flags, "--epochs", 1, "--save", "a.pt",
                    cwd=tmp_path)
    assert problems(errors) == "none" and "without CUDA graphs" not in errors


ONE_CYCLE = """
import ctypes
import sys
import torch
from training import compose

library = ctypes.CDLL(None)
library.fake_stat.restype = ctypes.c_long
real, replayed, waited = compose.GraphedStep.__call__, [0], [0, 0]

def call(self, data, targets, hidden):
    known = len(self.graphs._recorded)
    before = [library.fake_stat(what) for what in (b"sync", b"h2d")]
    found = real(self, data, targets, hidden)
    if known == len(self.graphs._recorded) and any(inputs[0].shape == data.shape
                                                   for _, inputs, _ in self.graphs._recorded.values()):
        replayed[0] += 1
        for i, what in enumerate((b"sync", b"h2d")):
            waited[i] += library.fake_stat(what) - before[i]
    return found

compose.GraphedStep.__call__ = call
import main
status = main.main()
print("offset", torch.cuda.default_generators[0].get_offset(), "replayed", *replayed, "waited, copied", *waited)
sys.exit(status)
"""


def test_adam_in_one_cycle_is_replayed_without_waiting_and_continued(toy, tmp_path):
    """The path of recipes/fast.sh: rate and beta1 differ in every step, and the update follows the graph."""
    (tmp_path / "one_cycle.py").write_text(ONE_CYCLE)
    flags = ["--data", toy, *TOY, "--batch-size", 40, "--bptt", 6, "--optimizer", "adam", "--lr", 5e-3, "--one-cycle",
             1, 2, 2, 1, "--clip", 0.12]
    whole, errors = run(str(tmp_path / "one_cycle.py"), *flags, "--save", "a.pt", cwd=tmp_path)
    offset, replayed, *waited = re.search(r"offset (\d+) replayed (\d+) waited, copied (\d+) (\d+)", whole).groups()
    assert int(replayed) > 50 and waited == ["0", "0"]
    assert problems(errors) == "none" and "without CUDA graphs" not in errors
    run("main.py", *flags, "--epochs", 3, "--no-test", "--save", "b.pt", cwd=tmp_path)
    parts, _ = run(str(tmp_path / "one_cycle.py"), "--epochs", 6, "--save", "b.pt", "--resume", "auto", cwd=tmp_path)
    assert "continuing from" in parts and f"offset {offset} " in parts           # the same random numbers to the end


def test_every_script(toy, tmp_path):
    run("main.py", "--data", toy, *TOY, "--epochs", 1, "--save", "a.pt", cwd=tmp_path)
    out, _ = run("main.py", "--epochs", 2, "--save", "a.pt", "--resume", "auto", cwd=tmp_path)
    assert "continuing from" in out
    for script, *words in (["finetune.py", "--epochs", 1], ["pointer.py", "--window", 50],
                           ["dynamiceval.py", "--rule", "sgd"], ["generate.py", "--words", 20]):
        run(script, "--save", "a.pt", *words, cwd=tmp_path)
    run("evaluate.py", "--save", "a.pt", cwd=tmp_path)


def text_of(folder, words, tokens):
    """A corpus of so many words and tokens."""
    draw = random.Random(1)
    folder.mkdir()
    for split, n in ("train", tokens), ("valid", 4000), ("test", 4000):
        ids = [*range(words), *draw.choices(range(words), k=n - words)] if split == "train" else draw.choices(
            range(words), k=n)
        (folder / f"{split}.txt").write_text("\n".join(" ".join(f"w{i}" for i in ids[at:at + 20])
                                                       for at in range(0, n, 20)) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("size", "mib"), [("ptb", 900), ("ptb", 1200), ("wt2", 2300), ("wt2", 4000)])
def test_what_fits_without_graphs_does_not_end_with_them(size, mib, tmp_path):
    words, tokens, flags = {"ptb": (10_000, 400_000, ["--batch-size", 20, "--dropouti", 0.4, "--dropouth", 0.25]),
                            "wt2": (33_278, 1_200_000, ["--dropouth", 0.2])}[size]
    out, errors = run("main.py", "--data", text_of(tmp_path / "text", words, tokens), *flags, "--epochs", 1,
                      "--save", "a.pt", cwd=tmp_path, FAKE_MEM_MIB=str(mib))
    assert "End of training" in out
    assert errors.count("going on without CUDA graphs") == 1 and problems(errors) == "none"


FAILING = """
import sys
import torch
from training import step

real, recordings = step.TrainStep.forward_backward, [0]

def forward_backward(*arguments):
    found = real(*arguments)
    if torch.cuda.is_current_stream_capturing():
        recordings[0] += 1
        if recordings[0] == 4:          # the first is of the self-check
            found[0].item()             # which no recording may contain
    return found

step.TrainStep.forward_backward = forward_backward
import main
status = main.main()
print("offset", torch.cuda.default_generators[0].get_offset(), "recordings", recordings[0])
sys.exit(status)
"""


def test_a_recording_that_fails_leaves_a_run_like_the_plain_one(toy, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    found = []
    for flags in ([], ["--no-graphs"]):
        out, errors = run(str(tmp_path / "failing.py"), "--data", toy, *TOY, *flags, "--epochs", 2, "--save", "a.pt",
                          cwd=tmp_path)
        assert errors.count("going on without CUDA graphs") == (not flags)
        found.append(re.search(r"offset (\d+) recordings (\d+)", out).groups())
    (offset, recordings), (plain, none) = found
    assert offset == plain and int(offset) > 0 and (recordings, none) == ("4", "0")


WITHOUT_CUDNN = """
import sys
import torch
from ops import cudnn

real, calls = cudnn.KERNELS["LSTM"], [0]

def kernel(*arguments):
    calls[0] += torch.backends.cudnn.enabled
    if calls[0] >= 40 and torch.backends.cudnn.enabled:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
    return real(*arguments)

cudnn.KERNELS["LSTM"] = kernel
import main
status = main.main()
print("offset", torch.cuda.default_generators[0].get_offset())
sys.exit(status)
"""


@pytest.mark.parametrize("flags", [[], ["--no-graphs"]], ids=["graphs", "plain"])
def test_a_cudnn_error_in_the_middle_falls_back(flags, toy, tmp_path):
    (tmp_path / "failing.py").write_text(WITHOUT_CUDNN)
    words = ["--data", toy, *TOY, *flags, "--epochs", 2]
    out, errors = run(str(tmp_path / "failing.py"), *words, "--save", "a.pt", cwd=tmp_path)
    assert "End of training" in out and errors.count("going on without cuDNN") == 1
    (tmp_path / "failing.py").write_text(WITHOUT_CUDNN.replace(">= 40", "< 0"))
    sound, _ = run(str(tmp_path / "failing.py"), *words, "--save", "b.pt", cwd=tmp_path)
    assert out.splitlines()[-1] == sound.splitlines()[-1]            # the same random-number offsets


def test_an_older_card_reads_a_bf16_model_in_fp32(toy, tmp_path):
    run_script("main.py", "--data", toy, *SMALL[:-2], "--precision", "bf16", "--epochs", 1, "--save", "a.pt",
               cwd=tmp_path)
    out, _ = run("evaluate.py", "--save", "a.pt", cwd=tmp_path, FAKE_CC="75")
    assert "on cuda in fp32 (this GPU does not have the bf16 of the checkpoint)" in out
    _, errors = run("evaluate.py", "--save", "a.pt", "--precision", "bf16", cwd=tmp_path, status=1, FAKE_CC="75")
    assert "--precision bf16 needs a GPU of compute capability 8.0" in errors


NO_KERNELS = """
import sys
import torch

def ones(*arguments, device="cpu", **named):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\\nmore")

from runtime import devices
devices.torch.ones, real = ones, torch.ones
reason = devices.why_unusable("cuda")
devices.why_unusable = lambda device: reason
torch.ones = real
import main
from runtime import errors
errors.run(main.main)
"""


def test_a_card_that_torch_has_no_kernels_for(toy, tmp_path):
    (tmp_path / "failing.py").write_text(NO_KERNELS)
    words = ["--data", toy, *TOY, "--epochs", 1, "--save", "a.pt"]
    out, _ = run(str(tmp_path / "failing.py"), *words, cwd=tmp_path)
    assert "computing on the CPU" in out and "no kernel image" in out and "on cpu in" in out
    _, errors = run(str(tmp_path / "failing.py"), *words, "--device", "cuda", cwd=tmp_path, status=1)
    assert "no kernel image" in errors and "use --device cpu" in errors


ORDER = """
import sys
from ops import graphs
from runtime import errors, processes
from training import run

real = graphs.Recording.drop

def drop(self):
    real(self)
    print("dropped", all(not each._recorded for each in self._graphs), flush=True)

def validate(self):
    raise errors.InputError("something went wrong")

graphs.Recording.drop = drop
processes.ProcessGroup.leave = lambda self: print("left", flush=True)
if FAILING:
    run.Run.validate = validate
import main
errors.run(main.main)
"""


@pytest.mark.parametrize("failing", [False, True])
def test_graphs_are_dropped_before_the_process_group_is_left(failing, toy, tmp_path):
    """NCCL's communicators wait for graphs that hold their collectives: also where a run ends in an error."""
    (tmp_path / "order.py").write_text(ORDER.replace("FAILING", str(failing)))
    out, _ = run(str(tmp_path / "order.py"), "--data", toy, *TOY, "--epochs", 1, "--save", "a.pt", cwd=tmp_path,
                 status=int(failing))
    ends = [line for line in out.splitlines() if line.startswith(("dropped", "left"))]
    assert ends[-1 if failing else -2] == "dropped True" and ("left" in ends) != failing
