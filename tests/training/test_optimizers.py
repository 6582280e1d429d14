"""AdaBelief and averaged Adam against loops over their equations; steps that are not finite; flags."""
import copy
import math

import pytest
import torch
from conftest import SMALL

from model import build
from nt_asgd import NTASGD
from runtime.errors import InputError
from training.adabelief import AdaBelief
from training.optimizers import OPTIMIZERS, load_state_dict
from training.step import TrainStep

BETAS = {"beta1": 0.8, "beta2": 0.99}
MODEL = {"model": "LSTM", "emsize": 8, "nhid": 12, "nlayers": 2, "tied": True, "cutoffs": [], "dropout": 0.2,
         "dropouth": 0.2, "dropouti": 0.2, "dropoute": 0.1, "wdrop": 0.3, "dropoutr": 0}


def problem():
    """Two parameters, and the gradients that they have at each step."""
    torch.manual_seed(5)
    parameters = [torch.randn(3, 4, dtype=torch.double), torch.randn(4, dtype=torch.double)]
    gradients = [[torch.randn_like(p) for p in parameters] for _ in range(9)]
    return [torch.nn.Parameter(p) for p in parameters], gradients


def take(optimizer, parameters, gradients):
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize(("beta1", "decay", "eps"), [(0.9, 0, 1e-12), (0.0, 0.03, 1e-3), (0.7, 0.1, 1e-2)])
def test_adabelief_weight_by_weight(beta1, decay, eps):
    parameters, gradients = problem()
    optimizer = AdaBelief(parameters, lr=0.1, betas=(beta1, 0.95), eps=eps, weight_decay=decay)
    weights = [p.detach().flatten().tolist() for p in parameters]
    means, spreads = ([[0.0] * len(w) for w in weights] for _ in range(2))
    for t, step in enumerate(gradients, start=1):
        take(optimizer, parameters, step)
        for w, m, s, gradient in zip(weights, means, spreads, step):
            for i, g in enumerate(gradient.flatten().tolist()):
                g += decay * w[i]
                m[i] = beta1 * m[i] + (1 - beta1) * g
                s[i] = 0.95 * s[i] + 0.05 * (g - m[i]) ** 2 + eps
                w[i] -= 0.1 * m[i] / (1 - beta1**t) / (math.sqrt(s[i] / (1 - 0.95**t)) + eps)
        for parameter, w in zip(parameters, weights):
            torch.testing.assert_close(parameter.detach().flatten(), torch.tensor(w, dtype=torch.double))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_continued_from_its_state_it_goes_on_the_same(name):
    parameters, gradients = problem()
    make = OPTIMIZERS[name].make
    settings = {"lr": 0.1, "wdecay": 0.01, **BETAS}
    whole = make(parameters, settings)
    for step in gradients[:4]:
        take(whole, parameters, step)
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    parts = make(others, settings)
    load_state_dict(parts, copy.deepcopy(whole.state_dict()), "a.state.pt")
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(parameters, others))
    for step in gradients[4:]:
        take(whole, parameters, step)
        take(parts, others, step)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others))
    assert not torch.equal(parameters[0], problem()[0][0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_damaged_state_is_refused_by_name(name):
    """Without an entry, or with one of another shape or type, or that is not finite."""
    parameters, gradients = problem()
    make, settings = OPTIMIZERS[name].make, {"lr": 0.1, "wdecay": 0.01, **BETAS}
    optimizer = make(parameters, settings)
    if OPTIMIZERS[name].averages:
        optimizer.start_averaging()
    take(optimizer, parameters, gradients[0])
    entries = optimizer.state_dict()["state"][1]
    assert entries
    for entry, value in entries.items():
        for damaged in (None, torch.zeros(7, 7, dtype=torch.double), "x", torch.full_like(value, math.nan)
                        if isinstance(value, torch.Tensor) else [value]):
            saved = copy.deepcopy(optimizer.state_dict())
            if damaged is None:
                del saved["state"][1][entry]
            else:
                saved["state"][1][entry] = damaged
            if entry == "average" and damaged is None:
                continue                         # it is begun anew with the next step
            with pytest.raises(InputError, match=f"a.state.pt.*{entry}"):
                load_state_dict(make(problem()[0], settings), saved, "a.state.pt")
    other = next(other for other in ("sgd", "adagrad") if other != name)
    with pytest.raises(InputError, match="another optimizer"):
        load_state_dict(OPTIMIZERS[other].make(problem()[0], settings), optimizer.state_dict(), "a.state.pt")


def test_averaged_adam_is_adam_and_the_mean_of_its_weights():
    parameters, gradients = problem()
    others, _ = problem()
    settings = {"lr": 0.1, "wdecay": 0.01, **BETAS}
    averaged, adam = OPTIMIZERS["averaged-adam"].make(parameters, settings), OPTIMIZERS["adam"].make(others, settings)
    weights = []
    for number, step in enumerate(gradients):
        if number == 3:
            averaged.start_averaging()
        take(averaged, parameters, step)
        take(adam, others, step)
        assert all(torch.equal(a, b) for a, b in zip(parameters, others))
        weights += [[p.detach().clone() for p in parameters]] if number >= 3 else []
    with averaged.averaged():
        for parameter, *steps in zip(parameters, *weights):
            torch.testing.assert_close(parameter.detach(), torch.stack(steps).mean(0))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing(name):
    torch.manual_seed(2)
    model = build(MODEL, 20)
    optimizer = OPTIMIZERS[name].make(list(model.parameters()), {"lr": 0.01, "wdecay": 1e-6, **BETAS})
    step = TrainStep(model, optimizer, bptt=9, clip=0.25, alpha=2, beta=1)
    if OPTIMIZERS[name].averages:
        optimizer.start_averaging()
    text, hidden = torch.randint(20, (10, 4)), model.init_hidden(4)
    for _ in range(2):
        _, hidden = step(text[:-1], text[1:].flatten(), hidden)
    before = copy.deepcopy((list(model.parameters()), optimizer.state_dict()["state"]))
    model.decoder.bias.register_hook(lambda gradient: gradient * math.inf)
    loss, after = step(text[:-1], text[1:].flatten(), hidden)
    assert math.isnan(loss) and all(torch.equal(a, b) for pair in zip(after, hidden) for a, b in zip(*pair))
    assert all(torch.equal(a, b) for a, b in zip(before[0], model.parameters()))
    for index, kept in optimizer.state_dict()["state"].items():
        for key, value in kept.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(before[1][index][key])), key


@pytest.mark.parametrize(("words", "named"), [
    (["--optimizer", "adabelief", "--on-stall", "average"], "--on-stall average is for"),
    (["--optimizer", "adam", "--average-from", 3], "--average-from is for"),
    (["--optimizer", "adam", "--one-cycle", 1, 1, 1, 1, "--beta1", 0], "--beta1 has no effect"),
    (["--optimizer", "adam", "--one-cycle", 1, 1, 1, 1, "--when", 2], "--when has no effect with --one-cycle"),
    (["--optimizer", "adam", "--one-cycle", 1, 1, 1, 1, "--on-stall", "halve"], "--on-stall has no effect with"),
    (["--beta1", 0.5], "--beta1 is not for --optimizer sgd"),
    (["--stall-divisor", 3], "--stall-divisor has no effect without --on-stall divide"),
    (["--patience", 3, "--nonmono", 2], "--patience takes the place of --nonmono")])
def test_flags_that_contradict_or_have_no_effect(words, named, toy, call, tmp_path):
    with pytest.raises(InputError, match=named):
        call("main.py", "--data", toy, *SMALL, *words)
    assert not list(tmp_path.glob("model*"))


def test_an_optimizer_that_averages_is_still_sgd_for_ntasgd():
    """Weights and averages are those of the equations, also of a group that is added later."""
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = NTASGD([first], lr=0.5, weight_decay=0.1)
    take(optimizer, [first], [torch.ones(2)])
    optimizer.start_averaging()
    optimizer.add_param_group({"params": [second]})
    take(optimizer, [first, second], [torch.ones(2), torch.ones(2)])
    w1 = 1 - 0.5 * (1 + 0.1)
    w2 = w1 - 0.5 * (1 + 0.1 * w1)
    torch.testing.assert_close(first.detach(), torch.full((2,), w2))
    with optimizer.averaged():
        torch.testing.assert_close(first.detach(), torch.full((2,), w2))
