"""The scripts as a user runs them, on a text that is learnt in seconds."""
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SMALL, run_script

import checkpoint
import generate
import main
import training.progress
import training.run
import training.tensorboard
from runtime import options
from runtime.devices import Compute
from runtime.errors import InputError
from runtime.log import perplexity
from training import optimizers


def figure(text, what):
    """The last loss printed for `what`, such as "test"."""
    return float(re.findall(rf"{what} ppl +([\d.]+)", text)[-1])


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("cutoffs", [[], ["--cutoffs", "8", "20", "76000"]], ids=["full", "adaptive"])
def test_from_text_to_text(cell, cutoffs, toy, call, tmp_path):
    """Train, fine-tune, point and generate; each reads what the one before it saved."""
    trained = run_script("main.py", "--data", toy, "--model", cell, *cutoffs, *SMALL, "--epoch", 5, "--save", "toy.pt",
                         cwd=tmp_path)
    assert re.search(r"\| epoch   1 \|    10/ .*\| lr 4.00000 \| ms/batch .*\| loss .*\| ppl .*\| bpc ",
                     trained.stdout)
    assert "| end of epoch   5 |" in trained.stdout
    assert figure(trained.stdout, "test") < 24                      # 31 words; it has learnt something
    before = (tmp_path / "toy.pt").read_bytes()

    tuned = run_script("finetune.py", "--data", toy, "--epoch", 2, "--lr", 4, "--save", "toy.pt", cwd=tmp_path)
    assert "toy.finetuned.pt" in tuned.stdout
    assert (tmp_path / "toy.pt").read_bytes() == before
    assert figure(tuned.stdout, "valid") < 24

    common = ["--data", toy, "--window", 40, "--device", "cpu"]
    pointed = run_script("pointer.py", "--save", "toy.pt", *common, cwd=tmp_path)
    assert "reading toy.finetuned.pt" in pointed.stdout
    again = call("pointer.py", "--save", "toy.pt", *common, "--bptt", 7, "--checkpoint", "toy.pt")
    assert "reading toy.pt" in again
    other = call("pointer.py", *common, "--bptt", 300, "--checkpoint", "toy.pt")
    again, timeless = (re.sub(r"\| (toy\.pointer.* goes to .*\n|[\d.]+ (s|minutes) \|.*)", "", said)
                       for said in (again, other))
    assert again == timeless                                        # the window changes nothing
    assert figure(other, "test") < 24

    text = run_script("generate.py", "--save", "toy.pt", "--words", 50, "--outf", "-", "--prompt", "w1 w2",
                      "--seed", 3, cwd=tmp_path).stdout
    words = text.split()
    assert words[:2] == ["w1", "w2"] and len(words) == 52
    assert set(words) <= {f"w{i}" for i in range(30)} | {"<eos>"}


@pytest.fixture
def stalls(monkeypatch):
    """Validation stalls after the second epoch, whatever the losses."""
    monkeypatch.setattr(training.progress, "has_stalled", lambda losses, nonmono: len(losses) == 2)


def test_one_line_of_json_per_epoch(toy, call, tmp_path, stalls):
    call("main.py", "--data", toy, *SMALL, "--epochs", 4, "--save", "toy.pt")
    lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["settings"]["nhid"] == 48 and lines[0]["versions"]["torch"] == torch.__version__
    assert all(line["tokens_per_second"] > 0 and line["seconds"] > 0 for line in lines)
    model = torch.load(tmp_path / "toy.pt", weights_only=True)["model"]
    assert lines[0]["parameters"] == sum(tensor.numel() for tensor in model.values())
    for line in lines:
        averaged = line["valid_loss_averaged"] is not None
        assert averaged == (line["switch_epoch"] is not None)
        assert line["valid_loss"] == line["valid_loss_averaged" if averaged else "valid_loss_raw"]
    assert averaged and lines[-1]["valid_loss_raw"] != lines[-1]["valid_loss_averaged"]


