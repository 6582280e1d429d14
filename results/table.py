"""Tables from the results of finished recipes: what was measured here, beside what was published.

    python results/table.py            prints them
    python results/table.py --write    puts those of what was measured into README.md, the records into
                                       results/records.md, all others into docs/results.md

A result counts if a recipe made it (the recipes in recipes/ say so to the scripts): copy `runs/*.result.json` into a
folder beside this file. Ours are exact perplexities, validation / test, as the mean over seeds, with the standard
deviation where there are several, and the number of runs. Rows and columns of which nothing is known are left out, and
so is the table of overnight.sh until a run of it is there.

The records: how low a test perplexity on Penn Treebank two CPU cores reach in a night, by the rules that
results/records.md has. A record is a line of RECORDS; what it says besides comes from its result file.
"""
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
README, DOCS, RECORDS_PAGE = HERE.parent / "README.md", HERE.parent / "docs" / "results.md", HERE / "records.md"
BEGIN, END = "<!-- made by results/table.py -->\n", "<!-- end -->\n"
CORPORA = {"ptb": "PTB", "wt2": "WikiText-2"}

# title, what follows the corpus in a recipe's name, script; then validation and test of the paper and of the published
# code's README, for each corpus
MAIN = [
    ("AWD-LSTM", "", "main.py", {"ptb": ((60.7, 58.8), (61.2, 58.8)), "wt2": ((69.1, 66.0), (68.7, 65.6))}),
    ("fine-tuned", "", "finetune.py", {"ptb": ((60.0, 57.3), (58.8, 56.5)), "wt2": ((68.6, 65.8), (67.4, 64.7))}),
    ("fine-tuned, with cache", "", "pointer.py",
     {"ptb": ((53.9, 52.8), (53.2, 52.5)), "wt2": ((53.8, 52.0), (52.2, 50.6))}),
    ("fine-tuned, with dynamic evaluation (Krause et al.)", "", "dynamiceval.py",
     {"ptb": ((51.6, 51.1), None), "wt2": ((46.4, 44.3), None)}),
    ("QRNN", "-qrnn", "main.py", {"ptb": (None, (60.6, 58.3)), "wt2": (None, (69.3, 66.8))}),
    ("QRNN, fine-tuned", "-qrnn", "finetune.py", {"ptb": (None, (59.1, 56.7)), "wt2": (None, (68.5, 65.9))}),
    ("QRNN, fine-tuned, with cache", "-qrnn", "pointer.py",
     {"ptb": (None, (53.4, 52.6)), "wt2": (None, (53.6, 52.1))}),
    ("GRU", "-gru", "main.py", {}),
    ("GRU, fine-tuned", "-gru", "finetune.py", {}),
    ("GRU, fine-tuned, with cache", "-gru", "pointer.py", {}),
    ("MoS, 15 softmaxes (Yang et al.; the paper's †)", "-mos", "main.py",
     {"ptb": ((58.08, 55.97), (58.34, 56.18)), "wt2": ((66.01, 63.33), None)}),
    ("MoS, fine-tuned", "-mos", "finetune.py",
     {"ptb": ((56.54, 54.44), (56.83, 54.64)), "wt2": ((63.88, 61.45), None)}),
    ("90 epochs of Adam in one cycle", "-fast", "main.py", {}),
    ("90 epochs of Adam in one cycle, with cache", "-fast", "pointer.py", {}),
    ("variational LSTM, medium (Gal and Ghahramani)", "-variational-medium", "main.py", {"ptb": ((81.9, 79.7), None)}),
    ("with Monte Carlo dropout", "-variational-medium", "evaluate.py --mc-samples 100", {"ptb": ((None, 78.6), None)}),
    ("variational LSTM, large", "-variational-large", "main.py", {"ptb": ((77.9, 75.2), (77.5, 75.1))}),
    ("with Monte Carlo dropout", "-variational-large", "evaluate.py --mc-samples 100",
     {"ptb": ((None, 73.4), (None, 73.3))}),
    ("recurrent highway network (Zilly et al.)", "-rhn", "main.py", {"ptb": ((67.9, 65.4), None)}),
    ("LSTM with skip connections (Melis et al. 2018)", "-skip-lstm", "main.py",
     {"ptb": ((60.9, 58.3), None), "wt2": ((69.1, 65.9), None)}),
    ("Mogrifier LSTM (Melis et al. 2020) †", "-mogrifier", "main.py", {"ptb": ((52.1, 51.0), None)}),
    ("with Monte Carlo dropout", "-mogrifier", "evaluate.py --mc-samples 200",
     {"ptb": ((51.4, 50.1), None), "wt2": ((57.3, 55.1), None)}),
    ("plain LSTM (Grave et al.)", "-lstm-cache", "main.py", {"ptb": ((None, 82.3), None), "wt2": ((None, 99.3), None)}),
    ("plain LSTM, with cache", "-lstm-cache", "pointer.py",
     {"ptb": ((None, 72.1), None), "wt2": ((None, 68.9), None)}),
]
# title, what follows the corpus in a recipe's name, script, the paper's validation and test for each corpus
ABLATIONS = [
    ("nothing (the whole, fine-tuned)", "", "finetune.py", {"ptb": (60.0, 57.3), "wt2": (68.6, 65.8)}),
    ("fine-tuning", "", "main.py", {"ptb": (60.7, 58.8), "wt2": (69.1, 66.0)}),
    ("variable sequence lengths", "-without-variable-bptt", "finetune.py", {"ptb": (61.3, 58.9), "wt2": (69.3, 66.2)}),
    ("AR and TAR", "-without-ar-tar", "finetune.py", {"ptb": (62.7, 60.3), "wt2": (73.2, 70.1)}),
    ("weight decay", "-without-weight-decay", "finetune.py", {"ptb": (63.7, 61.0), "wt2": (71.9, 68.7)}),
    ("embedding dropout", "-without-embedding-dropout", "finetune.py", {"ptb": (65.1, 62.7), "wt2": (71.1, 68.1)}),
    ("NT-ASGD", "-without-nt-asgd", "main.py", {"ptb": (66.3, 63.7), "wt2": (73.3, 69.7)}),
    ("the small, tied embedding", "-without-small-embedding", "finetune.py",
     {"ptb": (68.0, 65.6), "wt2": (73.7, 70.7)}),
    ("weight-dropping", "-without-weight-drop", "finetune.py", {"ptb": (71.1, 68.9), "wt2": (78.4, 74.9)}),
]
# of ablations.sh small, besides: without all at once, and with other cells
UNREGULARISED = ("dropout of any kind, AR, TAR and weight decay", "-without-regularisation", "finetune.py", {})
OTHER_CELLS = [("LSTM", ""), ("GRU of the same width", "-gru"), ("GRU of as many parameters", "-gru-same-size"),
               ("QRNN, four layers", "-qrnn")]
