"""AR and TAR alone: the validation perplexity of a small model over a grid of --alpha and --beta.

    OMP_NUM_THREADS=1 python results/tuning/surface.py data/penn runs/surface [--lines N] [flags of main.py]

trains a model for each point of the grid, one after another, on the first N lines of the training text and N/5 of the
others (default: all), continues what was interrupted, and writes surface.md and, with matplotlib, surface.png beside
this file after every one.
"""
import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from runtime import record

HERE = Path(__file__).resolve().parent
ALPHAS, BETAS = [0, 1, 2, 4, 8], [0, 0.5, 1, 2, 4]
MODEL = ["--emsize", "100", "--nhid", "200", "--nlayers", "2", "--batch-size", "10", "--bptt", "35", "--dropouti",
         "0.3", "--dropouth", "0.2", "--dropout", "0.3", "--wdrop", "0.3", "--dropoute", "0.05", "--lr", "20"]


def train(folder, alpha, beta, words):
    """The lowest validation perplexity of one point's model."""
    name = folder / f"alpha-{alpha:g}-beta-{beta:g}"
    result = Path(f"{name}.result.json")
    if not result.exists():
        command = [sys.executable, str(ROOT / "main.py"), *words, "--alpha", str(alpha), "--beta", str(beta), "--save",
                   f"{name}.pt", "--resume", "auto"]
        with open(f"{name}.log", "a") as log:
            if subprocess.run(command, stdout=log, stderr=log, check=False).returncode or not result.exists():
                sys.exit(f"surface.py: stopped, see {name}.log; the same command continues")
    return json.loads(result.read_text(encoding="utf-8"))["valid"]["perplexity"]


def write(perplexities, words, text):
    """surface.md and surface.png, of the points so far."""
    lines = [f"Validation perplexity, {text}: `main.py {shlex.join(words)}`, {record.device_name('cpu')}, commit "
             f"{record.commit()}. Made by `results/tuning/surface.py`; rows: AR (`--alpha`), columns: TAR (`--beta`).",
             "", "| | " + " | ".join(f"{beta:g}" for beta in BETAS) + " |", "|---|" + "---|" * len(BETAS)]
    best = min(perplexities.values())
    shown = {point: f"**{value:.2f}**" if value == best else f"{value:.2f}" for point, value in perplexities.items()}
    lines += [f"| {alpha:g} | " + " | ".join(shown.get((alpha, beta), "") for beta in BETAS) + " |" for alpha in ALPHAS]
    (HERE / "surface.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6, 5), layout="constrained")
    grid = [[perplexities.get((alpha, beta), float("nan")) for beta in BETAS] for alpha in ALPHAS]
    image = axes.imshow(grid, origin="lower", cmap="viridis_r")
    for (alpha, beta), value in perplexities.items():
        axes.text(BETAS.index(beta), ALPHAS.index(alpha), f"{value:.1f}", ha="center", va="center",
                  color="black" if value < (best + max(perplexities.values())) / 2 else "white",
                  fontweight="bold" if value == best else None)
    axes.plot(BETAS.index(1), ALPHAS.index(2), "s", markersize=40, markerfacecolor="none", markeredgecolor="tab:red")
    axes.set_xticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    axes.set_yticks(range(len(ALPHAS)), [f"{alpha:g}" for alpha in ALPHAS])
    axes.set(xlabel="TAR (beta)", ylabel="AR (alpha)", title="validation perplexity; red: the paper's values")
    figure.colorbar(image)
    figure.savefig(HERE / "surface.png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the three texts")
    parser.add_argument("folder", type=Path, help="folder for the models")
    parser.add_argument("--lines", type=int, help="lines of the training text; a fifth as many of the others")
    args, words = parser.parse_known_args()
    text = args.folder / "text"
    text.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        lines = (args.source / f"{split}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        count = args.lines if split == "train" or not args.lines else args.lines // 5
        (text / f"{split}.txt").write_text("".join(lines[:count]), encoding="utf-8")
    words = [*MODEL, "--epochs", "12", "--vocab", "train", *words]
    about = f"{args.lines:,} lines of Penn Treebank" if args.lines else "Penn Treebank"
    perplexities = {}
    for alpha, beta in sorted(((a, b) for a in ALPHAS for b in BETAS), key=lambda point: point != (2, 1)):
        perplexities[alpha, beta] = train(args.folder, alpha, beta, ["--data", str(text), *words])
        write(perplexities, words, about)


if __name__ == "__main__":
    main()
