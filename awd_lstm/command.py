"""The command `awd-lstm`: its subcommands are the scripts of the project."""
from runtime import errors

errors.prepare_process()               # before torch is imported, as when a script is run

import ast  # noqa: E402
import importlib  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from runtime import program  # noqa: E402

RUNS_MAIN = re.compile(r"^    errors\.run\(main\)$", re.MULTILINE)          # how a script ends


def subcommands():
    """The scripts that there are -> {subcommand: (module, the first line of what it says of itself)}."""
    package = errors.__name__.removesuffix("runtime.errors")         # "" in the repository, "awd_lstm." installed
    found = {}
    for file in sorted(Path(errors.__file__).parents[1].glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if RUNS_MAIN.search(text):
            about = ast.get_docstring(ast.parse(text)).splitlines()[0]
            found[program.RENAMED.get(file.stem, file.stem)] = f"{package}{file.stem}", about
    return found


def usage(known):
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {about}" for name, (_, about) in sorted(known.items())]
    return "\n".join([f"usage: {program.COMMAND} SUBCOMMAND ...", "", *lines, "",
                      f"{program.COMMAND} SUBCOMMAND --help lists the flags of one."])


def main():
    known, (asked, *words) = subcommands(), sys.argv[1:] or [""]
    if asked in ("-h", "--help"):
        print(usage(known))
        return 0
    if asked not in known:
        print(f"{program.COMMAND}: error: " + (f"there is no subcommand {asked!r}" if asked else "name a subcommand")
              + f"; use one of {', '.join(sorted(known))}", file=sys.stderr)
        return 2
    return errors.run(lambda: importlib.import_module(known[asked][0]).main(words))
