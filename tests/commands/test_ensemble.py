"""ensemble.py as a user runs it, against the scripts that read one model."""
import gc
import importlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import weakref

import pytest
import torch
from conftest import ROOT, SMALL, run_script, stop_after

import checkpoint
import ensemble
import main
from corpus.vocabulary import Vocabulary
from data import Corpus
from evaluation.members import parse_member, result_name
from model import build, resolve
from runtime import errors, options, signals
from runtime.errors import InputError

MODELS = {"lstm": [], "gru": ["--model", "GRU"], "qrnn": ["--model", "QRNN"], "adaptive": ["--cutoffs", "8", "20"]}
DYNAMIC = ["--stat-batch-size", 20, "--lr", 1e-4]


@pytest.fixture
def folder(toy, tmp_path):
    """The folder that `call` runs scripts in, with one untrained model of each kind.

    The adaptive one has its vocabulary in another order.
    """
    for seed, (name, words) in enumerate(MODELS.items()):
        args = options.parse(main.make_parser(), ["--data", str(toy), *SMALL, *words])
        vocabulary = Vocabulary(Corpus(str(toy), by_frequency=name == "adaptive").dictionary.idx2word)
        torch.manual_seed(seed)
        model = build(vars(args := resolve(args, len(vocabulary))), len(vocabulary))
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        checkpoint.save(str(tmp_path / f"{name}.pt"), checkpoint.contents_of(model, args.settings(), vocabulary, {}))
    return tmp_path


@pytest.fixture
def mix(folder, call):
    """`mix(*words)` runs ensemble.py -> what it printed, its result or None."""
    def run(*words):
        said = call("ensemble.py", *words)
        results = list(folder.glob("*.ensemble*.result.json"))
        result = json.loads(results[0].read_text()) if results else None
        for path in results:
            path.unlink()
        return said, result
    return run


def losses(result):
    return [result[split]["loss"] for split in ("valid", "test")]


def of_script(folder, call, script, name, *words, model="lstm"):
    """The result of a script that reads one model."""
    call(script, "--checkpoint", f"{model}.pt", *words)
    return json.loads((folder / f"{model}.{name}.result.json").read_text())


def test_flags_may_stand_between_the_models():
    args = options.parse(ensemble.make_parser(), ["a.pt", "--weights", "valid", "b.pt:cache", "--split", "test", "c"])
    assert args.models == ["a.pt", "b.pt:cache", "c"] and (args.weights, args.split) == ("valid", "test")
    assert args.given == {"models", "weights", "split"}


def test_vocabularies_in_another_order(folder):
    words = [checkpoint.load(str(folder / f"{name}.pt"))["vocabulary"] for name in ("lstm", "adaptive")]
    assert words[0] != words[1] and set(words[0]) == set(words[1])


def test_a_mixture_of_all_kinds_against_their_own_files(folder, call, mix):
    """log of the mean of the probabilities that evaluate.py writes, word by word."""
    names = [*MODELS]
    single = []
    for name in names:
        call("evaluate.py", "--checkpoint", f"{name}.pt", "--split", "test", "--per-token", f"{name}.json", "--format",
             "json")
        single.append([json.loads(line) for line in (folder / f"{name}.json").read_text().splitlines()])
    said, result = mix(*(f"{name}.pt" for name in names), "--split", "test", "--per-token", "all.json", "--format",
                       "json", "--per-sentence", "lines.json", "--html", "page.html")
    rows = [json.loads(line) for line in (folder / "all.json").read_text().splitlines()]
    expected = [math.log(sum(math.exp(row["logprob"]) for row in same) / len(names)) for same in zip(*single)]
    assert [row["logprob"] for row in rows] == pytest.approx(expected, rel=1e-5)
    assert [{**row, "rank": 0, "logprob": 0} for row in rows] == [{**row, "rank": 0, "logprob": 0} for row in single[0]]
    loss = -math.fsum(expected) / len(expected)
    assert result["test"]["loss"] == result["test_equal_weights"]["loss"] == pytest.approx(loss, rel=1e-6)
    for entry, of_one in zip(result["models"], single):
        assert entry["test"]["loss"] == pytest.approx(-math.fsum(row["logprob"] for row in of_one) / len(of_one))
        assert entry["weight"] == 0.25
    assert loss < math.fsum(entry["test"]["loss"] for entry in result["models"]) / len(names)      # Jensen's inequality
    assert "valid" not in result and result["parameters"] == sum(entry["parameters"] for entry in result["models"])
    summed = [json.loads(line)["logprob"] for line in (folder / "lines.json").read_text().splitlines()]
    assert -math.fsum(summed) / len(rows) == pytest.approx(result["test"]["loss"])
    page = (folder / "page.html").read_text()
    assert page.count("data-n=") == len(rows) and "rank" not in page
    assert re.search(r"^\| summary \| test ppl .* per_token all.json, per_sentence lines.json, html page.html, result "
                     r"lstm.ensemble.gru.qrnn.adaptive.result.json$", said, re.MULTILINE)


