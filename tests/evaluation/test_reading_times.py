"""--predictors: tables for studies of reading times, and the counts of words that they need."""
import csv
import json
import math

import pytest
import torch
from conftest import SMALL, run_script

import checkpoint
from corpus.tokenizers import Words
from corpus.tokens import EOS
from corpus.word_counts import WordCounts, bare, count_words, restore
from evaluation.reading_times import predictor_rows
from evaluation.scoring import Scores
from evaluation.text import Text
from runtime.errors import InputError

WORDS = ["the", "cat", EOS, EOS, "a", "big", "dog", EOS]
TEXT = Text("text", WORDS, [word == EOS for word in WORDS], [False] * 5 + [True, False, False], [],
            [{"item": "i1", "condition": "x", "word": "own"}, {"item": "i2", "condition": "y", "word": "own"},
             {"item": "i3", "condition": "x", "word": "own"}])
SCORES = Scores([-math.log(2) * n for n in range(1, 9)], None, [math.log(2) * n for n in range(11, 19)])


def counts_of(text):
    words = text.replace("\n", f" {EOS} ").split()
    vocabulary = list(dict.fromkeys(words))
    return count_words(torch.tensor([vocabulary.index(word) for word in words]), vocabulary, Words())


def test_rows_by_hand():
    counts = counts_of("the cat the big dog .\nthe dog\n")
    rows = list(predictor_rows(TEXT, SCORES, None, counts, Words(), 2))
    assert [(row["item"], row["condition"], row["word_nr"], row["word"]) for row in rows] == [
        ("i1", "x", 1, "the"), ("i1", "x", 2, "cat"), ("i3", "x", 1, "a"), ("i3", "x", 2, "big"), ("i3", "x", 3, "dog")]
    assert " ".join(rows[0]) == (
        "item condition word_nr word surprisal entropy length log_freq unknown prev_surprisal prev_entropy prev_length "
        "prev_log_freq prev2_surprisal prev2_entropy prev2_length prev2_log_freq word_given")
    assert [row["surprisal"] for row in rows] == pytest.approx([1, 2, 5, 6, 7])
    assert [row["entropy"] for row in rows] == pytest.approx([11, 12, 15, 16, 17])
    # 8 words of 5 kinds, one more of each kind: the 4 of 13, cat 2, a 1 that was never seen, dog 3
    assert [row["log_freq"] for row in rows] == [
        pytest.approx(math.log(n / 13 * 1e6)) if n else None for n in (4, 2, 1, None, 3)]
    assert [row["prev_surprisal"] for row in rows] == [None, rows[0]["surprisal"], None, *(
        row["surprisal"] for row in rows[2:4])]
    assert [row["prev2_length"] for row in rows] == [None, None, None, None, 1]
    assert rows[4]["prev_log_freq"] is None and rows[4]["prev2_log_freq"] == rows[2]["log_freq"]
    assert "prev_length" not in next(predictor_rows(TEXT, SCORES, None, counts, Words(), 0))


def test_counts_without_punctuation_and_of_split_words():
    assert [bare(word) for word in ('"Hug?"', "don't", "...", "U.S.", "(well-known),")] == [
        "Hug", "don't", "...", "U.S", "well-known"]
    counts = counts_of("hug ? do n't hug <unk> hug?\n")
    one = lambda word, how: counts.log_frequency(word, how)  # noqa: E731
    assert counts.by_bare["hug"] == 3 and "<unk>" not in counts.by_bare and counts.total == 7
    assert one("hug?", Words(split="ptb")) == one("hug", Words()) == one("HUG", Words(lower=True))
    assert one("don't", Words(split="ptb")) is None and one("?", Words(split="ptb")) == one("?", Words())


@pytest.mark.parametrize("broken", [3, {}, {"words": None, "counts": [1, 2], "total": 3},
                                    {"words": None, "counts": torch.tensor([1, 2, 3]), "total": 3},
                                    {"words": None, "counts": torch.tensor([1, -2]), "total": 3},
                                    {"words": [1, 2], "counts": torch.tensor([1, 2]), "total": 3},
                                    {"words": None, "counts": torch.tensor([1., 2.]), "total": 3}])