def test_published_commands_are_understood():
    lstm = """
        --batch_size 20 --data data/penn --dropouti 0.4 --dropouth 0.25 --seed 141 --epoch 500 --save PTB.pt
        --epochs 750 --data data/wikitext-2 --save WT2.pt --dropouth 0.2 --seed 1882
        --epochs 50 --nlayers 3 --emsize 400 --nhid 1840 --alpha 0 --beta 0 --dropoute 0 --dropouth 0.1 --dropouti 0.1 --dropout 0.4 --wdrop 0.2 --wdecay 1.2e-6 --bptt 200 --batch_size 128 --optimizer adam --lr 1e-3 --data data/enwik8 --save ENWIK8.pt --when 25 35
        --epochs 500 --nlayers 3 --emsize 200 --nhid 1000 --alpha 0 --beta 0 --dropoute 0 --dropouth 0.25 --dropouti 0.1 --dropout 0.1 --wdrop 0.5 --wdecay 1.2e-6 --bptt 150 --batch_size 128 --optimizer adam --lr 2e-3 --data data/pennchar --save PTBC.pt --when 300 400
    """.strip().splitlines()  # noqa: E501 - as people have them in their notes
    parsed = [options.parse(main.make_parser(), shlex.split(line)) for line in lstm]
    assert [(a.epochs, a.batch_size, a.seed, a.when, a.save) for a in parsed] == [
        (500, 20, 141, [-1], "PTB.pt"), (750, 80, 1882, [-1], "WT2.pt"), (50, 128, 1111, [25, 35], "ENWIK8.pt"),
        (500, 128, 1111, [300, 400], "PTBC.pt")]


def test_published_flags_that_the_model_makes_needless(trained, toy, call, tmp_path):
    """pointer.py --model, generate.py --data --model; another cell than the model's is refused."""
    shutil.copy(trained / "toy.pt", tmp_path)
    call("pointer.py", "--save", "toy.pt", "--data", toy, "--window", 20)
    said = call("pointer.py", "--save", "toy.pt", "--data", toy, "--window", 20, "--model", "LSTM")
    assert "other flags" not in said and len(list(tmp_path.glob("*.result.json"))) == 1
    call("generate.py", "--data", "data/penn", "--model", "LSTM", "--checkpoint", "toy.pt", "--words", 3)
    assert len((tmp_path / "generated.txt").read_text().split()) == 3
    for script in ("pointer.py", "generate.py"):
        with pytest.raises(InputError, match="--model LSTM, the command line asks for QRNN"):
            call(script, "--save", "toy.pt", "--model", "QRNN")


def test_published_defaults():
    args = options.parse(main.make_parser(), ["--cuda"])
    args = optimizers.resolve(args)
    assert optimizers.make(args, torch.nn.Linear(1, 1)).param_groups[0]["lr"] == 30
    expected = dict(model="LSTM", emsize=400, nhid=1150, nlayers=3, lr=30, clip=0.25, epochs=8000, batch_size=80,
                    bptt=70, dropout=0.4, dropouth=0.3, dropouti=0.65, dropoute=0.1, wdrop=0.5, seed=1111, nonmono=5,
                    log_interval=200, alpha=2, beta=1, wdecay=1.2e-6, optimizer="sgd", when=[-1], tied=True)
    assert {name: getattr(args, name) for name in expected} == expected
    args = optimizers.resolve(options.parse(main.make_parser(), ["--optimizer", "adam"]))
    assert optimizers.make(args, torch.nn.Linear(1, 1)).param_groups[0]["lr"] == 1e-3


def test_dashes_underscores_and_abbreviations():
    for words in (["--batch_size", "7"], ["--batch-size=7"], ["--batch_s", "7"], ["--batch_size=7"]):
        assert options.parse(main.make_parser(), words).batch_size == 7
    assert options.parse(main.make_parser(), ["--save=my_best_file.pt"]).save == "my_best_file.pt"
    args = options.parse(main.make_parser(), ["--no-tied", "--epoch", "3"])
    assert (args.tied, args.epochs, args.given) == (False, 3, {"tied", "epochs"})


