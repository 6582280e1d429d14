"""Dynamic evaluation against loops that a reader would write, and the script as a user runs it."""
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from conftest import ROOT, run_script, stop_after, take_form
from torch.nn import functional as F

import checkpoint
import dynamiceval
import main
from evaluation import dynamic, neural_cache
from evaluation import loss as evaluation_loss
from evaluation.dynamic import DynamicPass
from evaluation.figures import mean_loss
from model import build, set_precision
from ops.update import update
from runtime import errors, options, signals
from runtime.errors import InputError

WORDS = 31
ARGS = dict(resume=None, max_minutes=None, checkpoint_minutes=10, precision="fp32", epsilon=1e-4, bptt=5, rule="rms",
            log_interval=1000)


def make(cell="LSTM", cutoffs=(), nhid=12, precision="fp32"):
    torch.manual_seed(1)
    flags = ["--model", cell, "--emsize", 8, "--nhid", nhid, "--nlayers", 2, "--cutoffs", *cutoffs]
    model = build(vars(options.parse(main.make_parser(), [str(flag) for flag in flags])), WORDS)
    for parameter in model.softmax.parameters():
        torch.nn.init.normal_(parameter)
    return set_precision(model, precision)


def text(rows, bsz=1):
    return torch.randint(WORDS, (rows, bsz), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def begin(tmp_path):
    """`begin(model, **flags)` -> a pass over texts, for `with`."""
    (tmp_path / "m.pt").write_text("a model")
    return lambda model, **flags: DynamicPass(str(tmp_path / "m.pt"), Namespace(**{**ARGS, **flags}), model)


@pytest.mark.parametrize("rule", ["rms", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("cutoffs", [(), (8, 20, 76000)], ids=["full", "adaptive"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
def test_without_steps_it_is_plain_evaluation(cell, cutoffs, precision, rule, begin):
    model = make(cell, cutoffs, precision=precision)
    column = text(123)
    plain = evaluation_loss.evaluate(model, column, 50)
    with begin(model, rule=rule) as reading:
        reading.gather(text(40, 4))
        features, targets, still, speed, _ = reading.learn("valid", column, lr=0, lamb=0)
        drawn = reading.learn("valid", column[:], lr=0, lamb=0.5)[2]
        moved = reading.learn("valid", column, lr=0.01, lamb=0)[2]
        assert evaluation_loss.evaluate(model, column, 50) == plain        # the trained weights are back
    assert features.shape == (122, 8) and torch.equal(targets, column[1:, 0]) and speed > 0
    assert mean_loss(still) == pytest.approx(plain, abs=1e-6) and torch.equal(drawn, still)
    assert abs(mean_loss(moved) - plain) > 1e-4


def test_wide_layers_learn_too(begin):
    """Those run on code of our own."""
    model = make(nhid=360)
    column = text(60)
    with begin(model, rule="sgd") as reading:
        still, moved = (reading.learn("valid", column, lr, 0)[2] for lr in (0, 0.1))
    assert mean_loss(still) == pytest.approx(evaluation_loss.evaluate(model, column, 50), abs=1e-6)
    assert torch.equal(moved[:5], still[:5]) and not torch.isclose(moved[5:], still[5:]).any()   # scored, then learnt


@pytest.mark.parametrize(("columns", "dtype", "tolerance"), [(3, torch.float64, 1e-9), (1, torch.float32, 1e-4)])
def test_mean_squares_against_a_loop(columns, dtype, tolerance, begin):
    model = make("GRU").to(dtype)
    data = text(43, columns)                                                       # 42 = 8 · 5 + 2: a short window last
    with begin(model) as reading:
        reading.gather(data)
    weights, hidden = [*model.parameters()], model.init_hidden(columns)
    sums = [torch.zeros_like(w) for w in weights]
    for start in range(0, 42, 5):
        window = data[start:start + 6]
        model.eval()
        features, hidden = model(window[:-1], hidden)
        logits = features @ model.decoder.weight.t() + model.decoder.bias
        gradients = torch.autograd.grad(F.cross_entropy(logits, window[1:].flatten()), weights)
        hidden = [h.detach() for h in hidden]
        for total, gradient in zip(sums, gradients):
            total += gradient ** 2
    assert len(reading.mean_squares) == len(weights)                         # a tied weight once
    for found, total in zip(reading.mean_squares, sums):
        torch.testing.assert_close(found, total / 9, rtol=tolerance, atol=1e-6 * tolerance)


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("lamb", [0, 0.02, 0.8])
@pytest.mark.parametrize("rule", ["rms", "sgd"])
def test_step_against_a_loop(rule, lamb, in_torch, monkeypatch):
    take_form(in_torch, "update", monkeypatch)
    torch.manual_seed(0)
    shapes = (7, 5), (11,), (3, 2, 2), (200, 101)                            # the last one by several threads
    weights, gradients, trained = ([torch.randn(shape) for shape in shapes] for _ in range(3))
    squares = [torch.rand(shape) ** 4 * scale for shape, scale in zip(shapes, (1, 0.1, 1e-4, 1e-2))]
    squares[0][0, 0] = 0                                                     # a weight that never had a gradient
    lr, epsilon, expected, capped = 0.03, 1e-3, [], 0
    roots = [[math.sqrt(s) for s in square.flatten().tolist()] for square in squares]
    mean = sum(sum(of_one) / len(of_one) for of_one in roots) / len(roots)       # each parameter counts alike
    for w, g, start, square in zip(weights, gradients, trained, squares):
        values = []
        for w, g, start, s in zip(*(tensor.flatten().tolist() for tensor in (w, g, start, square))):  # noqa: B020
            rms = math.sqrt(s)
            decay = lamb * rms / mean if rule == "rms" else lamb
            capped += decay > 1
            values.append(w - lr * (g / (rms + epsilon) if rule == "rms" else g) + min(decay, 1) * (start - w))
        expected.append(torch.tensor(values))
    rates = (dynamic.rms_rates(squares, lr, lamb, epsilon) if rule == "rms" else
             dynamic.sgd_rates(weights, lr, lamb))
    update(weights, trained, rates[1], gradients, rates[0])
    for found, values in zip(weights, expected):
        torch.testing.assert_close(found.flatten(), values, rtol=1e-5, atol=1e-6)
    assert bool(capped) == (rule == "rms" and lamb == 0.8)


def test_decays_by_the_published_mean():
    """The mean over parameters of their mean roots, not over all elements: here (1e-4 + 1e-2) / 2."""
    squares = [torch.full((100,), 1e-4) ** 2, torch.full((2,), 1e-2) ** 2]
    rates, decays = dynamic.rms_rates(squares, 1e-4, 0.002, 1e-5)
    assert [decay[0].item() for decay in decays] == pytest.approx([3.96e-5, 3.96e-3], rel=1e-3)
    assert [rate[0].item() for rate in rates] == pytest.approx([1e-4 / 1.1e-4, 1e-4 / 1.001e-2], rel=1e-5)
    for useless in (torch.zeros(3), torch.full((3,), math.nan)):
        with pytest.raises(InputError, match="nothing to learn from"):
            dynamic.rms_rates([useless, useless], 1e-4, 0.002, 1e-5)


def test_the_grids_of_a_search_go_with_the_segment():
    rates, decays = dynamiceval.grids("rms", 5)
    assert rates == pytest.approx([3e-5, 4e-5, 5e-5, 7e-5, 1e-4]) and decays == pytest.approx([1e-3, 2e-3, 3e-3, 5e-3])
    longer = dynamiceval.grids("rms", 20)
    assert longer[0] == pytest.approx([4 * rate for rate in rates])
    assert longer[1] == pytest.approx([4 * decay for decay in decays])


# The script.

@pytest.fixture(scope="module")
def changed(toy, tmp_path_factory):
    """The toy corpus, but in validation and test other words follow each other, and what is said is soon repeated."""
    folder = shutil.copytree(toy, tmp_path_factory.mktemp("changed") / "toy")
    for split in ("valid", "test"):
        lines = (toy / f"{split}.txt").read_text().splitlines(keepends=True)[:12]
        (folder / f"{split}.txt").write_text(
            re.sub(r"w(\d+)", lambda word: f"w{int(word[1]) * 11 % 30}", "".join(lines)) * 6)
    return folder


@pytest.fixture
def evaluate(trained, changed, call, tmp_path):
    """`evaluate(*words)` runs the script on the trained model and the changed text -> what it printed, its result."""
    shutil.copy(trained / "toy.pt", tmp_path / "toy.pt")

    def run(*words, data=changed):
        said = call("dynamiceval.py", "--save", "toy.pt", "--data", data, "--device", "cpu", "--stat-batch-size", 20,
                    *words)
        written = re.search(r"result (toy\.dynamic\S*\.result\.json)$", said, re.MULTILINE)
        return said, written and json.loads((tmp_path / written[1]).read_text())
    return run


@pytest.mark.parametrize("flags", [["--lr", 1e-3], ["--rule", "sgd"]], ids=["rms", "sgd"])
def test_it_learns_and_leaves_the_model_alone(flags, evaluate, tmp_path):
    before = (tmp_path / "toy.pt").read_bytes()
    said, result = evaluate(*flags, "--recipe", "toy", "--log-interval", 10)
    assert (tmp_path / "toy.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.dynamic.result.json", "toy.pt"]
    for split in ("valid", "test"):
        assert result[split]["loss"] < result[f"{split}_without_dynamic_evaluation"]["loss"] - 0.03
        assert result[split]["tokens_per_second"] > 0
        assert f"with dynamic evaluation    | {split} loss {result[split]['loss']:5.2f}" in said
        assert re.search(rf"{split} +\| +50/\d+ tokens \| +\d+ tokens/s \| loss", said)
    assert result["recipe"] == "toy" and result["script"] == "dynamiceval.py"
    assert result["settings"]["lr"] == (1e-3 if flags[0] == "--lr" else dynamiceval.LEARNING_RATE["sgd"])


def test_every_text_begins_with_the_trained_weights(evaluate, changed, tmp_path):
    both = evaluate("--lr", 1e-3)[1]
    alone = evaluate("--lr", 1e-3, "--split", "test")[1]
    assert both["test"]["loss"] == alone["test"]["loss"] and "valid" not in alone
    same = shutil.copytree(changed, tmp_path / "same")
    shutil.copy(same / "valid.txt", same / "test.txt")
    twice = evaluate("--lr", 1e-3, data=same)[1]
    assert twice["valid"]["loss"] == twice["test"]["loss"] != both["test"]["loss"]


def test_the_cache_on_top(evaluate):
    plain = evaluate("--lr", 1e-3)[1]
    none = evaluate("--lr", 1e-3, "--neural-cache", "--lambdasm", 0)[1]
    said, mixed = evaluate("--lr", 1e-3, "--neural-cache", "--lambdasm", 0.2, "--window", 50)
    assert none["test"]["loss"] == plain["test"]["loss"] == mixed["test_without_cache"]["loss"] != mixed["test"]["loss"]
    assert f"and with the neural cache  | test loss {mixed['test']['loss']:5.2f}" in said


def test_a_cache_alone_says_why_the_loss_is_infinite(evaluate, call, trained, changed, tmp_path):
    """And of which tokens: those that did not stand in the text before."""
    words = (changed / "valid.txt").read_text().replace("\n", " <eos> ").split()
    absent = sum(word not in words[1:i] for i, word in enumerate(words) if i > 1)      # the first has no cache yet
    why = f"{absent:,} of {len(words) - 1:,} tokens of valid have probability 0"
    said, result = evaluate("--lr", 1e-3, "--neural-cache", "--lambdasm", 1)
    assert why in said and "--lambdasm 1" in said and result["valid"]["loss"] is None
    flags = ["--data", changed, "--window", 3785]
    assert why in call("pointer.py", "--checkpoint", "toy.pt", "--lambdasm", 1, *flags)
    said = call("ensemble.py", "toy.pt:cache,lambdasm=1", "toy.pt", *flags)
    assert why in said and "mixture | valid loss   inf" not in said


def test_search_takes_the_best_of_the_grid(evaluate, monkeypatch):
    monkeypatch.setattr(dynamiceval, "FACTORS", (1, 30, 1e9))
    monkeypatch.setattr(dynamiceval, "LAMBDAS", (0, 0.01))
    said, found = evaluate("--search", "--search-tokens", 200)
    tried = {(float(lr), float(lamb)): float(loss) for lr, lamb, loss in
             re.findall(r"lr (\S+) \| lamb (\S+) \| search loss +(\S+)", said)}
    assert len(tried) == 6 and tried[5e4, 0] == math.inf > tried[5e-5, 0]
    chosen = found["settings"]["lr"], found["settings"]["lamb"]
    assert tried[chosen] == min(tried.values()) < max(loss for loss in tried.values() if loss < math.inf)
    told = evaluate("--lr", chosen[0], "--lamb", chosen[1])[1]
    assert [told[split]["loss"] for split in ("valid", "test")] == [found[split]["loss"] for split in ("valid", "test")]


def test_search_chooses_the_settings_of_the_cache(evaluate, changed, monkeypatch, tmp_path):
    """Those with the lowest loss where the model learns, against every setting of the grids given by hand."""
    monkeypatch.setattr(dynamiceval, "FACTORS", (1, 20))
    monkeypatch.setattr(dynamiceval, "LAMBDAS", (0.01,))
    monkeypatch.setattr(neural_cache, "THETAS", (0.01, 0.3))
    monkeypatch.setattr(neural_cache, "LAMBDAS", (0.02, 0.1, 0.5))
    cache = ["--neural-cache", "--window", 50]
    found = evaluate("--search", "--search-tokens", 150, *cache)[1]
    settings = found["settings"]
    first = shutil.copytree(changed, tmp_path / "first")
    words = (changed / "valid.txt").read_text().replace("\n", " <eos> ").split()[:151]
    (first / "valid.txt").write_text(" ".join(words).replace(" <eos> ", "\n").removesuffix(" <eos>") + "\n")
    learning = ["--lr", settings["lr"], "--lamb", settings["lamb"]]
    losses = {(theta, share): evaluate(*learning, *cache, "--theta", theta, "--lambdasm", share, data=first)[1]["valid"]
              ["loss"] for theta in (0.01, 0.3) for share in (0.02, 0.1, 0.5)}
    assert losses[settings["theta"], settings["lambdasm"]] == pytest.approx(min(losses.values()), abs=2e-3)
    assert max(losses.values()) - min(losses.values()) > 0.1
    told = evaluate(*learning, *cache, "--theta", settings["theta"], "--lambdasm", settings["lambdasm"])[1]
    assert told["test"]["loss"] == found["test"]["loss"]
    kept = evaluate("--search", "--search-tokens", 150, *cache, "--theta", 2)[1]["settings"]      # typed: not searched
    assert (kept["theta"], kept["lambdasm"]) == (2, 0.12785920428335693)


@pytest.mark.parametrize("share", [0.005, 0.1, 0.3, 0.6, 0.9])
def test_interrupted_and_continued_equals_uninterrupted(share, evaluate, monkeypatch, tmp_path):
    """In plain evaluation, while gathering, in the search, in both texts."""
    monkeypatch.setattr(dynamiceval, "FACTORS", (10, 20))
    monkeypatch.setattr(dynamiceval, "LAMBDAS", (0.01,))
    flags = "--search", "--search-tokens", 150, "--neural-cache", "--window", 50
    count = stop_after(None)
    monkeypatch.setattr(signals.Interruption, "check", count)
    whole = evaluate(*flags)[1]
    monkeypatch.setattr(signals.Interruption, "check", stop_after(1 + int(share * count.calls)))
    said, result = evaluate(*flags)
    assert "stopped by the test" in said and "--resume auto" in said and result is None
    state = tmp_path / "toy.dynamic.state.pt"
    said, result = evaluate(*flags, "--resume", "auto")
    assert "continuing from" in said and not state.exists()
    assert all(result[split]["loss"] == whole[split]["loss"] for split in ("valid", "test"))


@pytest.mark.parametrize("what", ["batch size", "training text"])
def test_a_pass_with_other_mean_squares_is_not_continued(what, evaluate, changed, monkeypatch, tmp_path):
    """Interrupted within the last text: what was read of it was learnt with steps of other sizes."""
    data, flags = changed, ["--lr", 1e-3]
    if what == "batch size":
        flags += ["--stat-batch-size", 5]
    else:
        data = shutil.copytree(changed, tmp_path / "other")
        (data / "train.txt").write_text("".join((changed / "train.txt").open().readlines()[:80]))
    whole, count = evaluate(*flags, data=data)[1], stop_after(None)
    monkeypatch.setattr(signals.Interruption, "check", count)
    evaluate("--lr", 1e-3)
    monkeypatch.setattr(signals.Interruption, "check", stop_after(int(0.9 * count.calls)))
    assert evaluate("--lr", 1e-3)[1] is None
    result = evaluate(*flags, "--resume", "auto", data=data)[1]
    assert all(result[split]["loss"] == whole[split]["loss"] for split in ("valid", "test"))


def test_the_time_limit_ends_it_cleanly(trained, changed, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path / "toy.pt")
    said = run_script("dynamiceval.py", "--save", "toy.pt", "--data", changed, "--max-minutes", 1e-4, cwd=tmp_path)
    assert "| stopped after 0.0001 minutes" in said.stdout and "to continue:" in said.stdout and not said.stderr
    assert not (tmp_path / "toy.dynamic.result.json").exists()


def test_a_signal_ends_it_cleanly(trained, changed, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path / "toy.pt")
    command = [sys.executable, "-u", ROOT / "dynamiceval.py", "--save", "toy.pt", "--data", changed, "--bptt", 1,
               "--stat-batch-size", 1]
    process = subprocess.Popen([str(word) for word in command], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while "test loss" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM and "| interrupted by SIGTERM" in said
    assert (tmp_path / "toy.dynamic.state.pt").exists()


# Adaptation to any text, line by line.

LINES = "w1 w2 w3 w4\nw1 w2 w3 w4\n\nw5 w6\nw7\n"


@pytest.mark.parametrize("reset", [False, True])
def test_adaptation_against_a_loop(reset, begin):
    """A line at a time: scored whole, then one step of SGD down its mean loss, nothing drawn back."""
    model = make()
    stream = text(31)
    stream[[0, 4, 5, 13, 30]] = 0
    segments = dynamic.segments_by_line((stream[1:, 0] == 0).tolist(), reset)
    assert segments.starts == [0, 4, 5, 13]
    kept = []
    with begin(model, rule="sgd") as reading:
        found = reading.learn("text", stream, 0.5, 0, segments, ranks=True, entropies=True,
                              keep=lambda: kept.extend(w.detach().clone() for w in model.parameters()))
    model.eval()
    hidden, logprobs, weights = model.init_hidden(1), [], [*model.parameters()]
    for start, stop in ((0, 4), (4, 5), (5, 13), (13, 30)):
        features, hidden = model(stream[start:stop], model.init_hidden(1) if reset else hidden)
        hidden = [tuple(part.detach() for part in layer) for layer in hidden]
        scores = (features @ model.decoder.weight.t() + model.decoder.bias).log_softmax(1)
        targets = stream[start + 1:stop + 1, 0]
        picked = scores.gather(1, targets[:, None])[:, 0]
        logprobs.append(torch.stack([picked, (scores > picked[:, None]).sum(1) + 1.0, -(scores.exp() * scores).sum(1)]))
        for w, gradient in zip(weights, torch.autograd.grad(-picked.mean(), weights)):
            w.data -= 0.5 * gradient
    for values, expected in zip(found.scores, torch.cat(logprobs, 1).detach()):
        torch.testing.assert_close(values.float(), expected, rtol=1e-4, atol=1e-4)
    for w, adapted in zip(weights, kept, strict=True):
        torch.testing.assert_close(adapted, w.detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def adapt(evaluate, tmp_path):
    """`adapt(*words)` adapts the trained model to LINES by SGD -> rows of its words, what was said, the result."""
    (tmp_path / "items.txt").write_text(LINES)

    def run(*words):
        said, result = evaluate("--text", "items.txt", "--rule", "sgd", "--lamb", 0, "--per-token", "words.json",
                                "--format", "json", *words, data=tmp_path / "no corpus is read")
        return [json.loads(line) for line in (tmp_path / "words.json").read_text().splitlines()], said, result
    return run


@pytest.mark.parametrize("context", ["carry", "reset"])
def test_a_text_is_adapted_to_line_by_line(context, adapt, call, tmp_path):
    call("evaluate.py", "--save", "toy.pt", "--text", "items.txt", "--context", context, "--per-token", "plain.json",
         "--format", "json", "--device", "cpu")
    plain = [json.loads(line) for line in (tmp_path / "plain.json").read_text().splitlines()]
    still, *_ = adapt("--lr", 0, "--context", context)
    moved, said, result = adapt("--lr", 1, "--context", context)
    assert [row["word"] for row in moved] == [row["word"] for row in plain]
    assert " ".join(row["word"] for row in moved) == LINES.replace("\n", " <eos> ").replace("  ", " ").strip()
    scores = [[row["logprob"] for row in rows] for rows in (plain, still, moved)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert scores[2][:5] == pytest.approx(scores[0][:5], abs=1e-5)                # the first line, before it is learnt
    assert all(abs(one - other) > 1e-4 for one, other in zip(scores[2][5:], scores[0][5:]))
    if context == "reset":                                                        # the same line for the second time
        assert sum(scores[2][5:10]) > sum(scores[2][:5]) and scores[0][5:10] == pytest.approx(scores[0][:5], abs=1e-5)
    assert result["text"]["loss"] == pytest.approx(-sum(scores[2]) / 16, abs=1e-6) and "with dynamic evaluation" in said


def test_an_adapted_model_is_a_model(adapt, call, tmp_path):
    """Another script reads it, and finds the text likelier; the words' counts went with it, and the model is as before.
    """
    before = (tmp_path / "toy.pt").read_bytes()
    said = adapt("--lr", 1, "--save-adapted", "adapted.pt")[1]
    assert "the adapted model is saved in adapted.pt" in said and (tmp_path / "toy.pt").read_bytes() == before
    figures = []
    for name in ("toy.pt", "adapted.pt"):
        call("evaluate.py", "--save", name, "--text", "items.txt", "--device", "cpu")
        figures.append(json.loads((tmp_path / f"{name[:-3]}.evaluation.items-txt.result.json").read_text())["text"])
    assert figures[1]["loss"] < figures[0]["loss"] - 0.01
    one, other = (checkpoint.load(str(tmp_path / name)) for name in ("toy.pt", "adapted.pt"))
    assert one["settings"] == other["settings"] and one["vocabulary"] == other["vocabulary"]
    assert checkpoint.digest(other) != checkpoint.digest(one)
    assert other["digest"] == checkpoint.digest({name: part for name, part in other.items() if name != "digest"})


@pytest.mark.parametrize("calls", [3, 5, 6])
def test_an_interrupted_adaptation_equals_an_uninterrupted_one(calls, adapt, evaluate, monkeypatch, tmp_path):
    whole, _, result = adapt("--lr", 1, "--save-adapted", "whole.pt")
    with monkeypatch.context() as patch:
        patch.setattr(signals.Interruption, "check", stop_after(calls))
        said, stopped = evaluate("--text", "items.txt", "--rule", "sgd", "--lamb", 0, "--lr", 1, "--per-token",
                                 "words.json", "--format", "json", "--save-adapted", "halves.pt")
    assert stopped is None and "to continue:" in said
    (tmp_path / "other.txt").write_text("w3 w4\n")                      # leaves what was kept of the first text
    assert "continuing from" not in evaluate("--text", "other.txt", "--rule", "sgd", "--resume", "auto")[0]
    rows, said, continued = adapt("--lr", 1, "--save-adapted", "halves.pt", "--resume", "auto")
    assert "continuing from" in said and rows == whole and continued["text"]["loss"] == result["text"]["loss"]
    one, other = (checkpoint.load(str(tmp_path / name))["digest"] for name in ("whole.pt", "halves.pt"))
    assert one == other


def test_an_adaptation_continues_that_ended_after_its_model_was_saved(adapt, monkeypatch, tmp_path):
    """Killed before its other outputs were written: the model that is there is its own. Another's stays."""
    flags = ["--lr", 1, "--save-adapted", "adapted.pt", "--checkpoint-minutes", 1e-9]

    def killed(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(dynamiceval.outputs, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            adapt(*flags)
    state, adapted = tmp_path / "toy.dynamic.items-txt.state.pt", tmp_path / "adapted.pt"
    kept, written = state.read_bytes(), adapted.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        adapt(*flags)
    rows, said, _ = adapt(*flags, "--resume", "auto")
    assert "continuing from" in said and adapted.read_bytes() == written and not state.exists()
    adapted.unlink()
    assert adapt(*flags)[0] == rows
    state.write_bytes(kept)
    shutil.copy(tmp_path / "toy.pt", adapted)
    with pytest.raises(InputError, match="is there already"):
        adapt(*flags, "--resume", "auto")
    assert adapted.read_bytes() == (tmp_path / "toy.pt").read_bytes() and state.exists()
    state.unlink()
    with pytest.raises(InputError, match="is there already"):
        adapt(*flags, "--resume", "auto")


@pytest.mark.parametrize("words, said", [
    (["--text", "items.txt", "--search"], "leave it out for lines"),
    (["--search", "--lr", 1], "--search chooses --lr and --lamb"),
    (["--search-tokens", 9], "does nothing without --search"),
    (["--theta", 2], "does nothing without --neural-cache"), (["--window", 2], "does nothing without --neural-cache"),
    (["--context", "reset", "--segments", "tokens"], "--segments tokens"),
    (["--save-adapted", "a.pt"], "--split or --text"), (["--per-token", "-"], "--split or --text"),
    (["--split", "test", "--save-adapted", "toy.pt"], "two things"),
    (["--split", "test", "--save-adapted", "-"], "standard output"),
    (["--split", "test", "--save-adapted", "items.txt"], "is there already"),
    (["--split", "test", "--save-adapted", "."], "is a folder"),
    (["--text", "items.txt", "--neural-cache", "--per-token", "-", "--entropy"], "--entropy and --predictors"),
    (["--text", "none.txt", "--rule", "sgd"], "none.txt"), (["--text", "empty.txt", "--rule", "sgd"], "is empty"),
    (["--text", "items.txt", "--rule", "sgd", "--lr", "1e30"], "too large for this model")])
def test_flags_of_adaptation(words, said, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "items.txt").write_text(LINES)
    (tmp_path / "empty.txt").write_text("")
    assert said in refuse(*words)
    assert not (tmp_path / "a.pt").exists() and (tmp_path / "items.txt").read_text() == LINES


@pytest.fixture
def refuse(trained, changed, tmp_path, monkeypatch, capsys):
    """`refuse(*words)` runs the script as a user does -> its one line of error."""
    shutil.copy(trained / "toy.pt", tmp_path / "toy.pt")

    def run(*words):
        words = ["--save", str(tmp_path / "toy.pt"), "--data", str(changed), *map(str, words)]
        monkeypatch.setattr("sys.argv", ["dynamiceval.py", *words])
        with pytest.raises(SystemExit) as exit:
            errors.run(dynamiceval.main)
        said = capsys.readouterr().err
        line = exit.value.code if isinstance(exit.value.code, str) else said
        assert exit.value.code not in (0, None) and len(line.strip().splitlines()) == 1 and "Traceback" not in line
        return line
    return run


@pytest.mark.parametrize("words", [
    ["--lr", "-1"], ["--lr", "nan"], ["--lamb", "2"], ["--epsilon", "0"], ["--bptt", "0"], ["--rule", "adam"],
    ["--split", "train"], ["--search-tokens", "0"], ["--stat-batch-size", "0"], ["--theta", "x"]])
def test_flags(words, refuse):
    assert words[0] in refuse(*words)


def test_files_and_texts(refuse, tmp_path):
    assert "no such checkpoint" in refuse("--checkpoint", tmp_path / "none.pt")
    assert "train.txt" in refuse("--stat-batch-size", 10**6)
    state = tmp_path / "toy.dynamic.state.pt"
    state.write_bytes(b"nonsense")
    assert "damaged" in refuse("--resume", "auto")


@pytest.mark.parametrize("flags", [["--lr", 1e6], ["--rule", "sgd", "--lr", 1e30]], ids=["rms", "sgd"])
def test_a_model_that_diverges_is_one_line(flags, refuse, tmp_path):
    assert f"--lr {flags[-1]:g} is too large" in refuse(*flags)
    assert not (tmp_path / "toy.dynamic.result.json").exists()


def test_a_search_in_which_all_diverges_is_one_line(refuse, monkeypatch):
    monkeypatch.setattr(dynamiceval, "FACTORS", (1e10, 1e12))
    assert "smaller --lr" in refuse("--search", "--search-tokens", 100)


@pytest.mark.parametrize("spoil", [
    lambda seen: seen.update(weights=seen["weights"][1:]), lambda seen: seen.pop("weights"),
    lambda seen: seen["weights"].__setitem__(0, torch.zeros(3)), lambda seen: seen.update(seconds="x"),
    lambda seen: seen.update(hidden=None), lambda seen: seen.update(features=[torch.zeros(2)])])
def test_a_state_that_was_tampered_with(spoil, evaluate, refuse, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(signals.Interruption, "check", stop_after(60))
        evaluate("--rule", "sgd")
    state = tmp_path / "toy.dynamic.state.pt"
    contents = checkpoint.read(str(state))
    (seen,) = contents["splits"].values()
    spoil(seen)
    state.unlink()
    checkpoint.save(str(state), contents)
    assert "leave --resume out" in refuse("--rule", "sgd", "--stat-batch-size", 20, "--resume", "auto")
