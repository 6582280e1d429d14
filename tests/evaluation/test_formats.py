"""What is written of a text: surprisal, entropy, the formats of other tools, words out of pieces, hidden states."""
import json
import math

import numpy as np
import pytest
import torch
from conftest import run_script

import checkpoint
from evaluation.formats import lm_zoo_rows, neural_complexity_rows, reductions, token_rows
from evaluation.pieces import join_pieces
from evaluation.scoring import Scores
from evaluation.text import Text
from runtime import devices

WORDS = ["the", "cat", "<eos>", "<eos>", "a", "dog", "<eos>"]
TEXT = Text("text", WORDS, [word == "<eos>" for word in WORDS], [False] * 7, [])
SCORES = Scores([-math.log(2) * bits for bits in (1, 2, 3, 0, 5, 6, 7)], None,
                [math.log(2) * bits for bits in (3, 1, 2, 5, 4, 4.5, 0.5)])


def test_rows_of_other_tools():
    rows = list(neural_complexity_rows(TEXT, SCORES))
    assert [list(row.values())[:4] for row in rows] == [["the", 0, 0, 3], ["cat", 0, 1, 3], ["a", 2, 0, 1],
                                                       ["dog", 2, 1, 3]]
    assert list(rows[0]) == ["word", "sentid", "sentpos", "wlen", "surp", "entropy", "entred"]
    assert [row["surp"] for row in rows] == pytest.approx([1, 2, 5, 6])
    assert [row["entropy"] for row in rows] == pytest.approx([3, 1, 4, 4.5])
    assert [row["entred"] for row in rows] == pytest.approx([0, 2, 0, 0])
    rows = list(lm_zoo_rows(TEXT, SCORES))
    assert list(rows[0]) == ["sentence_id", "token_id", "token", "surprisal"]
    assert [(row["sentence_id"], row["token_id"]) for row in rows] == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2),
                                                                      (3, 3)]
    assert [row["token"] for row in rows] == WORDS and str(rows[3]["surprisal"]) == "0.0"
    assert [row["surprisal"] for row in lm_zoo_rows(TEXT, SCORES, "nats")] == pytest.approx(
        [-logprob for logprob in SCORES.logprobs])


def test_reduction_is_within_a_line():
    assert reductions([3, 1, 2, 0.5, 4, 1], [0, 0, 1, 0, 0, 1]) == [0, 2, 0, 0, 0, 3]


def test_surprisal_is_added_where_it_is_asked_for():
    plain = next(token_rows(TEXT, Scores(SCORES.logprobs)))
    assert list(plain) == ["position", "sentence", "word", "logprob", "unknown"]
    row = list(token_rows(TEXT, SCORES))[1]
    assert list(row)[4:] == ["surprisal", "entropy", "entropy_reduction", "unknown"]
    assert list(row.values())[4:7] == pytest.approx([2, 1, 2])
    row = list(token_rows(TEXT, Scores(SCORES.logprobs), "nats"))[1]
    assert row["surprisal"] == -row["logprob"] and "entropy" not in row


def test_words_out_of_pieces():
    """Probabilities multiply along the pieces of a word; the first one's entropy is what was open before it."""
    pieces = ["un", "break", "able", "cat", "<eos>", "x", "<eos>"]
    text = Text("text", pieces, [p == "<eos>" for p in pieces], [False, True, False, False, False, False, False], [])
    scores = Scores([-1.0, -2.0, -4.0, -0.5, -0.25, -3.0, -1.0], [1] * 7, [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    words = ["unbreakable", "cat", "<eos>", "x", "<eos>"]
    joined, found = join_pieces(text, scores, [0, 0, 0, 1, 2, 3, 4], words)
    assert found == Scores([-7.0, -0.5, -0.25, -3.0, -1.0], None, [7.0, 4.0, 3.0, 2.0, 1.0])
    assert joined.words == words and joined.ends == [False, False, True, False, True]
    assert joined.unknown == [True, False, False, False, False]
    assert sum(found.logprobs) == sum(scores.logprobs)
    assert [row["wlen"] for row in neural_complexity_rows(joined, found)] == [11, 3, 1]
    assert join_pieces(text, Scores(scores.logprobs), range(7), pieces) == (text, Scores(scores.logprobs))


# ---- the script

def rows_of(text):
    heading, *rows = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(heading, row)) for row in rows]


