"""What this process runs: a script, as `python main.py`, or a subcommand of the installed program, `awd-lstm train`."""
import os
import sys

COMMAND = "awd-lstm"
RENAMED = {"main": "train"}           # scripts whose subcommand has another name


def name():
    """As usage and errors call it: `main.py`, or `awd-lstm train`."""
    return f"{COMMAND} {sys.argv[1]}" if _is_subcommand() else os.path.basename(sys.argv[0])


def script():
    """The name of the script, `main.py` in both cases: as results have it."""
    if not _is_subcommand():
        return os.path.basename(sys.argv[0])
    return {subcommand: script for script, subcommand in RENAMED.items()}.get(sys.argv[1], sys.argv[1]) + ".py"


def _is_subcommand():
    stem = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return stem == COMMAND and len(sys.argv) > 1 and not sys.argv[1].startswith("-")