@pytest.mark.parametrize("weights", ["equal", "valid"])
def test_one_model_and_two_copies_are_that_model(weights, folder, call, mix):
    expected = losses(of_script(folder, call, "evaluate.py", "evaluation"))
    for words in ["lstm.pt"], ["lstm.pt", "lstm.pt"]:
        result = mix(*words, "--weights", weights)[1]
        assert losses(result) == pytest.approx(expected, rel=1e-6)
        assert losses(result) == pytest.approx(losses(result["models"][0]), rel=1e-12)


def test_the_cache_is_that_of_pointer(folder, call, mix):
    flags = ["--window", 60, "--theta", 1, "--lambdasm", 0.2]
    expected = losses(of_script(folder, call, "pointer.py", "pointer", *flags))
    for words in ["lstm.pt:cache", *flags], ["lstm.pt:cache,theta=1,window=60", *flags[-2:]]:
        assert losses(mix(*words)[1]["models"][0]) == pytest.approx(expected, rel=1e-6)
    plain, cached = mix("lstm.pt", "lstm.pt:cache,theta=1,window=60,lambdasm=0.2")[1]["models"]
    assert losses(plain) != losses(cached) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", ["rms", "sgd"])
@pytest.mark.parametrize("model", ["lstm", "adaptive"])
def test_dynamic_evaluation_is_that_of_dynamiceval(model, rule, folder, call, mix):
    flags = ["--stat-batch-size", 20, "--rule", rule, "--window", 60]
    expected = of_script(folder, call, "dynamiceval.py", "dynamic", *flags, "--neural-cache", model=model)
    *_, dynamic, both = mix("gru.pt", f"{model}.pt:dynamic", f"{model}.pt:cache,dynamic", *flags)[1]["models"]
    assert losses(both) == pytest.approx(losses(expected), rel=1e-6)
    assert [dynamic[split]["loss"] for split in ("valid", "test")] == pytest.approx(
        [expected[f"{split}_without_cache"]["loss"] for split in ("valid", "test")], rel=1e-6)
    assert both["settings"]["lr"] == expected["settings"]["lr"]


def test_weights_chosen_on_validation(mix):
    said, result = mix("gru.pt", "lstm.pt:cache,window=20", "qrnn.pt", "--weights", "valid", "--split", "test")
    weights = [entry["weight"] for entry in result["models"]]
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12) and min(weights) >= 0
    assert result["valid"]["loss"] < result["valid_equal_weights"]["loss"]
    assert result["valid"]["loss"] <= min(entry["valid"]["loss"] for entry in result["models"]) + 1e-6
    assert " ".join(f"{weight:.4f}" for weight in weights) in said and "mixture | test loss" in said
    assert mix("gru.pt", "qrnn.pt", "--weights", "valid", "--split", "valid")[1].get("test") is None


def test_one_model_is_in_memory_at_a_time(mix, monkeypatch):
    opened, open_model = [], checkpoint.open_model

    def watched(*args):
        gc.collect()
        assert not [model for model in opened if model() is not None]
        found = open_model(*args)
        opened.append(weakref.ref(found[-1]))
        return found
    monkeypatch.setattr(checkpoint, "open_model", watched)
    mix("lstm.pt:dynamic,cache,bptt=20", "gru.pt", "qrnn.pt", *DYNAMIC, "--split", "test")
    assert len(opened) == 3


