"""Many systems at a small size: the same parameters, text, epochs and seeds for each, trained side by side.

    python results/small_scale.py systems runs/systems       trains, or goes on; then TABLE.md and PICTURE.png there
    python results/small_scale.py systems runs/systems --workers 2 --data data/penn --seeds 1 2 --epochs 4
    python results/small_scale.py optimizers runs/optimizers one model, trained in different ways

Every run is a process of main.py on one thread; `--resume auto` continues those that were stopped, and those that have
ended are not run again. The width that is named beside a system's flags is chosen such that it has as many parameters
as the first one.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from plot import pyplot, save

import main as training
import model
from runtime import options
from runtime.log import perplexity
from runtime.paths import atomic_write

WORDS = 10_000                                                         # of Penn Treebank
SIZE = ["--emsize", "100", "--nhid", "200", "--nlayers", "2"]
SETTINGS = ["--batch-size", "20", "--clip", "0.25", "--alpha", "0", "--beta", "0", "--dropout", "0.1",
            "--dropouti", "0.1", "--dropouth", "0.1", "--dropoute", "0", "--wdrop", "0.1", "--precision", "bf16",
            "--log-interval", "100"]
CYCLE = ["--optimizer", "adam", "--lr", "4e-3", "--beta2", "0.99", "--momentum", "0.8", "0.7", "--one-cycle"]
# name: flags, and which width is fitted, if any
SYSTEMS = {
    "LSTM": ([], "nhid"),
    "GRU": (["--model", "GRU"], "nhid"),
    "QRNN": (["--model", "QRNN"], "nhid"),
    "RHN, depth 5": (["--model", "RHN", "--rhn-depth", "5", "--nlayers", "1"], "emsize"),
    "skip-connection LSTM, capped gate": (["--skip-output", "--gate", "capped"], "nhid"),
    "Mogrifier LSTM": (["--model", "Mogrifier", "--mogrifier-rank", "20"], "nhid"),
    "LSTM, mixture of 5 softmaxes": (["--mixtures", "5", "--dropoutl", "0.1"], "nhid"),
    "LSTM, past decode regularisation": (["--pdr", "0.001"], None),
    "LSTM, partial shuffle": (["--partial-shuffle"], None),
}
# Without a schedule of their own, systems are trained in one cycle of Adam. These are for four epochs.
OPTIMIZERS = {
    "Adam, one cycle": ([], None),
    "Adam, averaged after epoch 2": (["--optimizer", "averaged-adam", "--lr", "4e-3", "--beta2", "0.99",
                                      "--average-from", "2", "--epochs", "4"], None),
    "AdaBelief, lr 1e-2, divided by 10 after epochs 2 and 3": (["--optimizer", "adabelief", "--lr", "1e-2",
                                                                "--when", "2", "3", "--epochs", "4"], None),
    "AdaBelief, lr 4e-3, divided by 10 after epochs 2 and 3": (["--optimizer", "adabelief", "--lr", "4e-3",
                                                                "--when", "2", "3", "--epochs", "4"], None),
    "SGD, lr 30, averaged after epoch 2": (["--optimizer", "sgd", "--lr", "30", "--average-from", "2",
                                            "--epochs", "4"], None),
}
SETS = {"systems": SYSTEMS, "optimizers": OPTIMIZERS}


def parameters(words):
    """How many parameters the model has that these flags of main.py describe."""
    args = options.parse(training.make_parser(), words)
    model.refuse_unsupported(args)
    with torch.device("meta"):
        return model.count_parameters(model.build(vars(model.resolve(args, WORDS)), WORDS))


def fitted(flags, width, most_parameters):
    """The flags with the largest `width` at which the model has at most `most_parameters` parameters."""
    if width is None:
        return [*SIZE, *flags]
    largest = bisect_right(range(1, 4000), most_parameters,
                           key=lambda n: parameters([*SIZE, *flags, f"--{width}", str(n)]))
    return [*SIZE, *flags, f"--{width}", str(max(1, largest))]


def run(folder, name, flags, seed, args):
    """Train one system with one seed, unless that was done -> its result, and ms/batch of its fastest 100 batches."""
    save = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}.pt"
    if not save.with_suffix(".result.json").exists():
        quarter = args.epochs / 8
        cycle = [] if "--optimizer" in flags else [*CYCLE, quarter, 3 * quarter, 3 * quarter, quarter]
        if not set(flags) & {"--precision"} and not model.supports(vars(options.parse(training.make_parser(), flags))
                                                                   ) & {"bf16"}:
            flags = [*flags, "--precision", "fp32"]
        command = [sys.executable, HERE.parent / "main.py", "--data", args.data, *SETTINGS, *cycle, *flags,
                   "--seed", seed, "--save", save, "--resume", "auto"]
        with open(save.with_suffix(".log"), "a") as log:
            done = subprocess.run(list(map(str, command)), stdout=log, stderr=log, check=False,
                                  env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(f"small_scale.py: error: {name}, seed {seed}, ended with status {done.returncode}; see {log.name}")
    log = save.with_suffix(".log").read_text(encoding="utf-8")
    return {**json.loads(save.with_suffix(".result.json").read_text(encoding="utf-8")),
            "ms/batch": min(map(float, re.findall(r"ms/batch +([\d.]+)", log)))}


def table(results_by_system, seeds):
    """Markdown: one row for each system, means over the seeds; ms/batch of the fastest 100 batches of all its runs."""
    lines = [f"| | parameters | validation | seeds {' and '.join(map(str, seeds))} | test | ms/batch |",
             "|---|---|---|---|---|---|"]
    for name, results in results_by_system.items():
        valid, test = ([result[split]["perplexity"] for result in results] for split in ("valid", "test"))
        lines.append(f"| {name} | {results[0]['parameters'] / 1e6:.3f}M | {statistics.mean(valid):.1f} | "
                     f"{', '.join(f'{value:.1f}' for value in valid)} | {statistics.mean(test):.1f} | "
                     f"{min(result['ms/batch'] for result in results):.0f} |")
    return "\n".join(lines) + "\n"


def draw(results_by_system, file):
    """Validation perplexity after every epoch, of each system the mean over its seeds."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for i, (name, results) in enumerate(results_by_system.items()):
        losses = [statistics.mean(epoch["valid_loss"] for epoch in epochs)
                  for epochs in zip(*(result["epochs"] for result in results))]
        axes.plot(range(1, len(losses) + 1), [perplexity(loss) for loss in losses], marker="o", color=f"C{i}",
                  label=f"{name}: {perplexity(losses[-1]):.1f}")
    axes.set(xlabel="epoch", ylabel="validation perplexity", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    save(figure, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("folder", type=Path, help="folder for runs, logs, table and picture")
    parser.add_argument("--data", default="data/penn", help="folder of the corpus")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=float, default=4, help="epochs of one cycle of Adam; optimizers need 4")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    most_parameters = parameters(SIZE)
    flags = {name: fitted(words, width, most_parameters) for name, (words, width) in SETS[args.set].items()}
    with ThreadPoolExecutor(args.workers) as pool:
        jobs = {name: [pool.submit(run, args.folder, name, words, seed, args) for seed in args.seeds]
                for name, words in flags.items()}
        results_by_system = {name: [job.result() for job in runs] for name, runs in jobs.items()}
    made = table(results_by_system, args.seeds)
    with atomic_write(args.folder / "TABLE.md") as out:
        out.write(made)
    print(made, end="")
    draw(results_by_system, args.folder / "PICTURE.png")


if __name__ == "__main__":
    main()
