"""What may be searched, how it is written, and that what is drawn lies in it."""
import math

import pytest

import main
from cells import CELLS
from runtime import options
from runtime.errors import InputError
from training import space

FLAGS = main.make_parser().flags


def one(word):
    dimension, = space.parse([word], FLAGS)
    return dimension


def drawn(word, times):
    """Values that Optuna draws at random."""
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    return [one(word).suggest(study.ask()) for _ in range(times)]


@pytest.mark.parametrize(("word", "expected"), [
    ("alpha=0:4", ((), 0.0, 4.0, False)), ("--lr=log:1:40", ((), 1.0, 40.0, True)),
    ("nlayers=1:3", ((), 1, 3, False)), ("batch-size=log:4:64", ((), 4, 64, True)),
    ("forget-bias=-2e-5:-1e-5", ((), -2e-5, -1e-5, False)),
    ("nlayers=1,3", ((1, 3), 0, 0, False)), ("model=LSTM,GRU", (("LSTM", "GRU"), 0, 0, False)),
    ("tied=true,false", ((True, False), 0, 0, False)), ("skip-output=false,true", ((False, True), 0, 0, False))])
def test_what_can_be_written(word, expected):
    found = one(word)
    assert (found.choices, found.low, found.high, found.log) == expected
    assert found.choices or type(found.low) is type(expected[1])
    for value in drawn(word, 20):
        assert found.contains(value)
        words = found.flag.words(value)
        assert getattr(options.parse(main.make_parser(), words), found.name) == value       # as main.py reads it


@pytest.mark.parametrize(("word", "named"), [
    ("alpha", "NAME=LOW:HIGH"), ("=1:2", "NAME=LOW:HIGH"), ("alpha=", "NAME=LOW:HIGH"),
    ("alhpa=0:4", "no flag --alhpa"),
    ("alpha=4:0", "LOW < HIGH"), ("alpha=1:1", "LOW < HIGH"), ("alpha=-1:4", "at least 0"), ("alpha=x:4", "at least 0"),
    ("alpha=log:0:4", "0 < LOW"), ("alpha=lin:0:4", "NAME=LOW:HIGH"), ("alpha=0:1:4", "NAME=LOW:HIGH"),
    ("alpha=3", "two different"), ("alpha=3,3", "two different"), ("nlayers=1.5:3", "whole number"),
    ("dropout=0:1", "probability"), ("model=LSTM:GRU", "no range"), ("model=LSTM,Lstm", "none of"),
    ("tied=yes,no", "true"), ("tied=true:false", "no range"), ("lr=nan:1", "positive"),
    *((f"{name}=1,2", "cannot be searched") for name in (
        "save", "data", "line-ends", "epochs", "seed", "when", "cutoffs", "resume", "max-minutes", "log-interval",
        "cuda"))])
def test_what_cannot_is_refused_in_one_line(word, named):
    with pytest.raises(InputError, match=named) as error:
        space.parse([word], FLAGS)
    assert "\n" not in str(error.value) and word in str(error.value)


def test_a_flag_is_searched_once():
    with pytest.raises(InputError, match="twice"):
        space.parse(["batch-size=1:2", "batch_size=1:2"], FLAGS)


def test_a_logarithmic_range_is_drawn_evenly_in_the_logarithm():
    rates, sizes = drawn("lr=log:1:100", 400), drawn("batch-size=log:1:8", 400)
    assert sum(rate < 10 for rate in rates) / len(rates) == pytest.approx(0.5, abs=0.1)
    assert sizes.count(1) / len(sizes) == pytest.approx(math.log(1.5 / 0.5) / math.log(8.5 / 0.5), abs=0.1)


@pytest.mark.parametrize(("words", "there", "missing"), [
    ([], {"lr": (1.5, 150), "alpha": (0, 4), "wdrop": (0, 0.7)}, []),
    (["--optimizer", "adam"], {"lr": (5e-5, 5e-3)}, []),
    (["--lr", "3", "--alpha", "2", "--nlayers", "1"], {"beta": (0, 2)}, ["lr", "alpha", "dropouth"])])
def test_the_default_space(words, there, missing, monkeypatch):
    args = options.parse(main.make_parser(), words)
    found = {d.name: d for d in space.parse(space.default(args), FLAGS)}
    assert {name: (found[name].low, found[name].high) for name in there} == there and not set(missing) & set(found)
    monkeypatch.setattr(CELLS[args.model], "supports", frozenset())
    assert "wdrop" in found and "wdrop" not in " ".join(space.default(args))
