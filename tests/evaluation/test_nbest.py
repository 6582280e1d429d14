"""n-best lists: read, scored as lines on their own, and the best of each."""
import json

import pytest
from conftest import run_script

from evaluation import nbest
from runtime.errors import InputError

LISTS = "u1 -1.5 w1 w8 w25\nu2\t-3\tw3 w22\n\nu1 -1.0  w8   w1\nu2 -3 w3\tw22\nu3 2e0\n"
HYPOTHESES = [("u1", -1.5, "w1 w8 w25"), ("u2", -3, "w3 w22"), ("u1", -1, "w8 w1"), ("u2", -3, "w3 w22"), ("u3", 2, "")]


def test_lists_are_read(tmp_path):
    (tmp_path / "lists").write_text(LISTS)
    found = nbest.read_lists(tmp_path / "lists", "lists", "hypothesis")
    assert [tuple(row.values()) for row in found] == HYPOTHESES
    for bad, number in ("u1 1 a\nu1\n", 2), ("u1 one a\n", 1), ("\nu1 nan a\n", 2), ("a 1 b\nb inf c\n", 2):
        (tmp_path / "lists").write_text(bad)
        with pytest.raises(InputError, match=f"lists: line {number} is not an id, a score"):
            nbest.read_lists(tmp_path / "lists", "lists", "hypothesis")


def test_a_hypothesis_that_was_ruled_out_is_never_the_best(trained, call, tmp_path):
    (tmp_path / "lists").write_text("u1 -inf w1 w8 w25\nu1 -40 w3 w3\n")
    call("evaluate.py", "--save", trained / "toy.pt", "--device", "cpu", "--nbest", "lists", "--rescored", "r",
         "--best", "b", "--format", "json")
    rows = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert [row["score"] for row in rows] == [None, -40] and rows[0]["combined"] is None     # JSON knows no infinity
    assert json.loads((tmp_path / "b").read_text())["hypothesis"] == "w3 w3"


def test_the_best_of_each_list():
    rows = [{"id": name, "combined": score, "n": n} for n, (name, score) in enumerate(
        [("b", 1), ("a", 5), ("b", 3), ("b", 3), ("a", -1)])]
    assert [row["n"] for row in nbest.best(rows)] == [2, 1]


def test_the_script(trained, call, tmp_path):
    (tmp_path / "lists").write_text(LISTS)
    (tmp_path / "text").write_text("".join(words + "\n" for _, _, words in HYPOTHESES))
    common = ["--save", trained / "toy.pt", "--device", "cpu", "--format", "json"]
    call("evaluate.py", *common, "--text", "text", "--context", "reset", "--per-sentence", "s")
    said = call("evaluate.py", *common, "--nbest", "lists", "--weight", "0.3", "--rescored", "r", "--best", "b")
    assert "evaluation.lists.reset.result.json" in said and "rescored r, best b" in said
    lines, rows, best = ([json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in "srb")
    assert [(row["id"], row["score"], row["hypothesis"]) for row in rows] == HYPOTHESES
    assert [row["logprob"] for row in rows] == pytest.approx([line["logprob"] for line in lines], rel=1e-6)
    for row in rows:
        assert row["combined"] == pytest.approx(row["score"] + 0.3 * row["logprob"])
    first = max(rows[0], rows[2], key=lambda row: row["combined"])
    assert best == [first, rows[1], rows[4]]


def test_scores_go_to_standard_output_and_bad_lists_are_refused(trained, tmp_path):
    common = ["--save", trained / "toy.pt", "--device", "cpu", "--nbest", "-"]
    done = run_script("evaluate.py", *common, cwd=tmp_path, input=LISTS)
    heading, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert heading == ["id", "score", "logprob", "combined", "hypothesis"] and len(rows) == 5
    assert rows[3][4] == "w3 w22" and float(rows[0][3]) == pytest.approx(float(rows[0][1]) + float(rows[0][2]))
    for words, text, says in ([], "u1 x y\n", "line 1"), ([], "\n", "empty"), (
            ["--context", "carry"], LISTS, "its own"), (["--text", "a"], LISTS, "--text and --nbest"):
        done = run_script("evaluate.py", *common, *words, cwd=tmp_path, input=text, status=1)
        assert says in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
