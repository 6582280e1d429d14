"""What a search is worth: successive halving with TPE, random search with as many epochs, and main.py's defaults.

    OMP_NUM_THREADS=1 python results/tuning/compare.py data/penn runs/compare [SEED …]

trains small models on the first lines of Penn Treebank, for five seeds (or those given: several processes may share
them), continues what was interrupted, and writes compare.md beside this file after every seed. So that a trial costs
its epochs and not the import of torch, trials are forks of this process; each is main.py with its command line all the
same. Needs Linux and the package optuna.
"""
import json
import math
import os
import signal
import statistics
import sys
from contextlib import redirect_stdout
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import main
import tune
from runtime import errors, record
from tuning import workers
from tuning.storage import Storage

HERE = Path(__file__).resolve().parent
LINES = {"train": 500, "valid": 200, "test": 200}
SEEDS = range(1, 6)
MODEL = ["--vocab", "train", "--emsize", "48", "--nhid", "64", "--nlayers", "2", "--batch-size", "10", "--bptt", "35",
         "--device", "cpu", "--precision", "fp32", "--optimizer", "adam"]
RUNGS, TRIALS = ["2", "6", "18"], "20"
EPOCHS = int(RUNGS[-1])


class Fork:
    """main.py in a fork of this process, with the methods of a Popen that a search calls."""

    def __init__(self, words, log, environment=None):
        self.status = None
        sys.__stdout__.flush()                       # or both would write what is in its buffer
        self.pid = os.fork()
        if not self.pid:
            self._run(words, log)

    def _run(self, words, log):
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            sys.stdout, sys.argv = sys.__stdout__, words[1:]
            errors.run(main.main)
        except SystemExit as end:
            status = end.code or 0
            if isinstance(status, str):
                print(status)
                status = 1
        finally:
            sys.stdout.flush()
            os._exit(status)

    def poll(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self):
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def terminate(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def cut(source, folder):
    """The first lines of each of the three texts, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in LINES.items():
        text = (source / f"{split}.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
        (folder / f"{split}.txt").write_text("".join(text), encoding="utf-8")


def search(name, *words):
    """Run or continue a search -> epochs spent."""
    sys.argv = ["tune.py", *words, "--save", f"{name}.pt", "--resume", "auto"]
    with open(f"{name}.txt", "a") as log, redirect_stdout(log):
        if tune.main(sys.argv[1:]):
            sys.exit(f"{name} was interrupted")
    return outcome(name)[0]


def outcome(name):
    """What a way has left -> epochs spent, validation and test perplexity."""
    result = json.loads(Path(f"{name}.result.json").read_text(encoding="utf-8"))
    epochs = EPOCHS
    if os.path.exists(f"{name}.search"):
        storage = Storage(f"{name}.search/search.sqlite")
        with storage.transaction():
            epochs = sum(len(trial.losses) for trial in storage.trials())
    return epochs, result["valid"]["perplexity"], result["test"]["perplexity"]


def defaults(name, *words):
    """Train with main.py's defaults for as long as the best trials are."""
    with open(f"{name}.txt", "a") as log:
        words = ["", "main.py", *words, "--epochs", str(EPOCHS), "--save", f"{name}.pt", "--resume", "auto"]
        if Fork(words, log).wait():
            sys.exit(f"{name} failed, see {name}.txt")


def write_table(machine):
    """compare.md: validation / test perplexity of each seed that is done, and the medians."""
    names = {"halving": "TPE, successive halving", "random": "random search", "defaults": "default flags"}
    found = {seed: {way: outcome(f"{way}-{seed}") for way in names} for seed in SEEDS
             if os.path.exists(f"defaults-{seed}.result.json")}                    # the last of the three
    lines = ["Made by `results/tuning/compare.py`, which says how: validation / test perplexity of the model that each "
             f"way leaves, {LINES['train']} lines of Penn Treebank, Adam, {machine}.", "",
             "| seed | " + " | ".join(f"{name} | epochs" for name in names.values()) + " |",
             "|---|" + "---|---|" * len(names)]
    for seed, ways in found.items():
        cells = [f"{ways[way][1]:.2f} / {ways[way][2]:.2f} | {ways[way][0]}" for way in names]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    cells = []
    for way in names:
        epochs, valid, test = (statistics.median(ways[way][place] for ways in found.values()) for place in range(3))
        cells.append(f"**{valid:.2f} / {test:.2f}** | {epochs:g}")
    lines.append("| median | " + " | ".join(cells) + " |")
    (HERE / "compare.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(source, folder, seeds):
    workers.start = Fork
    cut(source, folder / "text")
    os.chdir(folder)
    machine = f"{record.device_name('cpu')}, commit {record.commit()}"
    for seed in seeds:
        words = ["--data", "text", *MODEL, "--seed", str(seed)]
        epochs = search(f"halving-{seed}", *words, "--rungs", *RUNGS, "--trials", TRIALS)
        search(f"random-{seed}", *words, "--rungs", str(EPOCHS), "--trials", str(math.ceil(epochs / EPOCHS)),
               "--sampler", "random")
        defaults(f"defaults-{seed}", *words)
        write_table(machine)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not {*map(int, sys.argv[3:])} <= {*SEEDS}:
        sys.exit(__doc__)
    compare(*(Path(path).resolve() for path in sys.argv[1:3]), [*map(int, sys.argv[3:])] or SEEDS)