def test_adam_and_when_divide_the_rate_also_while_averaging(toy, call, tmp_path, stalls):
    adam = call("main.py", "--data", toy, *SMALL, "--optimizer", "adam", "--lr", "2e-2", "--epochs", 3, "--when", 1, 2,
                "--save", "a.pt")
    assert "lr 0.00200" in adam and "lr 0.00020" in adam and figure(adam, "test") < 24
    call("main.py", "--data", toy, *SMALL, "--epochs", 4, "--when", 3, "--lr", 6, "--save", "b.pt")
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert lines[3]["switch_epoch"] == 2
    assert [line["lr"] for line in lines] == [6, 6, 6, 0.6]


def test_character_corpora(call, tmp_path):
    text = "t h e _ c a t _ s a t\nt h e _ d o g _ r a n\n"
    for split, times in ("train", 120), ("valid", 9), ("test", 9):
        (tmp_path / f"{split}.txt").write_text(text * times)
    done = call("main.py", "--data", tmp_path, *SMALL, "--optimizer", "adam", "--lr", "1e-2", "--epochs", 2,
                "--save", "c.pt")
    assert float(re.findall(r"test bpc +([\d.]+)", done)[0]) < 1


def test_a_short_validation_text_is_read_in_fewer_streams(toy, call, tmp_path):
    for split in ("train", "test"):
        shutil.copy(toy / f"{split}.txt", tmp_path)
    (tmp_path / "valid.txt").write_text("w1 w8 w3 w1 w8\n")
    done = call("main.py", "--data", tmp_path, *SMALL, "--epochs", 1, "--save", "a.pt")
    assert "valid.txt has 6 tokens, too few for --eval-batch-size 10: it is read in 3 streams" in done
    losses = [figure(done, "valid")]
    losses.append(figure(call("main.py", "--data", tmp_path, *SMALL, "--epochs", 1, "--eval-batch-size", 3, "--save",
                              "b.pt"), "valid"))
    assert losses[0] == losses[1]


def test_train_vocabulary_reads_other_words_as_unk(toy, call, tmp_path, capsys):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text((toy / f"{split}.txt").read_text() + f"only_{split} here\n")
    call("main.py", "--data", tmp_path, *SMALL, "--vocab", "train", "--epochs", 1, "--save", "u.pt")
    vocabulary = torch.load(tmp_path / "u.pt", weights_only=True)["vocabulary"]
    assert "only_train" in vocabulary and "<unk>" in vocabulary and "only_test" not in vocabulary
    call("pointer.py", "--save", "u.pt", "--window", 9)
    call("generate.py", "--save", "u.pt", "--words", 3, "--prompt", "only_test")
    assert (tmp_path / "generated.txt").read_text().startswith("only_test ")     # as typed, though read as <unk>


def test_search_finds_what_the_flags_then_give(trained, call):
    found = call("pointer.py", "--save", trained / "toy.pt", "--window", 60, "--search")
    chosen = shlex.split(re.search(r"chosen: (.*)", found)[1])
    told = call("pointer.py", "--save", trained / "toy.pt", "--window", 60, *chosen)
    assert figure(found, "test") == figure(told, "test")
    assert figure(found, "valid") <= min(map(float, re.findall(r"theta .*valid ppl +([\d.]+)", found)))


