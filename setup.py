"""How `pip install .` makes a package of the repository.

In the repository modules import each other by their own names (`import data`), as it suits scripts. Installed, all of
them lie in the package awd_lstm, and their imports say so (`from awd_lstm import data`): names such as `data` stay free
for the programs of others.
"""
import ast
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "awd_lstm"
SHIPPED = (".py", ".cpp", ".cu", ".h")        # modules, and what is compiled where it is used


def sources(root):
    """What is installed, by its path in the repository: the scripts and modules at the top, and all packages."""
    files = [file for file in root.glob("*.py") if file.name != "setup.py"]
    for package in root.glob("*/__init__.py"):
        files += [file for file in package.parent.rglob("*") if file.suffix in SHIPPED]
    return [file.relative_to(root) for file in files]


def in_package(text, modules):
    """A module's text, importing `modules`, names, from the package; a text without such imports as it is."""
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        line, column = getattr(node, "lineno", 1) - 1, getattr(node, "col_offset", 0)
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in modules:
            changed = lines[line][column:].replace("from ", f"from {PACKAGE}.", 1)
        elif isinstance(node, ast.Import) and any(alias.name.partition(".")[0] in modules for alias in node.names):
            if len(node.names) > 1 or "." in node.names[0].name:
                raise ValueError(f"line {line + 1} imports several modules, or one with a dot: write `from … import …`")
            changed = f"from {PACKAGE} " + lines[line][column:]
        else:
            continue
        lines[line] = lines[line][:column] + changed
    return "".join(lines)


class BuildPackage(build_py):
    def run(self):
        super().run()
        if self.editable_mode:          # the repository itself is on the path
            return
        target = Path(self.build_lib) / PACKAGE
        shutil.rmtree(target, ignore_errors=True)        # an earlier build may have left modules that are gone
        root = Path(__file__).resolve().parent
        files = sources(root)
        modules = {file.parts[0].removesuffix(".py") for file in files} - {PACKAGE}
        for file in files:
            installed = target / (file.relative_to(PACKAGE) if file.parts[0] == PACKAGE else file)
            installed.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".py":
                installed.write_text(in_package((root / file).read_text(encoding="utf-8"), modules), encoding="utf-8")
            else:
                shutil.copyfile(root / file, installed)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPackage})
