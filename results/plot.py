"""Pictures of what was measured.

    python results/plot.py                        makes curves.png, ablations.png and overnight.png in results/
    python results/plot.py runs/a.jsonl b.jsonl   makes curves.png here, of these runs
    python results/plot.py --every 30 runs        and again every 30 seconds, of all runs in the folder, also new ones

A curve is a run's file of JSON lines (NAME.jsonl) or its result (NAME.result.json). Needs matplotlib.
"""
import argparse
import json
import math
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import table

from runtime.paths import atomic_write


def pyplot():
    """matplotlib, drawing into files; a clear error where it is missing."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot.py: error: it draws with matplotlib, which is not here; pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def epochs(path):
    """The epochs in a run's file -> list of dicts. Raises OSError, and ValueError for a file that is none."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        entries = (json.loads(text)["epochs"] if path.name.endswith(".result.json") else
                   [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()])   # one may be half written
        return [{"epoch": int(e["epoch"]), "switch_epoch": e["switch_epoch"],
                 **{name: None if e[name] is None else float(e[name]) for name in ("lr", "train_loss", "valid_loss")}}
                for e in entries]
    except (KeyError, TypeError, ValueError):
        raise ValueError("not a run's NAME.jsonl or NAME.result.json") from None


def read(paths, live=False):
    """The runs that `paths` name, and of folders all runs in them -> {name: epochs}.

    Ends the script with one line for a file that is none; not, while it is `live`, for one that is not there yet.
    """
    runs = {}
    for path in paths:
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            try:
                runs[file] = epochs(file)
            except FileNotFoundError:
                if not (live or path.is_dir()):
                    sys.exit(f"plot.py: error: {file}: no such file")
            except (OSError, ValueError) as error:
                if not path.is_dir():
                    sys.exit(f"plot.py: error: {file}: {getattr(error, 'strerror', None) or error}")
    if not (runs or live):
        sys.exit(f"plot.py: error: no NAME.jsonl of a run in {', '.join(map(str, paths))}")
    names = [file.name.removesuffix(".jsonl").removesuffix(".result.json") for file in runs]
    return dict(zip(names if len(set(names)) == len(names) else map(str, runs), runs.values()))


def perplexities(losses):
    return [math.nan if loss is None else math.exp(min(loss, 20)) for loss in losses]


OVERNIGHT = table.HERE / "cpu" / "curve_ptb_overnight.jsonl"
MANY = 10               # runs from which on the legend stands beside the curves