# of overnight.sh: title, what made it (see `kind`), what follows a split's name in its result, the paper's validation
# and test for each corpus
OVERNIGHT = [
    ("as trained", "main.py", "", {"ptb": (60.7, 58.8), "wt2": (69.1, 66.0)}),
    ("at a temperature chosen on validation", "evaluate.py --search-temperature", "", {}),
    ("averaged over 10 samples of the dropout masks", "evaluate.py --mc-samples 10", "_sampled", {}),
    ("averaged over 50 samples", "evaluate.py --mc-samples 50", "_sampled", {}),
    ("mixed with a small second model", "ensemble.py", "", {}),
    ("fine-tuned", "finetune.py", "", {"ptb": (60.0, 57.3), "wt2": (68.6, 65.8)}),
    ("with the neural cache", "pointer.py", "", {"ptb": (53.9, 52.8), "wt2": (53.8, 52.0)}),
    ("with dynamic evaluation", "dynamiceval.py", "_without_cache", {"ptb": (51.6, 51.1), "wt2": (46.4, 44.3)}),
    ("with dynamic evaluation and the cache", "dynamiceval.py", "", {}),
]

MOST_PARAMETERS, MOST_HOURS = 24.5e6, 12            # of a record
RECORDS = [    # of results/records.md: result file, what changed against the one before
    ("cpu/ptb-overnight-141.result.json", "42 epochs of Adam in one cycle with dropouts somewhat below the paper's"),
]


def kind(result):
    """By what a result was made: its script and, of evaluate.py, what tells one evaluation of a model from another."""
    settings = result["settings"]
    if result["script"] == "evaluate.py" and settings["search_temperature"]:
        return "evaluate.py --search-temperature"
    if result["script"] == "evaluate.py" and settings["mc_samples"]:
        return f"evaluate.py --mc-samples {settings['mc_samples']}"
    return result["script"]


