"""Milliseconds of a training step at the recipes' sizes, by precision, with graphs and without, beside torch's own
layers, and in several processes on one GPU; and how to train by these figures.

    python results/gpu/step_times.py --json FILE --plan FILE [--mps FOLDER] [--seconds S] [--device cpu] [--quick]

The most important figure comes first, and after every one both files are written anew; after S seconds no part is begun
any more. The plan is three lines of shell: flags of main.py, the folder of an MPS daemon that is to be used, and what
to train, recipes/fast.sh's corpora with seeds; what no comma separates runs at the same time.
"""
import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch

import main as training
from model import resolve
from ops.graphs import Recording
from runtime import devices, options, record
from runtime.paths import atomic_write
from training import optimizers
from training.compose import compose
from training.plain import Plain
from training.start import new_model
from training.step import TrainStep

WORDS, TOY_WORDS = {"ptb": 10_000, "wt2": 33_278}, 200
FAST = {"ptb": ["--optimizer", "adam", "--batch-size", "40"],            # of recipes/fast.sh, what a step's time
        "wt2": ["--optimizer", "adam", "--batch-size", "100"]}           # depends on
SGD = {"ptb": ["--batch-size", "20"], "wt2": ["--batch-size", "80"]}     # of recipes/ptb.sh and wt2.sh
TOY = ["--emsize", "8", "--nhid", "8", "--nlayers", "1", "--bptt", "4"]
PROCESSES = 4
COUNTS = (1, 2, PROCESSES)                       # of processes that take steps at the same time
STEPS = {"ptb": 90 * 343, "wt2": 90 * 308}       # of recipes/fast.sh: epochs, windows of 67.75 tokens on average
BESIDES = 1.25, 30                               # of a run's time for validation and saving; seconds for the rest


# ---- one step, timed

