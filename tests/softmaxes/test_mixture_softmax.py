"""The mixture of softmaxes against a loop over its equations in float64, and adversarial noise on the targets."""
import copy

import pytest
import torch
from conftest import SMALL
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import splitcross
from evaluation.loss import evaluating
from evaluation.scoring import all_logprobs, sampling
from model import RNNModel, count_parameters, set_precision
from runtime.errors import InputError
from softmaxes import SOFTMAXES, MixtureSoftmax, SplitSoftmax

V, E, WIDTH, K, T, B = 23, 5, 6, 4, 3, 2
N = T * B


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


def make(components=K, dropout=0.0, dtype=torch.float64, words=V, rows=N, **settings):
    """A mixture with large weights, so that its components differ; decoder, features, targets."""
    softmax = MixtureSoftmax(E, {"mixtures": components, "dropoutl": dropout, "nhidlast": WIDTH, **settings}).to(dtype)
    for parameter in softmax.parameters():
        torch.nn.init.normal_(parameter)
    weight, bias, features = (torch.randn(shape, dtype=dtype).mul_(scale).requires_grad_()
                              for shape, scale in (((words, E), 2), ((words,), 1), ((rows, WIDTH), 1)))
    return softmax, weight, bias, features, torch.randint(words, (rows,))


def naive(softmax, weight, bias, features, masks=None):
    """All probabilities, (N, V), one prediction and one component at a time."""
    found = []
    for n, h in enumerate(features):
        prior = (softmax.prior.weight @ h).exp()
        probabilities = 0
        for k in range(softmax.components):
            own = slice(k * E, (k + 1) * E)
            latent = torch.tanh(softmax.latent.weight[own] @ h + softmax.latent.bias[own])
            if masks is not None:
                latent = latent * masks[n % len(masks), own]
            exponentials = (weight @ latent + bias).exp()
            probabilities = probabilities + prior[k] / prior.sum() * exponentials / exponentials.sum()
        found.append(probabilities)
    return torch.stack(found)


def rows_at_a_time(monkeypatch, rows):
    """Slices of so many predictions each."""
    monkeypatch.setattr(splitcross, "LOGITS", (0, 0) if rows is None else (rows * K * V, 0))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("rows", [None, 1, 2, 4, 100])
def test_loss_probabilities_and_gradients_are_those_of_the_equations(rows, dropout, monkeypatch):
    rows_at_a_time(monkeypatch, rows)
    softmax, weight, bias, features, targets = make(dropout=dropout)
    softmax.draw_masks(B)
    expected = naive(softmax, weight, bias, features, softmax.masks)
    of_targets = expected[torch.arange(N), targets].log()
    with torch.no_grad():
        torch.testing.assert_close(softmax.logprob(weight, bias, features), expected.log())
        torch.testing.assert_close(softmax.target_logprob(weight, bias, features, targets), of_targets)
        torch.testing.assert_close(softmax(weight, bias, features, targets), -of_targets.mean())
    loss = softmax(weight, bias, features, targets)
    torch.testing.assert_close(loss, -of_targets.mean())
    inputs = [weight, bias, features, *softmax.parameters()]
    for found, exact in zip(torch.autograd.grad(3 * loss, inputs),
                            torch.autograd.grad(-3 * of_targets.mean(), inputs), strict=True):
        torch.testing.assert_close(found, exact)


def test_probabilities_sum_to_one_and_tiny_ones_are_no_nan():
    softmax, weight, bias, features, targets = make()
    torch.testing.assert_close(softmax.logprob(weight, bias, features).exp().sum(1), torch.ones(N).double())
    with torch.no_grad():
        bias[targets] -= 2000                                   # e^-2000 is zero in any type
        weight.mul_(50)
    logprob = softmax.target_logprob(weight, bias, features, targets)
    assert logprob.isfinite().all() and logprob.min() < -1000
    loss = softmax(weight, bias, features, targets)
    gradients = torch.autograd.grad(loss, [weight, bias, features, *softmax.parameters()])
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(loss, -logprob.mean())


def test_one_component_is_the_full_softmax():
    softmax, weight, bias, features, targets = make(components=1)
    latents = softmax.latent(features).tanh()
    torch.testing.assert_close(softmax.logprob(weight, bias, features), (latents @ weight.T + bias).log_softmax(1))
    loss, expected = softmax(weight, bias, features, targets), SplitSoftmax(E)(weight, bias, latents, targets)
    torch.testing.assert_close(loss, expected)
    inputs = [weight, bias, features, *softmax.latent.parameters()]
    for found, exact in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(found, exact)


# ---- dropout

def network(**settings):
    model = RNNModel("LSTM", V, E, 7, 2, 0, 0, 0, 0, softmax="mixture", nhidlast=WIDTH, mixtures=K,
                     **{"dropoutl": 0.5, **settings})
    return model.train()