def read(folder=HERE):
    """Results of recipes under `folder` -> {(recipe, kind): [result, …]}.

    A seed that was run twice counts once, by its latest result; results of one split each (`--split`) are joined.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).rglob("*.result.json")]
    latest = {}
    for result in sorted(results, key=lambda result: result["date"]):
        if result["recipe"]:
            key = result["recipe"], kind(result), result["settings"]["seed"]
            one_split = result["settings"].get("split", "both") != "both"
            latest[key] = latest.get(key, {}) | result if one_split else result
    by_recipe = defaultdict(list)
    for (recipe, made_by, _), result in latest.items():
        by_recipe[recipe, made_by].append(result)
    return by_recipe


def ours(results, part=""):
    """(validation mean, deviation), (test mean, deviation), number of runs; None where none has both splits.

    part: what follows a split's name in the results, e.g. "_without_cache".
    """
    splits = ["valid" + part, "test" + part]
    results = [result for result in results if all(split in result for split in splits)]
    if not results:
        return None
    columns = [[result[split]["perplexity"] for result in results] for split in splits]
    return (*((statistics.mean(c), statistics.stdev(c) if len(c) > 1 else None) for c in columns), len(results))


def shown(pair):
    return " / ".join("–" if x is None else f"{x:.1f}" for x in pair) if pair else ""


def shown_ours(scores):
    if not scores:
        return ""
    *splits, runs = scores
    figures = " / ".join(f"{mean:.2f}" + (f" ± {spread:.2f}" if spread is not None else "") for mean, spread in splits)
    return f"{figures} ({runs})"


def small_ablations(results):
    """Lines of the tables of `ablations.sh small`; none where its whole has not run to its end."""
    whole = ours(results["ptb-small", "finetune.py"])
    if not whole:
        return []
    published_whole = ABLATIONS[0][3]["ptb"][1]
    lines = ["", "The same at a small size, on a part of Penn Treebank (`recipes/ablations.sh small all`; see "
             "[below](#what-each-ingredient-is-worth-at-a-small-size)), and the test perplexity that is lost:", "",
             "| without | validation / test | lost here | lost in the paper |", "|---|---|---|---|"]
    for title, suffix, script, published in (*ABLATIONS, UNREGULARISED):
        scores = ours(results["ptb-small" + suffix, script])
        if scores:
            lost = "" if suffix == "" and script == "finetune.py" else f"{scores[1][0] - whole[1][0]:+.2f}"
            theirs = f"{published['ptb'][1] - published_whole:+.1f}" if lost and published else ""
            lines.append(f"| {title} | {shown_ours(scores)} | {lost} | {theirs} |")
    cells = [row for title, suffix in OTHER_CELLS for row in cell_row(results, title, "ptb-small" + suffix)]
    if len(cells) > 1:
        lines += ["", "The whole with other cells (seconds: the fastest epoch of training, on one thread):", "",
                  "| | parameters | seconds | trained | fine-tuned |", "|---|---|---|---|---|", *cells]
    return lines


def cell_row(results, title, recipe):
    """A line of the table of cells, or none -> list."""
    trained, tuned = (results[recipe, script] for script in ("main.py", "finetune.py"))
    if not ours(trained) or not ours(tuned):
        return []
    seconds = min(epoch["seconds"] for result in trained for epoch in result["epochs"])
    return [f"| {title} | {trained[0]['parameters'] / 1e6:.2f}M | {seconds:.1f} | {shown_ours(ours(trained))} | "
            f"{shown_ours(ours(tuned))} |"]


def first_page(results):
    """What was measured here, as Markdown."""
    return joined(line for corpus, name in CORPORA.items() for line in overnight(results, corpus, name))


def tables(results):
    """What was published, with what was measured here beside it, and the ablations, as Markdown."""
    published = []
    for title, suffix, script, theirs in MAIN:
        cells = [title]
        for corpus in CORPORA:
            paper, readme = theirs.get(corpus, (None, None))
            part = "_sampled" if "--mc-samples" in script else ""
            cells += [shown(paper), shown(readme), shown_ours(ours(results[corpus + suffix, script], part))]
        if any(cells[1:]):
            published.append(cells)
    heading = ["", *(f"{name}: {what}" for name in CORPORA.values() for what in ("paper", "published README", "here"))]
    lines = without_empty_columns(heading, published)
    without = []
    for title, suffix, script, theirs in ABLATIONS:
        cells = [title]
        for corpus in CORPORA:
            cells += [shown(theirs[corpus]), shown_ours(ours(results[corpus + suffix, script]))]
        without.append(cells)
    heading = ["without", *(f"{name}: {what}" for name in CORPORA.values() for what in ("paper", "here"))]
    lines += ["", "Without one ingredient (the paper's table 4):", "", *without_empty_columns(heading, without)]
    return joined([*lines, *small_ablations(results)])


def without_empty_columns(heading, rows):
    """A table's lines as Markdown, of lists of cells."""
    filled = [i for i in range(len(heading)) if any(row[i] for row in rows)]
    return ["| " + " | ".join(row[i] for i in filled) + " |" for row in (heading, ["---"] * len(heading), *rows)]