def draw_curves(runs, out):
    """Validation perplexity (solid) and that of training with its dropouts (dotted); a dot where averaging starts."""
    plt = pyplot()
    runs = {name: run for name, run in runs.items() if run}
    figure, axes = plt.subplots(figsize=(8 if len(runs) <= MANY else 12, max(5, 0.17 * len(runs))))
    colours = [plt.get_cmap("tab10" if len(runs) <= 10 else "turbo")(i if len(runs) <= 10 else i / len(runs))
               for i in range(len(runs))]
    for colour, (name, run) in zip(colours, runs.items()):
        numbers, valid = [e["epoch"] for e in run], perplexities(e["valid_loss"] for e in run)
        axes.plot(numbers, valid, label=name, color=colour, marker="." if len(run) == 1 else None)
        axes.plot(numbers, perplexities(e["train_loss"] for e in run), ":", color=colour, linewidth=1)
        switch = run[-1]["switch_epoch"]
        if switch in numbers:
            axes.plot(switch, valid[numbers.index(switch)], "o", color=colour)
    axes.set(xlabel="epoch", ylabel="perplexity (dotted: training, with dropout)", yscale="log")
    plain = plt.matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.4g}")
    axes.yaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    if high < 20 * low:                           # few powers of ten: the numbers between them, too
        axes.yaxis.set_minor_formatter(plain)
    else:
        axes.yaxis.set_minor_formatter(plt.matplotlib.ticker.NullFormatter())
    axes.xaxis.set_major_locator(plt.matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    if len(runs) > MANY:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7, ncols=1 + len(runs) // 45)
    elif runs:
        axes.legend()
    save(figure, out)


def draw_overnight(run, results, out):
    """Validation perplexity and learning rate of overnight.sh's run on PTB; lines for what lowered it by 5% or more.

    run: epochs, as of `epochs`. results: as of `table.read`.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 5))
    rates = axes.twinx()
    numbers = [e["epoch"] for e in run]
    rates.fill_between(numbers, [e["lr"] for e in run], color="0.9")
    rates.set(ylabel="learning rate (grey)", ylim=(0, None))
    axes.set_zorder(rates.get_zorder() + 1)                           # the curve before the grey
    axes.patch.set_visible(False)
    axes.plot(numbers, perplexities(e["valid_loss"] for e in run), ".-", label="validation")
    axes.plot(numbers, perplexities(e["train_loss"] for e in run), ":", color="C0", linewidth=1,
              label="training, with dropout")
    trained = min(perplexities(e["valid_loss"] for e in run))
    for i, (title, made_by, part, _) in enumerate(table.OVERNIGHT[1:], 1):
        scores = table.ours(results["ptb-overnight", made_by], part)
        if scores and scores[0][0] < 0.95 * trained:   # others would cover each other
            axes.axhline(scores[0][0], color=f"C{i}", linewidth=1, label=f"{title}: {scores[0][0]:.1f}")
    axes.axhline(table.OVERNIGHT[0][3]["ptb"][0], color="black", linestyle="--", linewidth=1,
                 label="AWD-LSTM in the paper, after 500 epochs")
    axes.set(xlabel="epoch", ylabel="perplexity", yscale="log")
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.xaxis.set_major_locator(plt.matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    save(figure, out)


def draw_ablations(results, out):
    """What each ingredient is worth: test perplexity lost without it, in the paper and, where there are runs, here."""
    plt = pyplot()
    figure, panels = plt.subplots(1, len(table.CORPORA), figsize=(11, 4), sharey=True)
    _, *rows = table.ABLATIONS                    # the first is without nothing
    for axes, (corpus, name) in zip(panels, table.CORPORA.items()):
        whole, *paper = [published[corpus][1] for *_, published in table.ABLATIONS]
        bars = [("paper", [test - whole for test in paper], None)]
        for recipe, label in ((corpus, "here"), (f"{corpus}-small", "here, a small model and text")):
            base, *without = [table.ours(results[recipe + suffix, script]) for _, suffix, script, _ in table.ABLATIONS]
            if base and any(without):
                bars.append((label, [f[1][0] - base[1][0] if f else math.nan for f in without],
                             [f[1][1] or 0 if f else 0 for f in without]))
        height = 0.8 / max(2, len(bars))
        for i, (label, lost, spread) in enumerate(bars):
            places = [place - 0.4 + (i + 0.5) * height for place in range(len(rows))]
            axes.barh(places, lost, 0.95 * height, xerr=spread, label=label, color="0.75" if i == 0 else None)
        axes.set(title=name, xlabel="test perplexity lost")
        axes.set_yticks(range(len(rows)), [title for title, *_ in rows])
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=len(bars), frameon=False)
    panels[0].set_ylabel("without")
    panels[0].invert_yaxis()
    save(figure, out)


def save(figure, out):
    """Write the picture, at no moment half of it: it may be looked at while it is made again."""
    figure.tight_layout()
    try:
        with atomic_write(out, "wb") as file:
            figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    except OSError as error:
        sys.exit(f"plot.py: error: {out} cannot be written ({error.strerror})")
    pyplot().close(figure)
    print(out)


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="files NAME.jsonl, or folders of them")
    parser.add_argument("--every", type=float, metavar="S", help="seconds between drawings, until Ctrl-C")
    parser.add_argument("--out", metavar="FILE.png", help="the picture (curves.png)")
    return parser


def main():
    args = make_parser().parse_args()
    if not args.runs and (args.every is not None or args.out):
        sys.exit("plot.py: error: --every and --out need runs to draw")
    if args.every is not None and not 0 < args.every < 1e6:
        sys.exit("plot.py: error: --every needs a number of seconds above 0")
    out = args.out or "curves.png"
    if not out.endswith(".png"):
        sys.exit(f"plot.py: error: --out {out}: it draws PNG pictures; give a name that ends in .png")
    if not args.runs:
        trained = [path for path in table.HERE.glob("*/*.result.json")
                   if json.loads(path.read_text(encoding="utf-8"))["script"] in ("main.py", "finetune.py")]
        logged = {*table.HERE.glob("*/curve_*.jsonl")} - {OVERNIGHT}      # its result has the same epochs
        draw_curves(read(sorted([*trained, *logged])), table.HERE / "curves.png")
        results = table.read()
        draw_ablations(results, table.HERE / "ablations.png")
        draw_overnight(epochs(OVERNIGHT), results, table.HERE / "overnight.png")
        return
    draw_curves(read(args.runs, bool(args.every)), out)
    while args.every:
        time.sleep(args.every)
        draw_curves(read(args.runs, True), out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