def test_formats_of_the_script(trained, call, tmp_path):
    """Against the model itself: every figure, the first word's among them."""
    (tmp_path / "text").write_text("w1 w8 w25\n\nw3 w22\n")
    common = ["--save", trained / "toy.pt", "--device", "cpu", "--text", "text", "--context", "reset"]
    call("evaluate.py", *common, "--format", "neural-complexity", "--per-token", "n.tsv")
    call("evaluate.py", *common, "--format", "lm-zoo", "--per-token", "l.tsv", "--unit", "nats")
    call("evaluate.py", *common, "--per-token", "t.json", "--format", "json", "--entropy", "--features", "f.npz",
         "--layer", "all")
    contents = checkpoint.load(trained / "toy.pt")
    model = checkpoint.restore(contents, "toy.pt", devices.Compute(torch.device("cpu"), "fp32"))
    ids = {word: i for i, word in enumerate(contents["vocabulary"])}
    bits, entropies, states = [], [], []
    for line in (["w1", "w8", "w25", "<eos>"], ["<eos>"], ["w3", "w22", "<eos>"]):
        read = torch.tensor([ids["<eos>"], *(ids[word] for word in line)])
        with torch.no_grad():
            features, _, raw, _ = model(read[:, None], model.init_hidden(1), return_h=True)
            p = model.logprob(features[:-1]).double().exp()
        bits += (-p[range(len(line)), read[1:]].log2()).tolist()
        entropies += (-(p * p.log2()).sum(1)).tolist()
        states += raw[-1][1:, 0]
    rows = rows_of((tmp_path / "n.tsv").read_text())
    kept = [0, 1, 2, 5, 6]
    assert [float(row["surp"]) for row in rows] == pytest.approx([bits[i] for i in kept], rel=1e-4)
    assert [float(row["entropy"]) for row in rows] == pytest.approx([entropies[i] for i in kept], rel=1e-4)
    assert [(row["word"], row["sentid"], row["sentpos"]) for row in rows] == [
        ("w1", "0", "0"), ("w8", "0", "1"), ("w25", "0", "2"), ("w3", "2", "0"), ("w22", "2", "1")]
    assert float(rows[1]["entred"]) == pytest.approx(max(0, entropies[0] - entropies[1]), rel=1e-3)
    assert [float(row["surprisal"]) for row in rows_of((tmp_path / "l.tsv").read_text())] == pytest.approx(
        [b * math.log(2) for b in bits], rel=1e-4)
    rows = [json.loads(line) for line in (tmp_path / "t.json").read_text().splitlines()]
    assert [row["surprisal"] for row in rows] == pytest.approx(bits, rel=1e-4) and rows[0]["rank"] >= 1
    assert [row["entropy"] for row in rows] == pytest.approx(entropies, rel=1e-4)
    arrays = np.load(tmp_path / "f.npz")
    assert arrays["word"].tolist() == [row["word"] for row in rows] and {"layer_1", "layer_2"} < set(arrays)
    assert arrays["sentence"].tolist() == [1, 1, 1, 1, 2, 3, 3, 3] and arrays["position"].tolist() == list(range(1, 9))
    np.testing.assert_allclose(arrays["layer_2"], torch.stack(states).numpy(), atol=1e-5)


def test_a_tools_format_goes_to_standard_output(trained, tmp_path):
    done = run_script("evaluate.py", "--save", trained / "toy.pt", "--device", "cpu", "--text", "-", "--format",
                      "lm-zoo", cwd=tmp_path, input="w1 w8\n")
    assert [row["token"] for row in rows_of(done.stdout)] == ["w1", "w8", "<eos>"] and "| summary" in done.stderr


@pytest.mark.parametrize(("words", "says"), [
    (["--split", "test", "--format", "lm-zoo"], "--context reset"), (["--split", "test", "--entropy"], "--per-token"),
    (["--split", "test", "--unit", "bits"], "--unit"), (["--layer", "1"], "--features"),
    (["--features", "f.npz"], "--split"), (["--split", "test", "--features", "f.npz", "--layer", "3"], "has 2 layers"),
    (["--split", "test", "--features", "-"], "name of a file"), (["--weight", "2"], "--nbest")])
def test_bad_flags(words, says, trained, tmp_path):
    done = run_script("evaluate.py", "--save", trained / "toy.pt", *words, cwd=tmp_path, status=1)
    assert says in done.stderr and not done.stdout and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