def test_generate_is_repeatable_and_top_one_is_greedy(trained, call, tmp_path):
    def generate(*flags):
        call("generate.py", "--save", trained / "toy.pt", "--words", 40, *flags)
        return (tmp_path / "generated.txt").read_text()

    first = generate("--seed", 1)
    assert len(first.split()) == 40
    assert generate("--seed", 1) == first != generate("--seed", 2)
    assert generate("--top-k", 1, "--seed", 1) == generate("--top-k", 1, "--seed", 2)
    assert generate("--temperature", "0.0001") == generate("--top-k", 1) == generate("--temperature", 0)
    assert generate("--top-p", 0) == generate("--temperature", 0)
    assert generate("--top-p", 0.9, "--seed", 1) != generate("--temperature", 0)
    several = generate("--samples", 3, "--prompt", "w1  w2", "--seed", 1).split("\n\n")
    assert len(several) == 3 and len(set(several)) == 3
    assert all(text.startswith("w1  w2 ") and len(text.split()) == 42 for text in several)
    assert several[0] + "\n" == generate("--prompt", "w1  w2", "--seed", 1)


def test_generation_that_is_interrupted_leaves_the_earlier_text(trained, tmp_path, monkeypatch):
    def stopping(*settings):
        yield 0
        raise KeyboardInterrupt
    monkeypatch.setattr(generate, "sample", stopping)
    (tmp_path / "text").write_text("earlier")
    with pytest.raises(KeyboardInterrupt):
        generate.main(["--checkpoint", str(trained / "toy.pt"), "--outf", str(tmp_path / "text"), "--device", "cpu"])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("text", "earlier")]