ALL = ["lstm.pt", "gru.pt:dynamic,bptt=20", "lstm.pt:dynamic,cache,bptt=20,window=30", *DYNAMIC, "--weights", "valid"]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.8, 1])
def test_interrupted_and_continued_equals_uninterrupted(share, mix, monkeypatch, folder):
    count = stop_after(None)
    monkeypatch.setattr(signals.Interruption, "check", count)
    whole, checks = mix(*ALL)[1], count.calls
    monkeypatch.setattr(signals.Interruption, "check", stop_after(max(1, int(share * checks))))
    said, result = mix(*ALL)
    assert "stopped by the test" in said and "--resume auto" in said and result is None
    state, = folder.glob("*.state.pt")
    count = stop_after(None)
    monkeypatch.setattr(signals.Interruption, "check", count)
    said, result = mix(*ALL, "--resume", "auto")
    assert "continuing from" in said and not state.exists()
    assert losses(result) == losses(whole) and result["models"] == whole["models"]
    assert count.calls < checks * (1 - share) + 30           # nothing was read twice, but for half a gathering


def test_what_was_learnt_with_another_training_text_is_read_again(mix, monkeypatch, folder, toy):
    """Of a finished model and of one that is being read; the texts themselves are the same."""
    other = shutil.copytree(toy, folder / "other")
    (other / "train.txt").write_text("".join((toy / "train.txt").open().readlines()[:150]))
    words = ["lstm.pt:dynamic", "gru.pt:dynamic", *DYNAMIC, "--bptt", 20]
    count = stop_after(None)
    monkeypatch.setattr(signals.Interruption, "check", count)
    whole = mix(*words, "--data", other)[1]
    monkeypatch.setattr(signals.Interruption, "check", count := stop_after(None))
    assert losses(mix(*words)[1]) != losses(whole)
    monkeypatch.setattr(signals.Interruption, "check", stop_after(count.calls - 2))
    assert mix(*words)[1] is None
    assert losses(mix(*words, "--data", other, "--resume", "auto")[1]) == losses(whole)


def test_a_state_of_another_script_or_of_other_models_is_refused_and_stays(mix, refuse, call, monkeypatch, folder):
    with monkeypatch.context() as patch:
        patch.setattr(signals.Interruption, "check", stop_after(10))
        mix("lstm.pt", "gru.pt")
        patch.setattr(signals.Interruption, "check", stop_after(1))
        call("pointer.py", "--checkpoint", "lstm.pt")
    for name, script, words in [
            ("lstm.ensemble.gru", "ensemble.py", ["lstm.pt", "gru.pt:cache"]),
            ("lstm.pointer", "dynamiceval.py", ["--checkpoint", "lstm.pt", "--rule", "sgd"])]:
        before = (folder / f"{name}.state.pt").read_bytes()
        line = refuse(*words, "--resume", f"{name}.state.pt", script=script)
        assert "is of another script or text, or of other models" in line
        assert (folder / f"{name}.state.pt").read_bytes() == before


def test_a_state_keeps_no_features_of_models_that_were_read(mix, monkeypatch, folder):
    monkeypatch.setattr(signals.Interruption, "check", stop_after(10))
    mix(*ALL)
    state, = folder.glob("*.state.pt")
    splits = checkpoint.read(str(state))["splits"]
    assert len(splits["finished"]) == 2 and all(values.dim() == 1 for values in splits["finished"].values())
    assert not [entry for entry in splits.values() if isinstance(entry, dict) and entry.get("features")]


def test_a_signal_ends_it_cleanly(folder):
    command = [sys.executable, "-u", ROOT / "ensemble.py", "lstm.pt", "gru.pt:dynamic", "--bptt", 1, *DYNAMIC]
    process = subprocess.Popen([str(word) for word in command], cwd=folder, stdout=subprocess.PIPE, text=True)
    while "mean squares" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM and "| interrupted by SIGTERM" in said
    assert (folder / "lstm.ensemble.gru-dynamic.state.pt").exists() and not list(folder.glob("*.result.json"))


def test_the_time_limit_ends_it_cleanly(folder):
    said = run_script("ensemble.py", "lstm.pt", "gru.pt", "--max-minutes", 1e-4, cwd=folder)
    assert "| stopped after 0.0001 minutes" in said.stdout and "to continue:" in said.stdout and not said.stderr


def test_output_to_a_pipe_is_alone_there(folder):
    said = run_script("ensemble.py", "lstm.pt", "gru.pt", "--split", "test", "--per-token", "-", cwd=folder)
    heading, *rows = said.stdout.splitlines()
    assert heading.split("\t") == ["position", "sentence", "word", "logprob", "unknown"]
    assert all(row.count("\t") == 4 for row in rows) and "mixture | test loss" in said.stderr


