"""Past decode regularisation against a loop over the paper's equations, with its gradients, in slices and in a step."""
import pytest
import torch
from conftest import SMALL

import past_decode
from model import build, count_parameters
from nt_asgd import NTASGD
from runtime.errors import InputError
from training.step import TrainStep

SETTINGS = {"model": "LSTM", "emsize": 6, "nhid": 9, "nlayers": 2, "tied": True, "cutoffs": [], "dropout": 0.0,
            "dropouth": 0.0, "dropouti": 0.0, "dropoute": 0.0, "wdrop": 0.0, "dropoutr": 0}
T, B, V = 5, 3, 13


def make(seed=1, **settings):
    torch.manual_seed(seed)
    model = build({**SETTINGS, **settings}, V).double()
    if model.past:
        torch.nn.init.normal_(model.past.bias)
    return model


def by_hand(model, features, words):
    """0.3 · mean over rows of -log softmax(tanh(p E W + c) Eᵀ + b)[word]: one row, one word at a time."""
    vectors, linear, total = model.encoder.weight, model.past.transform, 0.0
    for p, word in zip(model.logprob(features).exp(), words.flatten()):
        soft = sum(p[v] * vectors[v] for v in range(V))                                                     # (E,)
        past = torch.tanh(torch.stack([linear.weight[i] @ soft + linear.bias[i] for i in range(len(soft))]))
        scores = torch.stack([vectors[v] @ past + model.past.bias[v] for v in range(V)])                    # (V,)
        total = total - (scores[word] - scores.exp().sum().log())
    return 0.3 * total / words.numel()


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("settings", [{}, {"tied": False}, {"cutoffs": [4, 8]}], ids=["tied", "untied", "adaptive"])
def test_loss_and_gradients(settings, rows, monkeypatch):
    monkeypatch.setattr(past_decode, "LOGITS", rows * B * V)
    model = make(pdr=0.3, **settings)
    words = torch.randint(V, (T, B))
    features = torch.randn(T * B, model.decoder.in_features, dtype=torch.double, requires_grad=True)
    inputs = [features, *model.parameters()]
    found, expected = model.past_loss(features, words), by_hand(model, features, words)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(2 * loss, inputs, allow_unused=True) for loss in (found, expected)]
    assert sum(g is not None for g in gradients[0]) >= 5
    for a, b in zip(*gradients):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_no_array_of_the_whole_window(monkeypatch):
    """The softmax is never asked for more rows than a slice has, and each slice is of whole rows of the batch."""
    monkeypatch.setattr(past_decode, "LOGITS", 2 * B * V + 1)
    model, asked = make(pdr=0.3), []
    logprob = model.softmax.logprob
    monkeypatch.setattr(model.softmax, "logprob", lambda *args: asked.append(len(args[2])) or logprob(*args))
    model.past_loss(torch.randn(T * B, 6, dtype=torch.double), torch.randint(V, (T, B)))
    assert asked == [2 * B, 2 * B, B]


def test_a_step_adds_it_to_the_loss():
    """Descending by the step is descending by loss + penalty; the loss that is logged is the cross-entropy."""
    model, other = make(pdr=0.3), make(pdr=0.3)
    text = torch.randint(V, (T + 1, B))
    step = TrainStep(model, NTASGD(model.parameters(), lr=1), bptt=T, clip=0, alpha=0, beta=0)
    found, _ = step(text[:-1], text[1:].flatten(), model.init_hidden(B))
    features, _ = other(text[:-1], other.init_hidden(B))
    loss = other.loss(features, text[1:].flatten())
    (loss + by_hand(other, features, text[:-1])).backward()
    torch.testing.assert_close(found, loss.detach())
    for after, before in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(after, before - before.grad)


def test_without_it_nothing_changes():
    plain, zero, own = make(), make(pdr=0.0), make(pdr=0.3)
    assert plain.state_dict().keys() == zero.state_dict().keys() and zero.past_loss(None, None) == 0
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in plain.state_dict().items())
    assert count_parameters(own) - count_parameters(plain) == 6 * 6 + 6 + V


@pytest.mark.parametrize("cutoffs", [[], ["--cutoffs", 8, 20]], ids=["full", "adaptive"])
def test_its_weights_are_kept_apart_and_only_training_reads_them(cutoffs, toy, call, tmp_path):
    call("main.py", "--data", toy, *SMALL, *cutoffs, "--pdr", 0.2, "--epochs", 2, "--save", "m.pt")
    saved = torch.load(tmp_path / "m.pt", weights_only=True)
    assert saved["past"].keys() == {"transform.weight", "transform.bias", "bias"}
    assert not any(name.startswith("past") for name in (*saved["model"], *saved["criterion"]))
    del saved["past"]
    torch.save(saved, tmp_path / "without.pt")                   # as another tool may leave it
    said = [call("evaluate.py", "--save", name) for name in ("m.pt", "without.pt")]
    figures = [[line for line in text.splitlines() if " loss " in line] for text in said]
    assert figures[0] == figures[1] and figures[0]
    call("dynamiceval.py", "--save", "m.pt", "--split", "test", "--bptt", 20)
    for words, parts in (([], 3), (["--pdr", 0], 0), (["--pdr", 0.1], 3)):
        call("finetune.py", "--save", "m.pt", "--epochs", 1, *words)
        assert len(torch.load(tmp_path / "m.finetuned.pt", weights_only=True)["past"]) == parts
    call("finetune.py", "--save", "without.pt", "--epochs", 1)   # fresh ones


def test_a_damaged_part_is_named(toy, call, tmp_path):
    call("main.py", "--data", toy, *SMALL, "--pdr", 0.2, "--epochs", 1, "--save", "m.pt")
    saved = torch.load(tmp_path / "m.pt", weights_only=True)
    for spoilt in ([1, 2], {"bias": torch.zeros(3)}):
        torch.save({**saved, "past": spoilt}, tmp_path / "spoilt.pt")
        with pytest.raises(InputError, match=r"spoilt\.pt"):
            call("finetune.py", "--save", "spoilt.pt", "--epochs", 1)