def test_a_mask_holds_for_a_window_and_differs_from_column_to_column():
    model, words = network(), torch.randint(V, (T, B))
    seen = []
    for _ in range(2):
        features, _ = model(words, model.init_hidden(B))
        whole, _ = model.softmax._components(features)
        kept = (whole != 0).view(T, B, K * E)
        assert (kept == kept[:1]).all() and not torch.equal(kept[0, 0], kept[0, 1])
        later, _ = model.softmax._components(features[3:], 3)
        torch.testing.assert_close(later, whole[3:])
        plain = model.softmax.latent(features).tanh().view(T, B, K * E)
        torch.testing.assert_close(whole.view(T, B, K * E), torch.where(kept, 2 * plain, 0))
        seen.append(kept)
    assert not torch.equal(*seen)


@pytest.mark.parametrize("rows", [None, 1, 4])
def test_masks_of_every_step_against_the_equations(rows, monkeypatch):
    """With per_step_dropout each prediction has a mask of its own; loss and gradients as with those masks."""
    rows_at_a_time(monkeypatch, rows)
    model, words, targets = network(per_step_dropout=True).double(), torch.randint(V, (T, B)), torch.randint(V, (N,))
    features, _ = model(words, model.init_hidden(B))
    masks = model.softmax.masks
    assert masks.shape == (N, K * E) and len(masks.unique(dim=0)) == N
    loss = model.loss(features, targets)
    probabilities = naive(model.softmax, model.decoder.weight, model.decoder.bias, features, masks)
    wanted = -probabilities[torch.arange(N), targets].log().mean()
    torch.testing.assert_close(loss, wanted)
    inputs = [features, model.decoder.weight, model.decoder.bias, *model.softmax.parameters()]
    for found, exact in zip(torch.autograd.grad(loss, inputs, retain_graph=True), torch.autograd.grad(wanted, inputs)):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("dropout", [0.2, 0.6])
def test_the_share_that_is_dropped(dropout):
    softmax = make(dropout=dropout)[0]
    softmax.draw_masks(2000)
    assert abs((softmax.masks == 0).double().mean().item() - dropout) < 0.01
    assert softmax.masks.unique().tolist() == pytest.approx([0, 1 / (1 - dropout)])


def test_nothing_is_dropped_in_evaluation():
    model, words, targets = network(), torch.randint(V, (T, B)), torch.randint(V, (N,))
    model(words, model.init_hidden(B))
    with evaluating(model):
        features, _ = model(words, model.init_hidden(B))
        assert model.softmax.masks is None
        expected = naive(model.softmax, model.decoder.weight, model.decoder.bias, features).log()
        torch.testing.assert_close(model.logprob(features), expected)
        torch.testing.assert_close(model.loss(features, targets), -expected.gather(1, targets[:, None]).mean())


def test_sampled_probabilities_have_one_mask_for_a_window(monkeypatch):
    """Monte Carlo dropout asks for all probabilities some rows at a time."""
    model, words = network(), torch.randint(V, (N, 1))
    monkeypatch.setattr("evaluation.scoring.CHUNK", 2 * V)
    with sampling(model):
        features, _ = model(words, model.init_hidden(1))
        parts = [part for part, _ in all_logprobs(model, features, words[:, 0])]
        assert len(parts) == 3
        torch.testing.assert_close(torch.cat(parts), model.logprob(features))


# ---- memory, sizes, precision

