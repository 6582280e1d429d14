"""Which of several ways to compute the same is the fastest on this machine: timed once, and remembered.

The times are kept in the cache's folder, a small file for each question, so that from then on every run on the machine
chooses alike, whatever else the machine is doing. Deleting the folder asks anew.
"""
import hashlib
import json
import math
import os
import platform
import time
from contextlib import suppress
from functools import cache

import torch

from runtime.paths import default_cache

_known = {}                 # milliseconds by file, as this process has measured or read them


def milliseconds(question, ways, seconds=0.02, must_be_kept=False):
    """How long each of `ways` takes on this machine -> dict of milliseconds by name, or None.

    question: what is asked, with all that the answer depends on besides the machine, in words. ways: dict of functions
    without arguments, which compute the same. Each is called once and then in turns: 20 times or for `seconds` in all,
    whichever is more, but for no more than ten times `seconds`; its shortest time counts, for other work on the machine
    only adds to it. must_be_kept: None where the times cannot be written down: the next process might then choose
    another way.
    """
    text = f"{question}; {machine()}"
    path = os.path.join(default_cache(), "fastest", hashlib.sha256(text.encode()).hexdigest()[:16] + ".json")
    times = _known.get(path) or _read(path, ways)
    if times is None:
        times = _measure(ways, seconds)
        times = _keep(path, text, ways, times) or (None if must_be_kept else times)
    if times is not None:
        _known[path] = times
    return times


def choice(times, first):
    """The name of the fastest way in `times` (milliseconds by name, or None) if it is clearly faster than the `first`,
    which is taken where nothing speaks against it; else that."""
    best = min(times, key=times.get) if times else first
    return best if times and times[best] < 0.9 * times[first] else first


def machine():
    """What the times depend on, in words: the processor, with what tells those of one name apart, how much of it is
    used, and torch."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "all"
    numbers = "".join(f", {name} {_cpu()[name]}" for name in ("cpu family", "model", "stepping") if name in _cpu())
    return (f"{processor()}{numbers}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
            f"oneDNN may use {limit}, torch {torch.__version__}")


def processor():
    """The name of this machine's processor."""
    return _cpu().get("model name") or platform.processor() or platform.machine()


@cache
def _cpu():
    """What the system tells of the first processor -> dict; Linux alone does."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        facts = (line.partition(":") for line in file.read().split("\n\n")[0].splitlines())
        return {name.strip(): value.strip() for name, _, value in facts}
    return {}


def _measure(ways, seconds):
    for function in ways.values():
        function()
    times, began, rounds = dict.fromkeys(ways, math.inf), time.perf_counter(), 0
    # Other work on the machine can hide what a way takes; where it is busy, more turns are needed to see it.
    while rounds < 3 or (spent := time.perf_counter() - began) < seconds or (rounds < 20 and spent < 10 * seconds):
        for name, function in ways.items():
            start = time.perf_counter()
            function()
            times[name] = min(times[name], 1000 * (time.perf_counter() - start))
        rounds += 1
    return times


def _read(path, ways):
    """The times in a file, or None where there is none that holds these."""
    try:
        with open(path, encoding="utf-8") as file:
            times = json.load(file)["milliseconds"]
        times = {name: float(times[name]) for name in ways}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return times if all(0 < each < math.inf for each in times.values()) else None


def _keep(path, text, ways, times):
    """Write the times down, unless another process has been faster -> the times that are kept, None if none are."""
    partial = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "w", encoding="utf-8") as file:
            json.dump({"question": text, "milliseconds": times}, file, indent=1)
        if _read(path, ways) is None and os.path.exists(path):
            os.unlink(path)                                 # damaged
        with suppress(FileExistsError):
            os.link(partial, path)                          # never over what is there
    except OSError:                                         # a file system without links
        with suppress(OSError):
            if not os.path.exists(path):
                os.replace(partial, path)
    with suppress(OSError):
        os.unlink(partial)
    return _read(path, ways)
