"""A corpus small enough to learn in a second, and scripts run as a user runs them."""
import importlib.util
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from ops import compiled
from runtime.signals import Stop

with suppress(ImportError):     # how long an example takes says what else the machine does
    from hypothesis import HealthCheck, settings
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--emsize", "24", "--nhid", "48", "--nlayers", "2", "--batch-size", "4", "--bptt", "12", "--lr", "4",
         "--clip", "0.5", "--dropoute", "0", "--dropouti", "0", "--dropouth", "0.1", "--dropout", "0.1",
         "--wdrop", "0.2", "--alpha", "0.1", "--beta", "0.1", "--log-interval", "10", "--device", "cpu",
         "--precision", "fp32"]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Toy sizes gain nothing from a second thread, and tests may run beside other work."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    os.environ["AWD_LSTM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def without_nohup():
    """A lost terminal is noticed, even if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A folder with a text of 30 words in which each word leaves three successors, one of them likely."""
    folder = tmp_path_factory.mktemp("corpora") / "toy"
    folder.mkdir()
    draw = random.Random(3)
    for split, lines in ("train", 600), ("valid", 60), ("test", 60):
        with open(folder / f"{split}.txt", "w", encoding="utf-8") as text:
            for _ in range(lines):
                word, words = draw.randrange(30), []
                for _ in range(draw.randrange(3, 12)):
                    words.append(f"w{word}")
                    word = (7 * word + draw.choice([1, 1, 1, 2, 3])) % 30
                text.write(" ".join(words) + "\n")
    return folder


SERVER = multiprocessing.get_context("forkserver")      # its processes have torch loaded, and start in milliseconds
SERVER.set_forkserver_preload(["main", "finetune", "pointer", "evaluate", "dynamiceval", "ensemble", "generate",
                               "export", "prepare"])
STANDARD = "stdin", "stdout", "stderr"


def run_script(script, *args, cwd, status=0, timeout=120, input=None, **kwargs):
    """Run one of the scripts in the folder `cwd` and check its exit status -> the finished process.

    It is a process of its own, forked from one that has imported what scripts import; with other arguments of
    `subprocess.run`, such as `env`, it is started as a user starts it.
    """
    words = [str(ROOT / script), *map(str, args)]
    if kwargs:
        process = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=timeout,
                                 input=input, check=False, **kwargs)
    else:
        process = _forked(words, cwd, timeout, input)
    assert process.returncode == status, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    return process


def _forked(words, cwd, timeout, input):
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in STANDARD]
        files[0].write_text(input or "", encoding="utf-8")
        child = SERVER.Process(target=_script, args=(words, str(cwd), dict(os.environ), [str(file) for file in files]))
        child.start()
        child.join(timeout)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise subprocess.TimeoutExpired(words, timeout)
        output = [file.read_text(encoding="utf-8") for file in files[1:]]
    return subprocess.CompletedProcess(words, child.exitcode, *output)


def _script(words, cwd, environment, files):
    """In the forked process: what a shell and Python do before the first line of a script."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, (name, file) in enumerate(zip(STANDARD, files)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
        setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))
    sys.argv = words
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    importlib.import_module("runtime.errors").prepare_process()
    runpy.run_path(words[0], run_name="__main__")


def take_form(in_torch, name, monkeypatch):
    """Compute by torch, or by the compiled library; skips where that cannot be compiled."""
    if in_torch:
        monkeypatch.setattr(compiled, "library", lambda name: None)
    elif not compiled.library(name):
        pytest.skip("no C++ compiler here")


def stop_after(checks):
    """A check that stops the run when it is made for the `checks`-th time."""
    def check(self):
        check.calls += 1
        if check.calls == checks:
            raise Stop("stopped by the test", 0)
    check.calls = 0
    return check


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`call("main.py", *words)` runs a script in this process and in `tmp_path` -> what it printed; faster."""
    def run(script, *words, cwd=tmp_path):
        monkeypatch.chdir(cwd)
        words = [str(word) for word in words]
        monkeypatch.setattr("sys.argv", [script, *words])
        capsys.readouterr()
        assert not importlib.import_module(script.removesuffix(".py")).main(words)
        return capsys.readouterr().out
    return run


@pytest.fixture(scope="session")
def trained(toy, tmp_path_factory):
    """A folder with a model trained for two epochs, toy.pt, and its state. Not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    run_script("main.py", "--data", toy, *SMALL, "--epochs", 2, "--save", "toy.pt", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def own_packages(tmp_path_factory):
    """`own_packages("fastai", "fastai fastcore", "pandas")` -> the environment of a process that can import the first.

    Where it cannot be imported here, the others are installed into a folder of the test's own, those before the comma
    without what they depend on, so that no other torch comes with them. Skips the test where that fails.
    """
    def install(name, alone, with_dependencies):
        if importlib.util.find_spec(name):
            return dict(os.environ)
        folder = tmp_path_factory.mktemp(name)
        for words in (["--no-deps", *alone.split()], with_dependencies.split()):
            done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *words],
                                  capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{name} cannot be installed here")
        return {**os.environ, "PYTHONPATH": str(folder)}
    return install
