"""Names and figures of result files, and lines of figures."""
import errno
import importlib
import json
import os
import re
import shutil
from contextlib import contextmanager

import pytest

from runtime import record
from runtime.errors import InputError


def test_every_evaluation_has_a_result_of_its_own(trained, call, tmp_path):
    (tmp_path / "a.pt").write_bytes((trained / "toy.pt").read_bytes())
    (tmp_path / "some text.txt").write_text("w1 w2\n")
    for words in ([], ["--split", "test"], ["--split", "test", "--context", "reset"], ["--mc-samples", 2],
                  ["--temperature", 0.9], ["--text", "some text.txt"]):
        call("evaluate.py", "--save", "a.pt", *words)
    assert {path.name for path in tmp_path.glob("*.result.json")} == {
        f"a.evaluation{name}.result.json" for name in ("", ".mc-2", ".some-text-txt", ".temperature-0.9", ".test",
                                                       ".test.reset")}
    found = json.loads((tmp_path / "a.evaluation.test.result.json").read_text())["test"]
    assert found["bits_per_token"] == pytest.approx(found["loss"] / 0.6931471805599453)


def test_bits_are_of_tokens_in_lines_of_our_own(trained, call, tmp_path):
    (tmp_path / "a.pt").write_bytes((trained / "toy.pt").read_bytes())
    said = call("evaluate.py", "--save", "a.pt") + call("pointer.py", "--save", "a.pt", "--window", 50)
    own = [line for line in said.splitlines() if " loss " in line and "End of" not in line]
    assert len(own) == 6 and all("bits per token" in line and "bpc" not in line for line in own)
    assert re.search(r"End of pointer \| test loss .* test bpc", said)                # as published


def test_a_result_of_other_flags_is_kept(trained, call, tmp_path):
    """The name tells some runs apart, a number the others; the same command takes the place of its own result."""
    shutil.copy(trained / "toy.pt", tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    for folder in "one", "other":
        (tmp_path / folder / "text.txt").write_text("w1 w8\n")
    common = {"evaluate.py": ["--save", "toy.pt", "--device", "cpu"]}
    common["pointer.py"] = [*common["evaluate.py"], "--window", 9]
    common["ensemble.py"] = ["--device", "cpu"]
    runs = [("evaluate.py", ["--text", "one/text.txt"], "toy.evaluation.text-txt"),
            ("evaluate.py", ["--text", "other/text.txt"], "toy.evaluation.text-txt.2"),
            ("evaluate.py", ["--text", "one/text.txt", "--unknown", "error"], "toy.evaluation.text-txt.3"),
            ("evaluate.py", ["--text", "one/text.txt", "--precision", "bf16"], "toy.evaluation.text-txt.4"),
            ("pointer.py", ["--theta", 1], "toy.pointer"), ("pointer.py", ["--theta", 2], "toy.pointer.2"),
            ("pointer.py", ["--search"], "toy.pointer.3"),
            ("ensemble.py", ["toy.pt", "toy.pt:cache,theta=1.0"], "toy.ensemble.toy-cache"),
            ("ensemble.py", ["toy.pt", "toy.pt:cache,theta=2.0"], "toy.ensemble.toy-cache.2"),
            ("ensemble.py", ["toy.pt", "toy.pt:cache,theta=2.0", "--split", "test"], "toy.ensemble.toy-cache.3")]
    for _ in range(2):
        for script, words, name in runs:
            said = call(script, *common[script], *words)
            assert f"result {name}.result.json" in said
            assert ("is kept; the result of this one goes to" in said) == name[-1].isdigit()
    assert {path.name for path in tmp_path.glob("*.result.json")} == {f"{name}.result.json" for *_, name in runs}


def test_a_text_whose_name_is_as_long_as_names_can_be(trained, call, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)
    names = ["a" * 240, "ž" * 120]
    for name in names:
        (tmp_path / name).write_text("w1 w8\n")
        said = call("evaluate.py", "--save", "toy.pt", "--text", name, "--device", "cpu")
        assert "could not be written" not in said and "| result toy.evaluation." in said.replace(", result", "| result")
    assert len(list(tmp_path.glob("*.result.json"))) == 2


@pytest.mark.parametrize(("script", "words"), [
    ("main.py", ["--save"]), ("finetune.py", ["--save"]), ("pointer.py", ["--save"]), ("dynamiceval.py", ["--save"]),
    ("evaluate.py", ["--split", "test", "--save"]), ("ensemble.py", ["toy.pt"])])
def test_a_model_whose_name_leaves_no_room_for_others_is_told_before_any_work(script, words, trained, monkeypatch,
                                                                              tmp_path):
    """The text is not even looked for."""
    name = f"{'ž' * 119}.pt"
    shutil.copy(trained / "toy.pt", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    words = [name] if script == "ensemble.py" else [*words, name]
    with pytest.raises(InputError, match=r"^ž.*: the name is too long; give a shorter one$"):
        importlib.import_module(script.removesuffix(".py")).main([*words, "--data", "nowhere"])
    assert os.listdir(tmp_path) == [name]


def test_names_of_many_files_are_cut(trained, call, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)
    names = [letter * 120 for letter in "abc"]
    for name in names:
        (tmp_path / name).write_text(json.dumps({"sentence_good": "w1 w8", "sentence_bad": "w8 w1"}) + "\n")
    assert "could not be written" not in call("evaluate.py", "--save", "toy.pt", "--minimal-pairs", *names)


def test_a_result_that_cannot_be_written_is_not_named_as_written(trained, call, tmp_path, monkeypatch):
    shutil.copy(trained / "toy.pt", tmp_path)

    @contextmanager
    def full(path, *more):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(record, "atomic_write", full)
    for script in "evaluate.py", "pointer.py":
        said = call(script, "--save", "toy.pt", "--device", "cpu")
        assert "could not be written (No space left on device)" in said
        assert "result.json" not in said[said.index("| summary"):]