class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gives."""
    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else [result]
        self.numel = max([self.numel, *(t.numel() for t in tensors if isinstance(t, torch.Tensor))])
        return result


@pytest.mark.parametrize("what", ["loss", "target_logprob", "logprob"])
def test_no_array_has_the_logits_of_all_components(what, monkeypatch):
    words, rows = 400, 40
    monkeypatch.setattr(splitcross, "LOGITS", (5 * K * words, 0))
    softmax, weight, bias, features, targets = make(words=words, rows=rows)
    with Largest() as seen:
        if what == "loss":
            softmax(weight, bias, features, targets).backward()
        else:
            getattr(softmax, what)(weight, bias, features.detach(), *[targets] * (what == "target_logprob"))
    assert 4 * K * words < seen.numel <= max(5 * K * words, rows * words * (what == "logprob"))
    assert seen.numel < rows * K * words / 3


@pytest.mark.parametrize(("words", "emsize", "nhid", "nhidlast", "parameters"), [
    (10_000, 280, 960, 620, 21_500_620), (33_278, 300, 1150, 650, 34_909_528)])
def test_published_sizes(words, emsize, nhid, nhidlast, parameters):
    with torch.device("meta"):
        model = RNNModel("LSTM", words, emsize, nhid, 3, softmax="mixture", nhidlast=nhidlast)
    assert count_parameters(model) == parameters


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_is_close(tied):
    model = network(dropoutl=0.0, tie_weights=tied)
    words, targets, found = torch.randint(V, (T, B)), torch.randint(V, (N,)), []
    for precision in ("fp32", "bf16"):
        set_precision(model, precision)
        features, _ = model(words, model.init_hidden(B))
        loss = model.loss(features, targets)
        with torch.no_grad():
            logprob, of_targets = model.logprob(features), model.target_logprob(features, targets)
        assert loss.dtype == logprob.dtype == torch.float32
        found.append([loss, logprob, of_targets, *torch.autograd.grad(loss, list(model.parameters()))])
    assert not torch.equal(found[0][1], found[1][1])
    for a, b in zip(*found):
        assert (a - b).norm() <= 2e-2 * a.norm()


# ---- adversarial noise

@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("which", ["split", "mixture"])
def test_adversarial_noise_moves_the_targets_vectors(which, dtype):
    """Against autograd with every target's logit lowered by ε · ‖w‖ ‖h‖, ε · ‖w‖ held constant, where w · h > 0."""
    epsilon = 0.3
    softmax, weight, bias, features, targets = make(dtype=dtype, advsoft=epsilon)
    if which == "split":
        softmax, features = SplitSoftmax(E, {"advsoft": epsilon}), features[:, :E].detach().requires_grad_()
        latents, log_prior = features[:, None], torch.zeros(N, 1, dtype=dtype)
    else:
        latents, log_prior = softmax._components(features)
    vectors, lengths = weight[targets, None], latents.norm(dim=2)                          # (N, 1, E), (N, K)
    lowered = epsilon * vectors.norm(dim=2).detach() * lengths * ((vectors * latents).sum(2) > 0)
    assert 0 < (lowered > 0).sum() < lowered.numel()
    logits = latents @ weight.T + bias                                                     # (N, K, V)
    logits = logits - lowered[:, :, None] * F.one_hot(targets, V)[:, None]
    expected = (logits.log_softmax(2) + log_prior[:, :, None]).logsumexp(1)
    expected = -expected.gather(1, targets[:, None]).mean()
    loss, inputs = softmax(weight, bias, features, targets), [weight, bias, features, *softmax.parameters()]
    torch.testing.assert_close(loss, expected)
    for found, exact in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(found, exact)
    assert loss > softmax.eval()(weight, bias, features, targets)


def test_adversarial_noise_is_the_worst_of_its_length():
    _, weight, bias, _, targets = make(advsoft=0.3)
    h = torch.randn(N, E).double()
    found, _ = splitcross.SlicedSoftmax(weight.detach(), bias.detach(), torch.float64, None, 0.3)(h, targets)
    for n, target in enumerate(targets):
        for noise in torch.randn(200, E).double():
            perturbed = weight.detach().clone()
            perturbed[target] += 0.3 * weight[target].norm() * noise / noise.norm()
            if weight[target] @ h[n] > 0:
                assert found[n] <= (perturbed @ h[n] + bias).log_softmax(0)[target]


# ---- settings

@pytest.mark.parametrize("name", SOFTMAXES)
def test_settings_are_what_was_given_and_else_the_defaults(name):
    flags = {flag.name: flag.default for flag in SOFTMAXES[name].flags}
    given = {"split": {"cutoffs": [3, 5]}, "mixture": {"mixtures": 2, "advsoft": 0.5}}[name]
    softmax = SOFTMAXES[name](E, given)
    assert softmax.settings == {**flags, **given}
    assert SOFTMAXES[name](E, {**flags, "advsoft": 0.5}).settings["advsoft"] == 0.5
    assert SOFTMAXES[name]().settings == flags


# ---- the command line

def test_mixtures_alone_selects_it(toy, call, tmp_path):
    call("main.py", "--data", toy, *SMALL, "--mixtures", 2, "--epochs", 1)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert saved["settings"]["softmax"] == "mixture"
    assert saved["criterion"]["latent.weight"].shape == (48, 24) and saved["criterion"]["prior.weight"].shape == (2, 24)
    call("finetune.py", "--save", "model.pt", "--mixtures", 2, "--dropoutl", 0.1, "--epochs", 1)
    with pytest.raises(InputError, match="--mixtures 2"):
        call("finetune.py", "--save", "model.pt", "--mixtures", 3, "--epochs", 1)


@pytest.mark.parametrize(("words", "named"), [
    (["--softmax", "split", "--mixtures", 3], "--mixtures"), (["--dropoutl", 0.2], "--dropoutl"),
    (["--mixtures", 3, "--cutoffs", 5, 9], "--cutoffs"), (["--advsoft", 0.1, "--cutoffs", 5, 9], "--advsoft")])
def test_what_does_not_go_together_is_refused_by_name(words, named, toy, call, tmp_path):
    with pytest.raises(InputError, match=named) as error:
        call("main.py", "--data", toy, *SMALL, *words)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("model*"))


def test_copies_and_state_dicts_hold_no_masks():
    model = network()
    model(torch.randint(V, (T, B)), model.init_hidden(B))
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()
    assert {name for name in model.state_dict() if name.startswith("softmax.")} == {
        "softmax.latent.weight", "softmax.latent.bias", "softmax.prior.weight"}
