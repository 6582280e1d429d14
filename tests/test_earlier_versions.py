"""Models and training states that earlier versions wrote are read, continued and evaluated to the same figures.

tests/data/COMMIT has what that commit made: models, states, and the results of evaluating and continuing them there.
"""
import json
import shutil

import pytest
from conftest import ROOT

MADE = ROOT / "tests" / "data" / "c25a54f"
FLAGS = {"lstm": ["--nonmono", 1], "gru": [], "qrnn": []}           # of which the state does not know


@pytest.fixture(params=FLAGS)
def name(request, tmp_path):
    for file in MADE.glob(f"{request.param}*.pt"):
        shutil.copy(file, tmp_path)
    shutil.copytree(MADE / "toy", tmp_path / "toy")
    return request.param


def figures(path, *keys):
    contents = json.loads(path.read_text())
    return [contents[key]["loss"] for key in keys]


@pytest.mark.parametrize("what", ["evaluation", "pointer"])
def test_evaluated_to_the_same_figures(what, name, call, tmp_path):
    script, words = {"evaluation": ("evaluate.py", []), "pointer": ("pointer.py", ["--window", 50])}[what]
    call(script, "--data", "toy", "--device", "cpu", "--save", f"{name}.pt", *words)
    file = f"{name}.{what}.result.json"
    assert figures(tmp_path / file, "valid", "test") == pytest.approx(figures(MADE / file, "valid", "test"), rel=1e-5)


def test_continued_to_the_same_figures(name, call, tmp_path):
    said = call("main.py", "--data", "toy", "--device", "cpu", "--save", f"{name}.pt", "--resume", f"{name}.state.pt",
                "--epochs", 5)
    expected = json.loads((MADE / f"{name}.continued.result.json").read_text())
    found = json.loads((tmp_path / f"{name}.result.json").read_text())
    assert "continuing from" in said
    assert [e["switch_epoch"] for e in found["epochs"]] == [e["switch_epoch"] for e in expected["epochs"]]
    for key in ("valid_loss", "lr"):
        assert [e[key] for e in found["epochs"]] == pytest.approx([e[key] for e in expected["epochs"]], rel=1e-5)
    assert found["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-5)


def test_fine_tuned(name, call, tmp_path):
    call("finetune.py", "--data", "toy", "--device", "cpu", "--save", f"{name}.pt", "--epochs", 1)
    assert (tmp_path / f"{name}.finetuned.result.json").exists()
