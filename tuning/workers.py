"""A worker runs one trial at a time: a main.py process with cores or a GPU of its own."""
import json
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

MAIN = Path(__file__).resolve().parents[1] / "main.py"
OWN_FLAGS = {"save", "resume", "epochs", "max_minutes"}         # of main.py, which the search sets for each trial


def fixed_words(args, flags):
    """The words with which every trial starts: what the user typed of main.py's flags. flags: those, by name."""
    return [word for name, flag in flags.items() if name in args.given and name not in OWN_FLAGS
            for word in flag.words(getattr(args, name))]


def command(fixed, flags, settings, epochs, save):
    """main.py's command line for a trial's settings -> words."""
    sampled = [word for name, value in settings.items() for word in flags[name].words(value)]
    return [sys.executable, str(MAIN), *fixed, *sampled, "--epochs", str(epochs), "--save", save, "--resume", "auto"]


def environments(workers, device):
    """What each of so many workers finds in its environment: a GPU of its own, or its share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if gpus and torch.cuda.is_available() and device in ("auto", "cuda"):
        return [{**os.environ, "CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]} for worker in range(workers)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = {} if workers == 1 else {"OMP_NUM_THREADS": str(max(1, cores // workers))}
    return [{**shares, **os.environ}] * workers


def start(words, log, environment=None):
    """Start main.py with its output in `log`, a file that is open -> process.

    A Ctrl-C reaches the search alone, which stops its trials itself; should it be killed, they get a SIGTERM (on Linux)
    and save.
    """
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                            start_new_session=True,
                            preexec_fn=partial(_end_with_parent, os.getpid()) if PRCTL else None)


def _prctl():
    if sys.platform != "linux":
        return None
    import ctypes
    return ctypes.CDLL(None).prctl


PRCTL = _prctl()
PR_SET_PDEATHSIG = 1


def _end_with_parent(parent):
    """Called in the new process, before main.py."""
    PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:                       # it has died already
        os._exit(1)


def epochs_done(path):
    """The validation loss of every epoch in a run's NAME.jsonl, infinite for none, and their seconds -> list, float."""
    losses, seconds = [], 0.0
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return [], 0.0
    for line in lines:
        try:
            epoch = json.loads(line)
        except ValueError:                           # the last one, half written by a process that was killed
            break
        losses.append(math.inf if epoch["valid_loss"] is None else epoch["valid_loss"])
        seconds += epoch["seconds"]
    return losses, seconds


def complaint(log):
    """Why main.py ended, from its log: its error, or its last line."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - 10_000))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if line.startswith("main.py: error: ")]
    return (errors or lines or ["it ended without a word"])[-1]