def test_generate_writes_to_a_standard_output_that_is_no_file(trained, monkeypatch):
    """As in notebooks, whose standard output has no file number."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    generate.main(["--checkpoint", str(trained / "toy.pt"), "--words", "5", "--outf", "-", "--prompt", "w1",
                   "--device", "cpu"])
    assert out.getvalue().startswith("w1 ") and len(out.getvalue().split()) == 6


def test_an_earlier_run_is_kept_under_a_number(toy, call, tmp_path):
    common = ["--data", toy, *SMALL, "--epochs", 1, "--save", "k.pt"]
    call("main.py", *common)
    call("finetune.py", "--epochs", 1, "--save", "k.pt")
    old = {name: (tmp_path / name).read_bytes() for name in ("k.pt", "k.jsonl", "k.finetuned.pt")}
    assert "have 1 in their names" in call("main.py", *common, "--seed", 5)
    for name, contents in old.items():
        assert (tmp_path / name.replace("k.", "k.1.", 1)).read_bytes() == contents
    assert (tmp_path / "k.pt").read_bytes() != old["k.pt"] and not (tmp_path / "k.finetuned.pt").exists()


@pytest.mark.parametrize("script, precision", [("main.py", "fp32"), ("main.py", "bf16"), ("finetune.py", "fp32")])
def test_stopped_and_continued_equals_never_stopped(script, precision, toy, tmp_path):
    """SIGTERM in mid-epoch; the printed command continues; weights and losses are the same, bit for bit."""
    common = ["--data", toy, *SMALL, "--precision", precision, "--epochs", 6, "--nonmono", 1, "--lr", 60]
    if script == "finetune.py":
        for name in ("whole.pt", "parts.pt"):
            run_script("main.py", *common[:-6], "--epochs", 1, "--save", name, cwd=tmp_path)
        common = ["--epochs", 5, "--nonmono", 9, "--log-interval", 10]
    run_script(script, *common, "--save", "whole.pt", cwd=tmp_path)
    command = [sys.executable, "-u", ROOT / script, *common, "--save", "parts.pt"]
    for lines in (12, 9, None):
        process = subprocess.Popen([str(word) for word in command], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        if lines is None:
            process.communicate(timeout=60)
            assert process.returncode == 0
            break
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
        assert process.returncode == 128 + signal.SIGTERM, rest
        command = shlex.split(re.search(r"to continue: (.*)", rest)[1])
    stage = ".finetuned" if script == "finetune.py" else ""
    whole, parts = (torch.load(tmp_path / f"{name}{stage}.state.pt", weights_only=True) for name in ("whole", "parts"))
    compare(whole, parts)
    compare(*(torch.load(tmp_path / f"{name}{stage}.pt", weights_only=True) for name in ("whole", "parts")))
    epochs = [[json.loads(line)["valid_loss"] for line in (tmp_path / f"{name}{stage}.jsonl").read_text().splitlines()]
              for name in ("whole", "parts")]
    assert epochs[0] == epochs[1] and len(epochs[0]) == len(whole["losses"]["history"])


def compare(a, b, where=""):
    """Equal to the bit, but for times and names."""
    if any(word in where for word in ("seconds", "/save", "progress/best", "tokens_per_second", "memory")):
        return
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            compare(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b)):
            compare(*pair, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def test_one_cycle_of_adam_and_its_continuation(toy, call, tmp_path):
    common = ["--data", toy, *SMALL, "--optimizer", "adam", "--lr", "2e-2", "--beta2", 0.99,
              "--one-cycle", 0.5, 1, 1, 0.5, "--save"]
    call("main.py", *common, "a.pt")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and lines[0]["lr"] == 2e-2 and 2e-5 < lines[2]["lr"] < 2e-3
    state = torch.load(tmp_path / "a.state.pt", weights_only=True)["optimizer"]["param_groups"][0]
    assert state["betas"][0] == pytest.approx(0.8) and state["betas"][1] == 0.99
    call("main.py", *common, "b.pt", "--epochs", 1)
    call("main.py", *common, "b.pt", "--epochs", 3, "--resume", "auto")
    other = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [line["valid_loss"] for line in other] == [line["valid_loss"] for line in lines]


def test_without_averaging_the_rate_is_halved_each_time_validation_stalls(toy, call, tmp_path, monkeypatch):
    monkeypatch.setattr(training.progress, "has_stalled", lambda losses, nonmono: len(losses) == 2)
    said = call("main.py", "--data", toy, *SMALL, "--epochs", 5, "--on-stall", "halve", "--save", "a.pt",
                "--no-variable-bptt")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == [4, 4, 2, 2, 1] and "averaging" not in said
    assert all(line["valid_loss_averaged"] is None for line in lines)
    call("main.py", "--data", toy, *SMALL, "--epochs", 3, "--on-stall", "halve", "--save", "b.pt",
         "--no-variable-bptt")
    call("main.py", "--epochs", 5, "--save", "b.pt", "--resume", "auto", "--log-interval", 10, "--device", "cpu")
    other = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [line["valid_loss"] for line in other] == [line["valid_loss"] for line in lines]


def test_a_decaying_rate_and_adagrad(toy, call, tmp_path):
    call("main.py", "--data", toy, *SMALL, "--epochs", 4, "--decay", 1.25, "--decay-from", 2, "--on-stall", "nothing",
         "--dropoutr", 0.1, "--save", "a.pt")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx([4, 4, 3.2, 2.56])
    said = call("main.py", "--data", toy, *SMALL, "--optimizer", "adagrad", "--lr", 0.2, "--epochs", 2,
                "--save", "b.pt")
    assert figure(said, "test") < 24
    common = ["--data", toy, *SMALL, "--optimizer", "adagrad", "--lr", 0.2, "--save", "c.pt"]
    call("main.py", *common, "--epochs", 1)
    assert figure(call("main.py", *common, "--epochs", 2, "--resume", "auto"), "test") == figure(said, "test")


def test_a_summary_and_curves_for_tensorboard(toy, call, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    common = ["--data", toy, *SMALL, "--tensorboard", "curves", "--save", "a.pt"]
    call("main.py", *common, "--epochs", 1)
    said = call("main.py", *common, "--epochs", 2, "--resume", "auto")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    best = min(line["valid_loss"] for line in lines)
    summary = re.search(r"^\| summary \| best valid ppl ([\d.]+) \| test ppl ([\d.]+) \| epochs 2, \d+ s \| "
                        r"model a.pt, log a.jsonl, result a.result.json$", said, re.MULTILINE)
    assert float(summary[1]) == pytest.approx(perplexity(best), abs=0.006)
    assert float(summary[2]) == figure(said, "test")
    events = EventAccumulator(str(tmp_path / "curves" / "a")).Reload()
    assert [point.step for point in events.Scalars("valid_loss")] == [1, 2]
    assert [point.value for point in events.Scalars("valid_loss")] == pytest.approx([e["valid_loss"] for e in lines])


@pytest.mark.parametrize("package", ["tensorboard", None])
def test_curves_that_cannot_be_written_any_more_end_no_run(package, toy, call, monkeypatch, tmp_path):
    tracebacks, shown = [], training.tensorboard.Board.show
    monkeypatch.setattr("threading.excepthook", None)              # put back behind the test
    monkeypatch.setattr("threading.__excepthook__", tracebacks.append)
    if package:
        pytest.importorskip(package)
        monkeypatch.setattr(training.tensorboard.Board, "show", lambda board, epoch: (
            shown(board, epoch), shutil.rmtree(tmp_path / "curves", ignore_errors=True)))
    else:
        def add_scalar(name, value, step):
            if step > 1:
                raise OSError(28, "No space left on device")
        writer = SimpleNamespace(add_scalar=add_scalar, flush=lambda: None, close=lambda: None)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(
            SummaryWriter=lambda folder, **more: writer))
    said = call("main.py", "--data", toy, *SMALL, "--epochs", 3, "--tensorboard", "curves", "--save", "a.pt")
    assert said.count("the curves end here, training goes on") == 1 and "End of training" in said and not tracebacks


def test_curves_that_cannot_begin_leave_an_earlier_result(toy, call, monkeypatch, tmp_path):
    common = ["--data", toy, *SMALL, "--save", "a.pt"]
    call("main.py", *common, "--epochs", 1)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        call("main.py", *common, "--epochs", 2, "--tensorboard", "curves", "--resume", "auto")
    assert (tmp_path / "a.result.json").exists()


@pytest.mark.parametrize("script, words, splits", [
    ("pointer.py", ["--window", 50], ["valid", "test"]), ("evaluate.py", [], ["valid", "test"]),
    ("dynamiceval.py", ["--rule", "sgd", "--lr", 0.001, "--split", "test"], ["test"])])
def test_the_last_line_sums_up(script, words, splits, trained, call, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)
    *_, last = call(script, "--save", "toy.pt", *words).splitlines()
    found = dict(re.findall(r"(\w+) ppl ([\d.]+)", last))
    result = json.loads((tmp_path / last.split("result ")[1]).read_text())
    assert last.startswith("| summary | ") and list(found) == splits
    for split in splits:
        assert float(found[split]) == pytest.approx(result[split]["perplexity"], abs=0.006)


def test_tensorboard_that_is_missing(toy, tmp_path):
    (tmp_path / "tensorboard.py").write_text("raise ImportError\n")
    said = run_script("main.py", "--data", toy, *SMALL, "--tensorboard", "x", "--save", "a.pt", cwd=tmp_path, status=1,
                      env={**os.environ, "PYTHONPATH": str(tmp_path)}).stderr
    assert "pip install tensorboard" in said and said.count("\n") == 1


def test_adam_halves_its_rate_where_it_is_asked_to(toy, call):
    said = call("main.py", "--data", toy, *SMALL, "--optimizer", "adam", "--lr", 0.5, "--on-stall", "halve",
                "--nonmono", 0, "--epochs", 12)
    assert "learning rate divided by 2" in said


def test_every_run_has_a_folder_of_curves_of_its_own(toy, call, monkeypatch):
    folders = []

    def writer(folder, **more):
        folders.append(folder)
        return SimpleNamespace(add_scalar=lambda *point: None, flush=lambda: None, close=lambda: None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=writer))
    for name in "a.pt", "b.pt":
        call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--tensorboard", "curves", "--save", name)
    assert len(set(folders)) == 2 and {os.path.dirname(folder) for folder in folders} == {"curves"}


def test_a_restored_model_evaluates(trained):
    path = str(trained / "toy.pt")
    assert not checkpoint.restore(checkpoint.load(path), path, Compute(torch.device("cpu"), "fp32")).training
