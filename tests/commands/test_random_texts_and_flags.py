"""Corpora and command lines that nobody would write on purpose: success or one line, never a traceback."""
import shutil

import pytest
from conftest import SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_damaged_files import attempt

SETTINGS = settings(max_examples=200, deadline=None, database=None, derandomize=True,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                           HealthCheck.data_too_large])

words = st.text(st.characters(codec="utf-8"), max_size=12)
lines = st.lists(words, max_size=12).map(" ".join)
good = st.just(b"a b c d\n" * 40)
texts = st.one_of(
    good, good,
    st.binary(max_size=300),
    st.lists(lines, max_size=60).map(lambda found: "\n".join(found).encode()),
    st.lists(lines, max_size=60).map(lambda found: ("\ufeff" + "\r\n".join(found)).encode()),
    st.lists(lines, max_size=60).map(lambda found: "\u2028\x85\x0c".join(found).encode("utf-8", "surrogatepass")),
    st.lists(lines, max_size=30).map(lambda found: "\n".join(found).encode("utf-16")),
    st.tuples(good, st.binary(max_size=9), good).map(b"".join),
    st.integers(1, 3).map(lambda n: b"x" * (500_000 * n)),
    st.integers(0, 50).map(lambda n: b"\n" * n))

flags = st.sampled_from([
    "--model", "--emsize", "--nhid", "--nlayers", "--tied", "--no-tied", "--cutoffs", "--dropout", "--dropouth",
    "--dropouti", "--dropoute", "--wdrop", "--alpha", "--beta", "--wdecay", "--lr", "--clip", "--epochs", "--epoch",
    "--batch_size", "--bptt", "--max-seq-len-delta", "--nonmono", "--eval-batch-size", "--optimizer", "--when",
    "--resume", "--checkpoint-minutes", "--max-minutes", "--max-bad-steps", "--device", "--cuda", "--seed",
    "--log-interval", "--vocab", "--cache", "--pdr", "--turn-steps", "--patience", "--partial-shuffle",
    "--nope", "-x", "--", "--window", "--theta"])
values = st.one_of(
    st.sampled_from(["0", "1", "2", "7", "-1", "0.5", "1.0", "1e-3", "1e400", "nan", "inf", "-0", "", " ", "LSTM",
                     "GRU", "QRNN", "sgd", "adam", "auto", "cpu", "cuda:7", "mps", "all", "train", "none", "True",
                     "0x10", "1_0", "٣", "99999999999999999999999", "a.pt", "/dev/null", "toy.pt", "\ud800"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    return tmp_path


@pytest.mark.slow
@SETTINGS
@given(texts, texts, texts, st.sampled_from(["all", "train"]), st.sampled_from([[], ["--cutoffs", "2", "5"]]))
def test_malformed_corpora(folder, train, valid, test, vocab, cutoffs):
    contents = {"train": train, "valid": valid, "test": test}
    for split, text in contents.items():
        (folder / "corpus" / f"{split}.txt").write_bytes(text)
    failure = attempt("main.py", ["--data", "corpus", *SMALL, "--vocab", vocab, *cutoffs, "--cache", "cache",
                                  "--epochs", 1, "--eval-batch-size", 2, "--save", "a.pt"])
    assert not failure, failure
    for split, text in contents.items():
        assert (folder / "corpus" / f"{split}.txt").read_bytes() == text


@pytest.mark.slow
@SETTINGS
@given(st.lists(st.tuples(flags, values), min_size=1, max_size=4),
       st.sampled_from(["main.py", "finetune.py", "pointer.py", "generate.py"]))
def test_malformed_command_lines(folder, toy, trained, pairs, script):
    shutil.copy(trained / "toy.pt", folder / "toy.pt")
    words = [word for pair in pairs for word in pair]
    common = {"main.py": ["--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt", "--max-minutes", "0.01"],
              "finetune.py": ["--epochs", 1, "--save", "toy.pt", "--max-minutes", "0.01"],
              "pointer.py": ["--save", "toy.pt", "--max-minutes", "0.01"],
              "generate.py": ["--save", "toy.pt", "--words", 3]}[script]
    before = {path: path.read_bytes() for path in (*toy.iterdir(), folder / "toy.pt")}
    failure = attempt(script, [*common, *words])
    assert not failure, failure
    assert {path: path.read_bytes() for path in before} == before