def test_counts_that_are_none(broken):
    with pytest.raises(InputError, match="counts of words"):
        restore(broken, ["a", "b"])
    assert restore(None, ["a", "b"]) is None
    assert restore(WordCounts(None, torch.tensor([1, 2]), 3).state(), ["a", "b"]).by_bare == {"a": 1, "b": 2}


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_in_and_out(trained, toy, call, tmp_path):
    """All formats have the same figures, bit for bit; log_freq is that of the training text, counted here anew."""
    (tmp_path / "items.csv").write_text("item,condition,text,list\n1,a,w1 w8 w25,L1\n2,b,w3 w22,L2\n")
    common = ["--save", trained / "toy.pt", "--device", "cpu", "--text", "items.csv", "--column", "text", "--context",
              "reset"]
    for kind in "csv", "tsv", "json":
        call("evaluate.py", *common, "--predictors", "--spillover", 1, "--format", kind, "--per-token", f"out.{kind}")
    call("evaluate.py", *common, "--per-token", "plain.json", "--format", "json", "--entropy")
    rows = read_csv(tmp_path / "out.csv")
    with open(tmp_path / "out.tsv") as file:
        assert list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)) == rows
    found = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in found] == rows
    assert [(row["item"], row["condition"], row["word"], row["list"]) for row in rows] == [
        ("1", "a", "w1", "L1"), ("1", "a", "w8", "L1"), ("1", "a", "w25", "L1"), ("2", "b", "w3", "L2"),
        ("2", "b", "w22", "L2")]
    plain = [json.loads(line) for line in (tmp_path / "plain.json").read_text().splitlines()]
    plain = [row for row in plain if row["word"] != EOS]
    for name in "surprisal", "entropy":
        assert [float(row[name]) for row in rows] == [row[name] for row in plain]
    assert rows[1]["prev_surprisal"] == rows[0]["surprisal"]
    assert rows[0]["prev_surprisal"] == "" == rows[3]["prev_length"]
    text = (toy / "train.txt").read_text().split()
    expected = [math.log((text.count(row["word"]) + 1) / (len(text) + len(set(text))) * 1e6) for row in rows]
    assert [float(row["log_freq"]) for row in rows] == pytest.approx(expected, rel=1e-12)
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(tmp_path / "out.csv", keep_default_na=False, na_values=[""])
    assert table["surprisal"].tolist() == [row["surprisal"] for row in found] and table["prev_length"].isna().sum() == 2


def test_an_older_model_says_that_frequencies_are_not_known(trained, tmp_path):
    contents = checkpoint.read(trained / "toy.pt")
    assert contents.pop("word_counts")
    checkpoint.save(tmp_path / "old.pt", contents)
    done = run_script("evaluate.py", "--save", "old.pt", "--text", "-", "--context", "reset", "--predictors",
                      "--per-token", "-", "--format", "csv", cwd=tmp_path, input="w1 w8\n")
    assert "log_freq is not known" in done.stderr
    assert [row["log_freq"] for row in csv.DictReader(done.stdout.splitlines())] == ["", ""]


def test_a_model_of_pieces_has_counted_words(tmp_path):
    pytest.importorskip("tokenizers")
    line = "the function returns (the list), not the functions.\n"
    (tmp_path / "raw.txt").write_text(line * 60)
    run_script("prepare.py", "text", "raw.txt", "--out", "c", "--tokenizer", "bpe", "--vocab-size", "270", cwd=tmp_path)
    run_script("main.py", "--data", "c", *SMALL, "--epochs", 1, "--save", "m.pt", cwd=tmp_path)
    counts = checkpoint.vocabulary_of(checkpoint.load(tmp_path / "m.pt")).counts
    times = (tmp_path / "c" / "train.txt").read_text().count("\n")
    assert counts.by_bare == {"the": 3 * times, "function": times, "returns": times, "list": times, "not": times,
                              "functions": times} and counts.total == 8 * times
    done = run_script("evaluate.py", "--save", "m.pt", "--text", "-", "--context", "reset", "--predictors",
                      "--per-token", "-", "--format", "csv", cwd=tmp_path, input="The (list).\n")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["word"] for row in rows] == ["The", "(list)."] and rows[1]["length"] == "7"
    assert float(rows[1]["log_freq"]) == pytest.approx(math.log((times + 1) / (8 * times + 6) * 1e6))


@pytest.mark.parametrize(("words", "says"), [
    (["--split", "test", "--predictors", "--per-token", "-"], "--context reset"),
    (["--text", "t", "--predictors"], "--per-token"), (["--text", "t", "--spillover", "1"], "--predictors"),
    (["--text", "t", "--spillover", "3", "--predictors"], "0 to 2"),
    (["--text", "t", "--predictors", "--per-token", "-", "--parts"], "--parts"),
    (["--text", "t", "--predictors", "--per-token", "-", "--format", "lm-zoo"], "lm-zoo")])
def test_bad_flags(words, says, trained, tmp_path):
    (tmp_path / "t").write_text("w1\n")
    done = run_script("evaluate.py", "--save", trained / "toy.pt", *words, cwd=tmp_path,
                      status=2 if says == "0 to 2" else 1)
    assert says in done.stderr and not done.stdout
