"""Adding a thing touches one place: a cell, a softmax and an optimizer from outside run in every script."""
import re

import extension
import pytest
from conftest import ROOT, SMALL, run_script
from systems import through_every_script

from runtime.errors import InputError

ENTRIES = [(registry, name, registry.pop(name)) for registry, name in [
    (extension.CELLS, "Leaky"), (extension.SOFTMAXES, "projected"), (extension.OPTIMIZERS, "adafactor")]]
EXTENSION = ROOT / "tests" / "extension.py"
KINDS = {"cell": ["--model", "Leaky", "--leak", "0.3"], "softmax": ["--softmax", "projected", "--dropoutl", "0.4"],
         "optimizer": ["--optimizer", "adafactor"]}


@pytest.fixture
def registered(monkeypatch):
    """The entries of extension.py, for one test."""
    for registry, name, entry in ENTRIES:
        monkeypatch.setitem(registry, name, entry)


def block(kind, text):
    """The lines of extension.py from `# kind` to the next such comment."""
    return re.search(rf"^# {kind}\n(.*?)^# \w+$", text, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_the_page_are_these_and_short(kind):
    example = block(kind, EXTENSION.read_text())
    assert example.strip() in (ROOT / "docs" / "extending.md").read_text()
    assert len([line for line in example.splitlines() if line.strip()]) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_works_with_it(kind, registered, toy, call, tmp_path):
    """Training that is killed and continued equals training that was not; then all that reads a model."""
    lr = {"optimizer": 0.01, "softmax": 1}.get(kind, 4)
    through_every_script(call, tmp_path, ["--data", toy, *KINDS[kind], "--lr", lr], by=[EXTENSION])


@pytest.mark.parametrize(("words", "named"), [
    (["--model", "Leaky", "--dropoutr", 0.2], "--dropoutr"),
    (["--model", "Leaky", "--precision", "bf16"], "--precision"),
    (["--softmax", "projected", "--precision", "bf16"], "--precision"),
    (["--model", "LSTM", "--leak", 0.2], "--leak"),
    (["--dropoutl", 0.2], "--dropoutl"),
    (["--model", "QRNN", "--dropoutr", 0.2], "--dropoutr"),
    (["--optimizer", "adafactor", "--beta2", 0.9], "--beta2")])
def test_a_flag_that_is_not_honoured_is_refused_by_name(words, named, registered, toy, tmp_path, call):
    with pytest.raises(InputError, match=named):
        call("main.py", "--data", toy, *SMALL, *words)
    assert not list(tmp_path.glob("model*"))


def test_an_unknown_cell_is_refused_in_one_line(toy, tmp_path):
    assert "Leakyy" in run_script("main.py", "--data", toy, "--model", "Leakyy", cwd=tmp_path, status=2).stderr
