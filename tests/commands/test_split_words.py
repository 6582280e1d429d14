"""--split-words in prepare.py, evaluate.py, generate.py and export.py, as a user types them."""
import json
import math

import pytest
from conftest import SMALL, run_script

import checkpoint

TYPED = "I don't know, Mr. Smith!\n\nShe said: (it's late).\n"
CUT = "I do n't know , Mr. Smith !\n\nShe said : ( it 's late ) .\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model of words, made from text as it is typed."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "raw.txt").write_text(TYPED * 60)
    run_script("prepare.py", "text", "raw.txt", "--out", "corpus", "--split-words", "ptb", cwd=folder)
    run_script("main.py", "--data", "corpus", *SMALL, "--epochs", 1, "--save", "m.pt", cwd=folder)
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_come_back_as_typed_and_surprisals_add_up(model, call, tmp_path):
    assert "do n't know , Mr. Smith !" in (model / "corpus" / "train.txt").read_text()
    (tmp_path / "typed.txt").write_text(TYPED)
    (tmp_path / "cut.txt").write_text(CUT)
    common = ["--save", model / "m.pt", "--device", "cpu", "--format", "json", "--context", "reset"]
    call("evaluate.py", *common, "--text", "typed.txt", "--per-token", "w", "--per-sentence", "s", "--entropy")
    call("evaluate.py", *common, "--text", "typed.txt", "--per-token", "p", "--parts", "--entropy")
    call("evaluate.py", *common, "--text", "cut.txt", "--per-token", "c", "--split-words", "none", "--entropy")
    words, pieces, plain = (rows_of(tmp_path / name) for name in "wpc")
    assert pieces == plain and [row["word"] for row in pieces] == CUT.replace("\n", " <eos> ").split()
    assert [row["word"] for row in words] == TYPED.replace("\n", " <eos> ").split()
    assert math.fsum(row["surprisal"] for row in words) == pytest.approx(math.fsum(row["surprisal"] for row in pieces))
    assert words[1]["surprisal"] == pytest.approx(pieces[1]["surprisal"] + pieces[2]["surprisal"])
    assert words[1]["entropy"] == pieces[1]["entropy"] and words[1]["sentence"] == 1 and words[6]["sentence"] == 2
    sentences = rows_of(tmp_path / "s")
    assert [row["logprob"] for row in sentences] == pytest.approx(
        [math.fsum(row["logprob"] for row in words if row["sentence"] == i) for i in (1, 2, 3)])
    assert sentences[0]["text"].startswith("I don't know, Mr. Smith!")


def test_lower_case_and_hints(trained, tmp_path):
    """The toy model has neither <unk> nor capitals."""
    for text, words, says in ("W1 w8\n", [], "does not know"), ("W1 w8,\n", ["--lower"], "w8,"):
        done = run_script("evaluate.py", "--save", trained / "toy.pt", "--text", "-", *words, cwd=tmp_path, input=text,
                          status=1)
        assert says in done.stderr
    done = run_script("evaluate.py", "--save", trained / "toy.pt", "--text", "-", "--lower", "--context", "reset",
                      "--per-token", "-", cwd=tmp_path, input="W1 w8\n")
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == ["word", "W1", "w8", "<eos>"]


def test_unknown_words_that_another_way_of_reading_knows(model, tmp_path):
    def hints(text, *words):
        return run_script("evaluate.py", "--save", model / "m.pt", "--text", "-", *words, cwd=tmp_path,
                          input=text).stderr
    assert "1 of the 1 would be known with --split-words ptb" in hints("I don't know\n", "--split-words", "none")
    assert "with --lower" in hints("I LATE late\n") and "with" not in hints("zebra\n")
    assert "no spaces" in hints("\u4eca\u5929\u5929\u6c14 \u5f88\u597d\n")
    assert "figures per piece" in hints("know@@ late\n") and "figures per piece" not in hints("know late\n")


def test_the_flags_are_of_models_of_words(tmp_path):
    (tmp_path / "raw.txt").write_text(TYPED * 30)
    done = run_script("prepare.py", "text", "raw.txt", "--out", "c", "--tokenizer", "chars", "--split-words", "ptb",
                      cwd=tmp_path, status=1)
    assert "--split-words is of words" in done.stderr and not (tmp_path / "c").exists()


def test_generation_and_export_read_as_typed(model, tmp_path):
    done = run_script("generate.py", "--save", model / "m.pt", "--prompt", "I don't know,", "--words", 3, "--outf", "-",
                      cwd=tmp_path)
    assert "does not know" not in done.stderr and done.stdout.startswith("I don't know, ")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    run_script("export.py", "--save", model / "m.pt", "--to", "hf", "hf", cwd=tmp_path)
    read = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    words = checkpoint.vocabulary_of(checkpoint.load(model / "m.pt"))
    for line in TYPED.split("\n"):
        assert read.encode(line, add_special_tokens=False).ids == [words.index(part)
                                                                   for part in words.tokenizer.encode(line)]
