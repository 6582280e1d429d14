"""The command `awd-lstm`: its subcommands are the scripts of the project."""
from runtime import errors

errors.prepare_process()               # before torch is imported, as when a script is run

import ast  # noqa: E402
import importlib.util  # noqa: E402
import sys  # noqa: E402

from runtime import program  # noqa: E402

SCRIPTS = ("bench", "dynamiceval", "ensemble", "evaluate", "export", "finetune", "generate", "main", "pointer",
           "prepare", "tune")
SUBCOMMANDS = {program.RENAMED.get(script, script): script for script in SCRIPTS}
PACKAGE = errors.__name__.removesuffix("runtime.errors")         # "" in the repository, "awd_lstm." installed


def about(script):
    """The first line of what a script says of itself; it is not imported, which takes seconds."""
    source = importlib.util.find_spec(PACKAGE + script).loader.get_source(PACKAGE + script)
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def usage():
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {about(script)}" for name, script in sorted(SUBCOMMANDS.items())]
    return "\n".join([f"usage: {program.COMMAND} SUBCOMMAND ...", "", *lines, "",
                      f"{program.COMMAND} SUBCOMMAND --help lists the flags of one."])


def main():
    asked, *words = sys.argv[1:] or [""]
    if asked in ("-h", "--help"):
        print(usage())
        return 0
    if asked not in SUBCOMMANDS:
        print(f"{program.COMMAND}: error: " + (f"there is no subcommand {asked!r}" if asked else "name a subcommand")
              + f"; use one of {', '.join(sorted(SUBCOMMANDS))}", file=sys.stderr)
        return 2
    return errors.run(lambda: importlib.import_module(PACKAGE + SUBCOMMANDS[asked]).main(words))