class Step:
    """A training step of a recipe on made data, ready to be replayed: `step()` takes it."""

    def __init__(self, args, corpus, words, precision, graphs=True, plain=False):
        words, vocabulary = [*words, *(TOY if args.quick else [])], TOY_WORDS if args.quick else WORDS[corpus]
        args = optimizers.resolve(options.parse(training.make_parser(), [
            *words, "--precision", precision, "--device", args.device]))
        args, compute = devices.prepare(args, {"bf16"})
        args, self.device = resolve(args, vocabulary), compute.device
        model = new_model(args, vocabulary, compute).train()
        self.data = torch.randint(vocabulary, (args.bptt, args.batch_size), device=self.device)        # (T, B)
        self.hidden = model.init_hidden(args.batch_size)
        self.recording = Recording()
        if plain:
            self.take = Plain(model, args).step
        else:
            self.take = TrainStep(model, optimizers.make(args, model), bptt=args.bptt, clip=args.clip,
                                  alpha=args.alpha, beta=args.beta)
            self.take = compose(self.take, recording=self.recording if graphs else None)
        for _ in range(4):               # run plainly, recorded, replayed
            self()
        self.wait()
        if self.recording.reason:
            raise RuntimeError(self.recording.reason)

    def __call__(self):
        self.take(self.data, self.data.flatten(), self.hidden)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def times(self, seconds):
        """Milliseconds of a step, and of the host for it, in every five steps that follow each other as in training ->
        two lists, of so many seconds."""
        times, host, end = [], [], time.perf_counter() + seconds
        while len(times) < 2 or time.perf_counter() < end:
            began = time.perf_counter()
            for _ in range(5):
                self()
            host.append(200 * (time.perf_counter() - began))
            self.wait()
            times.append(200 * (time.perf_counter() - began))
        return times, host

    def kernels(self, steps=5):
        """The kernels that take longest: name, milliseconds and calls per step."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(steps):
                self()
            self.wait()
        kernels = sorted(profile.key_averages(), key=lambda each: -each.self_device_time_total)[:20]
        return [[each.key[:120], each.self_device_time_total / 1000 / steps, each.count / steps] for each in kernels]


def timed(args, corpus, words, precision, graphs=True, plain=False, kernels=False):
    """-> dict, a figure: milliseconds of a step as the median, the lower and the upper quartile."""
    on_gpu = args.device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    step = Step(args, corpus, words, precision, graphs and on_gpu, plain)
    times, host = step.times(args.each)
    low, median, high = statistics.quantiles(times, n=4)
    figure = {"step": f"{corpus} {' '.join(words)}", "precision": precision,
              "by": "torch's layers" if plain else "graphs" if graphs and on_gpu else "kernels",
              "ms": median, "low": low, "high": high, "steps": 5 * len(times), "host_ms": statistics.median(host),
              "peak_memory_mib": devices.peak_memory_mib(args.device)}
    if kernels and on_gpu:
        figure["kernels"] = step.kernels()
    return figure


# ---- several processes on one device

_step = None             # of such a process


def member(args, words, precision):
    """Milliseconds of a step in such a process, which makes it when it is asked for the first time."""
    global _step
    _step = _step or Step(args, "ptb", words, precision, args.device != "cpu")
    return statistics.mean(_step.times(args.each)[0])


class Team:
    """PROCESSES processes that take steps on the same device; they begin to import. mps: the folder of its daemon, or
    "". limit: seconds for an answer."""

    def __init__(self, mps, limit):
        self.mps, self.limit = mps, limit
        context = multiprocessing.get_context("spawn")
        context.set_executable(os.environ.get("PYTHON") or sys.executable)
        begin = {"initializer": os.putenv, "initargs": ("CUDA_MPS_PIPE_DIRECTORY", mps)} if mps else {}
        self.pools = [ProcessPoolExecutor(1, context, **begin) for _ in range(PROCESSES)]
        self.pids = [pool.submit(os.getpid) for pool in self.pools]            # known when all is imported

    def ask(self, processes, *question):
        """What `member` says in so many of them at the same time -> list. TimeoutError where one does not answer,
        BrokenProcessPool where one has died, or what was raised in one."""
        asked = [pool.submit(member, *question) for pool in self.pools[:processes]]
        wait(asked, self.limit)
        return [answer.result(0) for answer in asked]

    def figures(self, *question):
        """Yield dicts: milliseconds of a step in one, two and four processes at the same time."""
        try:
            self.ask(PROCESSES, *question)          # each of them has its step from now on
            for processes in COUNTS:
                times = self.ask(processes, *question)
                _, words, precision = question
                yield {"step": f"ptb {' '.join(words)}", "precision": precision, "processes": processes,
                       "sharing": "mps" if self.mps else "time slices", "ms": statistics.mean(times), "each": times}
        finally:
            for pid in self.pids:
                with suppress(ProcessLookupError, TimeoutError, BrokenProcessPool):
                    os.kill(pid.result(0), signal.SIGKILL)


# ---- what follows from it

def plan(figures, seconds, mps=""):
    """By the figures so far -> (flags of main.py, folder of MPS or "", groups of runs that share the device).

    seconds: what there is for training. bf16 must be clearly faster than tf32, more than one run in a third less
    time than one after the other, and what is expected of their time must be there.
    """
    def ptb(precision, by="graphs"):
        return next((f["ms"] for f in figures if f.get("by") == by and f["precision"] == precision
                     and f["step"] == f"ptb {' '.join(FAST['ptb'])}"), None)

    precision = "bf16" if ptb("tf32") and ptb("bf16") and ptb("tf32") / ptb("bf16") >= 1.1 else "tf32"
    alone, plain = ptb(precision), ptb(precision, "kernels")
    flags = ["--precision", "bf16"] if precision == "bf16" else []
    if plain and (alone is None or plain < alone):
        flags.append("--no-graphs")
    shared = {}
    for figure in figures:
        if "processes" in figure:
            shared.setdefault((figure["sharing"], figure["processes"]), figure["ms"])
    best = min((key for key in shared if key[1] == PROCESSES), key=shared.get, default=None)
    factor, per_run, besides = (shared[best] / shared[best[0], 1] if best else None), *BESIDES
    several = (alone and best and factor <= PROCESSES / 1.5
               and per_run * STEPS["ptb"] * alone * factor / 1000 + besides <= seconds)
    groups = [["ptb:141", "wt2:1882", "ptb:142"]] if several else [["ptb:141"], ["wt2:1882"]]
    return " ".join(flags), mps if several and best[0] == "mps" else "", groups


def write(args, about, figures):
    """Both files, with what there is so far."""
    with atomic_write(args.json) as file:
        json.dump(record.finite({**about, "figures": figures}), file, indent=1)
        file.write("\n")
    flags, mps, groups = plan(figures, args.training_seconds, args.mps)
    with atomic_write(args.plan) as file:
        file.write(f"flags='{flags}'\nmps='{mps}'\ngroups='{' , '.join(' '.join(group) for group in groups)}'\n")


def parts(args, teams):
    """Names of parts and functions that give their figures, the most important first. torch's own layers have no bf16
    of their own: they are timed in tf32."""
    on_gpu = args.device != "cpu"
    precisions = ("tf32", "bf16") if on_gpu else ("fp32", "bf16")

    def one(corpus, words, precision, **variant):
        name = " ".join([corpus, *words, precision, *variant])
        return name, lambda: [timed(args, corpus, words, precision, **variant)]

    for precision in precisions:
        yield one("ptb", FAST["ptb"], precision, kernels=True)
    for team in teams:
        yield f"processes, {'mps' if team.mps else 'time slices'}", lambda team=team: team.figures(
            args, FAST["ptb"], precisions[0])
    for precision in precisions:
        if on_gpu:
            yield one("ptb", FAST["ptb"], precision, graphs=False)
        yield one("ptb", SGD["ptb"], precision)
        yield one("wt2", FAST["wt2"], precision)
    yield one("ptb", SGD["ptb"], precisions[0], plain=True)
    for precision in precisions:
        yield one("wt2", SGD["wt2"], precision)
        if on_gpu:
            yield one("ptb", SGD["ptb"], precision, graphs=False)
    yield one("wt2", SGD["wt2"], precisions[0], plain=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script out")
    parser.add_argument("--seconds", type=float, default=60, help="seconds after which nothing more is begun")
    parser.add_argument("--training-seconds", type=float, default=400, help="seconds that the plan may take")
    parser.add_argument("--each", type=float, default=0.5, help="seconds for a figure")
    parser.add_argument("--mps", default="", help="folder of a running MPS daemon")
    parser.add_argument("--json", required=True, help="file for the figures")
    parser.add_argument("--plan", required=True, help="file for the plan")
    return parser.parse_args()


def main():
    args, began, figures = parse(), time.monotonic(), []
    teams = [Team(mps, args.seconds / 4) for mps in ([args.mps] if args.mps else []) + [""]]
    about = {"device": record.device_name(args.device), "torch": torch.__version__, "cuda": torch.version.cuda,
             "cudnn": torch.backends.cudnn.version(), "commit": record.commit(), "date": time.strftime("%F %T %z")}
    try:
        wait([pid for team in teams for pid in team.pids], args.seconds / 4)     # what has not come so far fails later
        for name, part in parts(args, teams):
            if time.monotonic() - began > args.seconds:
                print(f"{name}: no time left", flush=True)
                continue
            try:
                for figure in part():
                    figures.append(figure)
                    write(args, about, figures)
                    print(*(f"{value:.4g}" if isinstance(value, float) else value for name, value in figure.items()
                            if name not in ("kernels", "each")), sep=" | ", flush=True)
            except Exception as error:       # one part that fails must not cost the others
                figures.append({"part": name, "failed": repr(error)[:300]})
                print(figures[-1], flush=True)
                write(args, about, figures)
    finally:
        for process in multiprocessing.active_children():
            process.kill()
    return int(any("failed" in figure for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
