"""`awd-lstm`: its subcommands, and the names that it and they go by."""
import importlib

import pytest
from conftest import ROOT, run_script
from test_imports import COMMANDS

from awd_lstm import command
from runtime import program

AS_INSTALLED = "import sys\nfrom awd_lstm.command import main\nsys.exit(main())\n"       # pip writes such a file


@pytest.fixture
def installed(tmp_path):
    """`installed(*words)` runs awd-lstm as pip installs it, but with the repository as the package."""
    (tmp_path / "awd-lstm").write_text(AS_INSTALLED)
    return lambda *words, status=0: run_script(tmp_path / "awd-lstm", *words, cwd=tmp_path, status=status,
                                               env={"PYTHONPATH": str(ROOT)})


def test_every_script_is_a_subcommand():
    assert set(command.SCRIPTS) == {name for name in COMMANDS if (ROOT / f"{name}.py").exists()}
    assert command.SUBCOMMANDS["train"] == "main"
    for name in command.SCRIPTS:
        assert importlib.import_module(name).__doc__.splitlines()[0] == command.about(name)


def test_its_help_lists_them(installed):
    for name in command.SUBCOMMANDS:
        assert f"\n  {name} " in installed("--help").stdout


@pytest.mark.parametrize(("words", "named", "status"), [
    ([], "name a subcommand", 2), (["trian"], "'trian'", 2),
    (["evaluate", "--nosuch"], "awd-lstm evaluate: error: unrecognized arguments: --nosuch", 2),
    (["generate", "--save", "no.pt"], "awd-lstm generate: error: no.pt", 1)])
def test_what_is_wrong_is_one_line_that_begins_with_its_name(words, named, status, installed):
    line, = installed(*words, status=status).stderr.splitlines()
    assert line.startswith("awd-lstm") and named in line


def test_usage_has_its_name(installed):
    assert installed("train", "--help").stdout.startswith("usage: awd-lstm train ")


@pytest.mark.parametrize(("argv", "name", "script"), [
    (["/x/main.py", "train"], "main.py", "main.py"), (["/x/awd-lstm", "train"], "awd-lstm train", "main.py"),
    (["/x/awd-lstm", "evaluate", "--save"], "awd-lstm evaluate", "evaluate.py"),
    (["/x/awd-lstm", "--help"], "awd-lstm", "awd-lstm"), (["mine.py"], "mine.py", "mine.py")])
def test_a_process_knows_what_it_runs(argv, name, script, monkeypatch):
    monkeypatch.setattr("sys.argv", argv)
    assert (program.name(), program.script()) == (name, script)
