"""The records: how low a test perplexity two CPU cores reach in a night, from result files.

    python results/records.py            prints the table
    python results/records.py --write    puts it into results/records.md

Penn Treebank; at most 24.5 million parameters that are trained, two CPU cores, at most 12 hours by the median epoch
(epochs times the median of their seconds, so that pauses and other work on the machine do not count). What counts is
the test perplexity of the model as trained: batch size 1, one pass, nothing learned or kept while it reads.

A record is a line of RECORDS; what it says besides comes from its result file.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from table import hours, with_tables

PAGE = HERE / "records.md"
BEGIN = "<!-- made by results/records.py -->\n"
MOST_PARAMETERS, MOST_HOURS = 24.5e6, 12

RECORDS = [    # result file, what changed against the one before
    ("cpu/ptb-overnight-141.result.json", "42 epochs of Adam in one cycle with dropouts somewhat below the paper's"),
]


def record(path):
    """The facts of a result file of main.py -> dict. ValueError where it is no record by the rules above."""
    result = json.loads(Path(path).read_text(encoding="utf-8"))
    facts = {"date": result["date"][:10], "perplexity": result["test"]["perplexity"], "epochs": len(result["epochs"]),
             "hours": hours(result["epochs"]), "parameters": result["parameters"],
             "commit": result["commit"][:7], "processor": result["device"].removeprefix("cpu "),
             "command": result["command"]}
    if not result["device"].startswith("cpu ") or ", 2 threads" not in result["device"]:
        raise ValueError(f"{path} was not trained by two CPU threads: {result['device']}")
    if facts["parameters"] > MOST_PARAMETERS or facts["hours"] > MOST_HOURS:
        raise ValueError(f"{path} has {facts['parameters']:,} parameters and took {facts['hours']:.1f} hours; a record "
                         f"has at most {MOST_PARAMETERS:,.0f} and {MOST_HOURS}")
    return facts


def table(records=RECORDS, folder=HERE):
    """The table as Markdown, and below it the commands. ValueError where a record is not below the one before."""
    lines = ["| date | test perplexity | hours | epochs | what changed | commit | processor |",
             "|---|---|---|---|---|---|---|"]
    commands, best = [], float("inf")
    for number, (name, change) in enumerate(records, start=1):
        facts = record(Path(folder) / name)
        if facts["perplexity"] >= best:
            raise ValueError(f"{name} has {facts['perplexity']:.2f} and is not below the record before it, {best:.2f}")
        best = facts["perplexity"]
        lines.append(f"| {facts['date']} | **{best:.2f}** | {facts['hours']:.1f} | {facts['epochs']} | {change} "
                     f"| {facts['commit']} | {facts['processor']} |")
        commands += [f"{number}. [{name}]({name})", "", "   ```sh", f"   python {facts['command']}", "   ```", ""]
    return "\n".join([*lines, "", "Commands:", "", *commands])


if __name__ == "__main__":
    made = table()
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), made, BEGIN), encoding="utf-8")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        print(made, end="")
