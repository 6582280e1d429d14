"""The examples, run as a user runs them, from the repository; test_install.py runs them where it is installed."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from awd_lstm import LanguageModel

HYPOTHESES = [("u1", -3.0, "w1 w8 w15"), ("u1", -2.5, "w3 w3 w3"), ("u2", -7.0, "w4"), ("u2", -6.0, "w4 w29 w2")]


def run_example(name, *words, cwd, status=0):
    done = subprocess.run([sys.executable, ROOT / "examples" / name, *map(str, words)], cwd=cwd, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=300, check=False)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture(scope="session")
def model(trained):
    return trained / "toy.pt"


def test_ten_lines(model, tmp_path):
    out = run_example("ten_lines.py", model, "w1 w8 w15", "w3 w22", cwd=tmp_path)
    lm = LanguageModel.load(model)
    assert f"perplexity {lm.perplexity(['w1 w8 w15', 'w3 w22']):.2f}".rstrip("0") in out
    assert "features (3, 24) ['w1', 'w8', 'w15']" in out
    assert f"sample {' '.join(lm.generate('w1 w8', words=20, seed=1))}\n" in out


@pytest.mark.parametrize("how", [{"--weight": 0.0}, {"--weight": 2.0}, {"--weight": 1.0, "--per-word": 5.0}])
def test_rescoring_takes_the_best_sum(how, model, tmp_path):
    (tmp_path / "nbest.tsv").write_text("".join(f"{u}\t{score}\t{text}\n" for u, score, text in HYPOTHESES))
    out = run_example("rescoring.py", model, "nbest.tsv", *[word for flag in how.items() for word in flag],
                      cwd=tmp_path)
    lm, sums = LanguageModel.load(model), {}
    for utterance, score, text in HYPOTHESES:
        logprob = lm.score([text])[0].logprob
        total = score + how["--weight"] * logprob + how.get("--per-word", 0) * len(text.split())
        sums.setdefault(utterance, []).append((total, text))
    for line, (utterance, found) in zip(out.splitlines(), sums.items(), strict=True):
        total, text = max(found)
        assert line.split("\t")[::2] == [utterance, text]
        assert float(line.split("\t")[1]) == pytest.approx(total, abs=1e-3)


def test_what_they_were_not_told(model, tmp_path):
    assert "demo.pt" in run_example("ten_lines.py", cwd=tmp_path, status=1)
    (tmp_path / "nbest.tsv").write_text("u1\t-3.0\tw1 w8\nu1 -2.5 w3\n")
    said = run_example("rescoring.py", model, "nbest.tsv", cwd=tmp_path, status=2)
    assert "nbest.tsv, line 2" in said


def test_the_classifier_learns_and_averages(tmp_path):
    """It ends with an error where it has learnt too little."""
    out = run_example("classifier.py", cwd=tmp_path)
    assert "| averaged" in out and "test accuracy" in out
