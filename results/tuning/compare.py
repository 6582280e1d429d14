"""What a search is worth: tune.py's default, random search with as many epochs, and main.py's default flags.

    OMP_NUM_THREADS=1 python results/tuning/compare.py data/penn runs/compare [SEED …]

searches settings of small models on the first lines of Penn Treebank, for five seeds (or those given: several processes
may share them), continues what was interrupted, and writes compare.md beside this file after every seed. Needs the
package optuna.
"""
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from runtime import record

HERE = Path(__file__).resolve().parent
LINES = {"train": 500, "valid": 200, "test": 200}
SEEDS = range(1, 6)
MODEL = ["--vocab", "train", "--emsize", "48", "--nhid", "64", "--nlayers", "2", "--batch-size", "10", "--bptt", "35",
         "--device", "cpu", "--precision", "fp32", "--optimizer", "adam"]
EPOCHS, TRIALS = 18, 20
NAMES = {"tpe": "TPE, successive halving", "random": "random search", "defaults": "default flags"}


def cut(source, folder):
    """The first lines of each of the three texts, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in LINES.items():
        text = (source / f"{split}.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
        (folder / f"{split}.txt").write_text("".join(text), encoding="utf-8")


def run(script, name, *words):
    """Run or continue one of the scripts, with its output in NAME.txt."""
    command = [sys.executable, str(ROOT / script), *words, "--epochs", str(EPOCHS), "--save", f"{name}.pt", "--resume",
               "auto"]
    with open(f"{name}.txt", "a") as log:
        if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
            sys.exit(f"{name} was stopped, see {name}.txt; the same command continues")


def outcome(name):
    """What a way has left -> epochs spent, validation and test perplexity."""
    result = json.loads(Path(f"{name}.result.json").read_text(encoding="utf-8"))
    epochs = EPOCHS
    if os.path.exists(f"{name}.search"):
        import tune
        study = tune.optuna().load_study(study_name=name, storage=f"sqlite:///{name}.search/study.db")
        epochs = sum(len(trial.intermediate_values) for trial in {tune.run_of(t): t for t in study.trials}.values())
    return epochs, result["valid"]["perplexity"], result["test"]["perplexity"]


def write_table(machine):
    """compare.md: validation / test perplexity of each seed that is done, and the medians."""
    outcomes = {seed: {way: outcome(f"{way}-{seed}") for way in NAMES} for seed in SEEDS
                if os.path.exists(f"defaults-{seed}.result.json")}                 # the last of the three
    lines = ["Made by `results/tuning/compare.py`, which says how: validation / test perplexity of the model that each "
             f"way leaves, {LINES['train']} lines of Penn Treebank, Adam, {machine}.", "",
             "| seed | " + " | ".join(f"{name} | epochs" for name in NAMES.values()) + " |",
             "|---|" + "---|---|" * len(NAMES)]
    for seed, ways in outcomes.items():
        cells = [f"{ways[way][1]:.2f} / {ways[way][2]:.2f} | {ways[way][0]}" for way in NAMES]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    cells = []
    for way in NAMES:
        epochs, valid, test = (statistics.median(ways[way][place] for ways in outcomes.values()) for place in range(3))
        cells.append(f"**{valid:.2f} / {test:.2f}** | {epochs:g}")
    lines.append("| median | " + " | ".join(cells) + " |")
    (HERE / "compare.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(source, folder, seeds):
    cut(source, folder / "text")
    os.chdir(folder)
    machine = f"{record.device_name('cpu')}, commit {record.commit()}"
    for seed in seeds:
        words = ["--data", "text", *MODEL, "--seed", str(seed)]
        run("tune.py", f"tpe-{seed}", *words, "--min-epochs", "2", "--trials", str(TRIALS))
        as_many = math.ceil(outcome(f"tpe-{seed}")[0] / EPOCHS)
        run("tune.py", f"random-{seed}", *words, "--sampler", "random", "--pruner", "none", "--trials", str(as_many))
        run("main.py", f"defaults-{seed}", *words)
        write_table(machine)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not {*map(int, sys.argv[3:])} <= {*SEEDS}:
        sys.exit(__doc__)
    compare(*(Path(path).resolve() for path in sys.argv[1:3]), [*map(int, sys.argv[3:])] or SEEDS)