@pytest.fixture
def refuse(folder, monkeypatch, capsys):
    """`refuse(*words)` runs the script as a user does -> its one line of error."""
    def run(*words, script="ensemble.py"):
        words = [str(word) for word in words]
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", [script, *words])
        with pytest.raises(SystemExit) as exit:
            errors.run(importlib.import_module(script.removesuffix(".py")).main)
        said = capsys.readouterr().err
        line = exit.value.code if isinstance(exit.value.code, str) else said
        assert exit.value.code not in (0, None) and len(line.strip().splitlines()) == 1 and "Traceback" not in line
        assert not list(folder.glob("*.result.json"))
        return line
    return run


@pytest.mark.parametrize(("words", "says"), [
    ([], "name the models"), (["lstm.pt", "none.pt"], "none.pt: there is no such checkpoint"),
    (["none.pt:cache"], "none.pt: there is no such"), (["lstm.pt:cahce"], "'cahce' is none of dynamic, cache"),
    (["lstm.pt:cache,theta=x"], "--theta: 'x' is not"), (["lstm.pt:cache,theta=1e300"], "--theta: '1e300' is not"),
    (["lstm.pt:cache,lr=1"], "lr is a setting of dynamic; write lstm.pt:dynamic,cache,lr=1"),
    (["lstm.pt:theta=2"], "theta is a setting of cache; write lstm.pt:cache,theta=2"),
    (["lstm.pt:cache,colour=2"], "colour is no setting of a member; use one of window, theta, lambdasm"),
    (["lstm.pt:"], "'' is none"), (["lstm.pt:cache,window"], "'window' is none"),
    (["lstm.pt", "--per-token", "x"], "choose it with --split"), (["lstm.pt", "--weights", "best"], "--weights"),
    (["lstm.pt", "--split", "test", "--html", "lstm.pt"], "two things"), (["lstm.pt", "--data", "nowhere"], "nowhere"),
    (["lstm.pt:dynamic,rule=sgd,lr=1e30"], "lstm.pt:dynamic,rule=sgd,lr=1e30: the loss is"),
    (["lstm.pt", "--resume", "lstm.pt"], "lstm.pt is of another model")])
def test_bad_input(words, says, refuse):
    assert says in refuse(*words)


def test_other_vocabularies_are_refused_by_file_and_word(folder, refuse):
    contents = checkpoint.read(str(folder / "gru.pt"))
    words = contents["vocabulary"]
    contents["vocabulary"] = [*words[:3], "xylophone", *words[4:]]
    checkpoint.save(str(folder / "other.pt"), {name: contents[name] for name in checkpoint.TYPES})
    line = refuse("lstm.pt", "gru.pt", "other.pt")
    assert "other.pt and lstm.pt cannot be mixed" in line and "only other.pt knows the word 'xylophone'" in line
    line = refuse("other.pt", "lstm.pt")
    assert f"only lstm.pt knows the word {words[3]!r}" in line


@pytest.mark.parametrize("spoil", [
    lambda splits: splits.update(finished=[]), lambda splits: splits["finished"].update(
        dict.fromkeys(splits["finished"], torch.zeros(3)))])
def test_a_state_that_was_tampered_with(spoil, mix, refuse, monkeypatch, folder):
    with monkeypatch.context() as patch:
        patch.setattr(signals.Interruption, "check", stop_after(25))
        mix(*ALL)
    state, = folder.glob("*.state.pt")
    contents = checkpoint.read(str(state))
    spoil(contents["splits"])
    state.unlink()
    checkpoint.save(str(state), contents)
    assert "leave --resume out" in refuse(*ALL, "--resume", "auto")


def test_names_of_models(tmp_path):
    member = parse_member("runs/a.pt:cache,dynamic,theta=2,lr=1e-4")
    assert member[1:] == ("runs/a.pt", ("dynamic", "cache"), {"theta": 2.0, "lr": 1e-4})
    (tmp_path / "b:cache").write_text("")
    assert parse_member(str(tmp_path / "b:cache"))[1:] == (str(tmp_path / "b:cache"), (), {})
    assert result_name([member, parse_member("x/b.finetuned.pt")]) == "ensemble.dynamic.cache.b-finetuned"
    assert len(result_name([member] * 100)) == 150
    with pytest.raises(InputError, match="there is no such file"):
        parse_member("C:a.pt")