def joined(lines):
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines).strip("\n") + "\n"


def hours(epochs):
    """Of the median epoch: pauses (SIGSTOP), and epochs that had other work beside them, do not count."""
    return len(epochs) * statistics.median(epoch["seconds"] for epoch in epochs) / 3600


def overnight(results, corpus, name):
    """Lines of the table of one corpus; none where the recipe has not run to its end."""
    trained = results[f"{corpus}-overnight", "main.py"]
    if not trained:
        return []
    epochs = trained[0]["epochs"]
    lines = ["", f"{name} on two CPU cores (`recipes/overnight.sh {corpus}`; {processors(trained)}), {len(epochs)} "
             f"epochs in {hours(epochs):.1f} hours:", "", "| | paper, on a GPU | here |", "|---|---|---|"]
    for title, made_by, part, published in OVERNIGHT:
        scores = ours(results[f"{corpus}-overnight", made_by], part)
        if scores:
            lines.append(f"| {title} | {shown(published.get(corpus))} | {shown_ours(scores)} |")
    return lines


def processors(results):
    """The names of what computed, without how many threads."""
    return ", ".join(sorted({result["device"].removeprefix("cpu ").split(",")[0] for result in results}))


def with_tables(page, text):
    """The page with `text` between two marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + text + END + rest.split(END, 1)[1]


def record(path):
    """What a result file of main.py says, and its "hours" -> dict. ValueError where it is no record by the rules."""
    result = json.loads(Path(path).read_text(encoding="utf-8"))
    result["hours"] = hours(result["epochs"])
    if not result["device"].startswith("cpu ") or ", 2 threads" not in result["device"]:
        raise ValueError(f"{path} was not trained by two CPU threads: {result['device']}")
    if result["parameters"] > MOST_PARAMETERS or result["hours"] > MOST_HOURS:
        raise ValueError(f"{path} has {result['parameters']:,} parameters and took {result['hours']:.1f} hours; a "
                         f"record has at most {MOST_PARAMETERS:,.0f} and {MOST_HOURS}")
    return result


def records(listed=RECORDS, folder=HERE):
    """The table as Markdown, and below it the commands. ValueError where a record is not below the one before."""
    lines = ["| date | test perplexity | hours | epochs | what changed | commit | processor |",
             "|---|---|---|---|---|---|---|"]
    commands, best = [], float("inf")
    for number, (name, change) in enumerate(listed, start=1):
        result = record(Path(folder) / name)
        before, best = best, result["test"]["perplexity"]
        if best >= before:
            raise ValueError(f"{name} has {best:.2f} and is not below the record before it, {before:.2f}")
        lines.append(f"| {result['date'][:10]} | **{best:.2f}** | {result['hours']:.1f} | {len(result['epochs'])} "
                     f"| {change} | {result['commit'][:7]} | {result['device'].removeprefix('cpu ')} |")
        commands += [f"{number}. [{name}]({name})", "", "   ```sh", f"   python {result['command']}", "   ```", ""]
    return "\n".join([*lines, "", "Commands:", "", *commands])


if __name__ == "__main__":
    made = read()
    for page, text in (README, first_page(made)), (RECORDS_PAGE, records()), (DOCS, tables(made)):
        if sys.argv[1:] == ["--write"]:
            page.write_text(with_tables(page.read_text(encoding="utf-8"), text), encoding="utf-8")
        elif sys.argv[1:]:
            sys.exit(__doc__)
        else:
            print(text)
