"""`pip install .`: what is installed, that its modules import each other from the package, and that it runs."""
import ast
import importlib.util
import os
import re
import subprocess
import sysconfig
import venv

import pytest
from conftest import ROOT, SMALL, run_script

SETUP = pytest.importorskip("setuptools") and importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
setup = importlib.util.module_from_spec(SETUP)
SETUP.loader.exec_module(setup)

TAKEN = ("data", "utils", "model", "main", "checkpoint", "runtime", "evaluate")       # names of a user's own modules


@pytest.mark.parametrize(("line", "expected"), [
    ("from data import EOS, UNK", "from awd_lstm.data import EOS, UNK"),
    ("from runtime.log import log", "from awd_lstm.runtime.log import log"),
    ("from runtime import errors  # isort: skip", "from awd_lstm.runtime import errors  # isort: skip"),
    ("import data", "from awd_lstm import data"), ("import data as d", "from awd_lstm import data as d"),
    ("def f():\n    from data import (EOS,\n                      UNK)\n",
     "def f():\n    from awd_lstm.data import (EOS,\n                      UNK)\n"),
    ("from database import x", "from database import x"), ("import os, sys", "import os, sys"),
    ("x = 'import data'", "x = 'import data'"), ("from awd_lstm import x", "from awd_lstm import x")])
def test_imports_are_taken_from_the_package(line, expected):
    assert setup.in_package(line, {"data", "runtime"}) == expected


@pytest.mark.parametrize("line", ["import data, os", "import runtime.log"])
def test_an_import_that_cannot_be_taken_from_it_is_an_error(line):
    with pytest.raises(ValueError, match="line 1"):
        setup.in_package(line, {"data", "runtime"})


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder with the commands of a new environment into which the repository was installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    with open(os.path.join(packages, "these.pth"), "w") as file:          # torch and others, as they are here
        file.write(sysconfig.get_path("purelib") + "\n")
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-deps", ROOT], check=True)
    return folder / "bin"


@pytest.fixture
def folder(tmp_path):
    """A user's folder, with modules that have the names of ours."""
    for name in TAKEN:
        (tmp_path / f"{name}.py").write_text(f"MINE = {name!r}\n")
    return tmp_path


def run(*command, cwd, status=0):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_what_is_installed(installed, folder):
    listed = run(installed / "pip", "show", "--files", "awd-lstm", cwd=folder).stdout.partition("Files:\n")[2].split()
    assert {name.partition("/")[0] for name in listed if not name.startswith("..")} == {
        "awd_lstm", "awd_lstm-1.0.0.dist-info"}
    inside = {name.removeprefix("awd_lstm/") for name in listed if name.startswith("awd_lstm/")}
    for name in ("ops/kernels/cells.cpp", "ops/kernels/softmax.cu", "interchange/modeling_awd_lstm.py", "main.py"):
        assert name in inside
    packages = run(installed / "python", "-c", "import awd_lstm; print(awd_lstm.__path__[0])", cwd=folder).stdout[:-1]
    for name in inside:
        if name.endswith(".py"):
            with open(os.path.join(packages, name), encoding="utf-8") as file:
                text = file.read()
            own = {other.partition("/")[0].removesuffix(".py") for other in inside}
            for node in ast.walk(ast.parse(text)):
                names = ([node.module] if isinstance(node, ast.ImportFrom) else
                         [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
                assert not {each.partition(".")[0] for each in names} & own, name
    assert (ROOT / "interchange" / "modeling_awd_lstm.py").read_text() == open(
        os.path.join(packages, "interchange", "modeling_awd_lstm.py"), encoding="utf-8").read()


@pytest.mark.slow
def test_a_users_own_modules_stay_theirs(installed, folder, trained):
    program = "".join(f"import {name}; assert {name}.MINE == {name!r}\n" for name in TAKEN)
    load = f"from awd_lstm import LanguageModel; LanguageModel.load({str(trained / 'toy.pt')!r}).score(['w1 w2'])\n"
    for text in (load + program, program + load):
        run(installed / "python", "-c", text, cwd=folder)


@pytest.mark.slow
def test_the_examples_run_there(installed, folder, trained):
    model, examples, python = trained / "toy.pt", ROOT / "examples", installed / "python"
    assert "perplexity" in run(python, examples / "ten_lines.py", model, "w1 w2", cwd=folder).stdout
    (folder / "nbest.tsv").write_text("u\t-1.0\tw1 w2\nu\t-1.0\tw3\n")
    assert run(python, examples / "rescoring.py", model, "nbest.tsv", cwd=folder).stdout.startswith("u\t")
    assert "test accuracy" in run(python, examples / "classifier.py", cwd=folder).stdout


@pytest.mark.slow
def test_its_command_does_what_the_scripts_do(installed, folder, toy, tmp_path_factory):
    """Training that is stopped, and continued by the line that it prints, ends in the model of the script."""
    here = tmp_path_factory.mktemp("scripts")
    flags = ["--data", toy, *SMALL, "--epochs", 3, "--save", "m.pt"]
    run_script("main.py", *flags, cwd=here)
    stopped = run(installed / "awd-lstm", "train", *flags, "--max-minutes", 0.001, cwd=folder).stdout
    command = re.search(r"to continue: (.*)", stopped)[1].replace("--max-minutes 0.001", "")
    assert "/awd-lstm train" in command
    run("bash", "-c", command, cwd=folder)
    figures = [re.findall(r"ppl +[\d.]+", run_script("evaluate.py", "--save", "m.pt", cwd=here).stdout),
               re.findall(r"ppl +[\d.]+", run(installed / "awd-lstm", "evaluate", "--save", "m.pt", cwd=folder).stdout)]
    assert figures[0] == figures[1] != []
    error = run(installed / "awd-lstm", "evaluate", "--save", "no.pt", cwd=folder, status=1).stderr
    assert error.startswith("awd-lstm evaluate: error: no.pt")
    assert error.count("\n") == 1
    for name in ("finetune", "pointer", "dynamiceval", "generate", "ensemble", "export", "bench"):
        assert run(installed / "awd-lstm", name, "--help", cwd=folder).stdout.startswith(f"usage: awd-lstm {name} ")


@pytest.mark.slow
def test_a_result_does_not_name_the_commit_of_the_folder_around_it(installed, folder, trained):
    """An environment often lies in the repository of another program."""
    environment = installed.parent
    run("git", "init", "--quiet", environment, cwd=folder)
    run("git", "-C", environment, "-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "--allow-empty",
        "-m", "x", cwd=folder)
    found = run(installed / "python", "-c", "from awd_lstm.runtime import record; print(record.commit())", cwd=folder)
    assert found.stdout == "None\n"
