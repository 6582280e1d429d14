"""Streams read in batches: equal to one by one, whatever their lengths, the cell and the softmax."""
import math

import pytest
import torch

from evaluation import batches, hidden_states, scoring
from evaluation.loss import windows
from evaluation.scoring import Scores, score
from model import RNNModel

LENGTHS = [4, 1, 13, 2, 2, 1, 40, 7, 5, 13]          # tokens that are predicted; 1: an empty line
VOCABULARY = 40


def make(cell="LSTM", dtype=torch.float64, **settings):
    torch.manual_seed(3)
    model = RNNModel(cell, VOCABULARY, 10, 14, 2, **settings)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return model.to(dtype), [torch.randint(VOCABULARY, (length + 1, 1)) for length in LENGTHS]


def one_by_one(model, streams, *args, **kwargs):
    each = [score(model, [stream], *args, **kwargs) for stream in streams]
    return Scores(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*each)))


@pytest.fixture
def small(monkeypatch):
    """Several batches, windows and chunks, with padding and with columns that leave."""
    monkeypatch.setattr(batches, "TOKENS", 30)
    monkeypatch.setattr(scoring, "CHUNK", VOCABULARY * 6)


@pytest.mark.parametrize(("cell", "settings"), [
    ("LSTM", {}), ("GRU", {}), ("QRNN", {}), ("RHN", {"nhidlast": 14, "nlayers": 1}), ("Mogrifier", {}),
    ("LSTM", {"cutoffs": [12, 25]}), ("QRNN", {"cutoffs": [12, 25]}),
    ("LSTM", {"softmax": "mixture", "mixtures": 3}), ("LSTM", {"gate": "coupled"})])
def test_batches_equal_one_by_one(cell, settings, small):
    settings.pop("nlayers", None)
    model, streams = make(cell, torch.float32, **settings)
    for temperature, ranks, entropies in (1.0, False, False), (1.0, True, True), (1.7, False, True):
        found = score(model, streams, 5, temperature, ranks, entropies=entropies)
        expected = one_by_one(model, streams, 5, temperature, ranks, entropies=entropies)
        assert len(found.logprobs) == sum(LENGTHS) and (found.ranks is None) != ranks
        for one, two in zip(found, expected):
            assert one is two is None or torch.allclose(one, two, atol=1e-5, rtol=1e-5)
    assert scoring.temperature_losses(model, streams, 5, [1.7]) == pytest.approx(
        [-score(model, streams, 5, 1.7).logprobs.mean().item()])


def test_a_wide_layer_is_multiplied_by_the_compiled_product(small):
    _, streams = make()
    wide = RNNModel("LSTM", VOCABULARY, 16, 360, 2)
    torch.testing.assert_close(score(wide, streams, 5).logprobs, one_by_one(wide, streams, 5).logprobs,
                               atol=1e-5, rtol=1e-5)


def test_entropy_against_its_definition(small):
    model, streams = make()
    found = score(model, streams, 5, 0.7, entropies=True).entropies
    expected = []
    for stream in streams:
        features, _ = model.eval()(stream[:-1], model.init_hidden(1))
        for logits in model.logprob(features) / 0.7:
            p = logits.exp() / logits.exp().sum()
            expected.append(-sum(x * x.log() for x in p).item())
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bptt", [3, 100])
def test_no_window_is_larger_than_it_may_be(bptt, small):
    """A long stream is padded by nobody and pads nobody: what is read is hardly more than the tokens."""
    streams = [torch.zeros(length + 1, 1, dtype=torch.long) for length in [*LENGTHS, 500]]
    places, sizes = [], []

    def step(data, hidden):
        sizes.append(data.numel())
        assert data.numel() <= 30 or data.size(1) == 1
        assert data.size(1) <= 4 and hidden.size(1) == data.size(1)
        return data, hidden

    for data, targets, at in batches.read_batches(step, lambda bsz: torch.zeros(1, bsz, 2), streams, bptt, widest=4):
        assert data.shape == targets.shape == at.shape
        places += at[at != batches.PADDING].tolist()
    assert sorted(places) == list(range(sum(LENGTHS) + 500))
    assert sum(sizes) < 1.4 * len(places)


QUIET = dict.fromkeys(("dropout", "dropouth", "dropouti", "dropoute"), 0)


def test_samples_of_a_batch(small):
    """Without dropout they are plain; with it a line that is there twice has masks of its own each time."""
    model, streams = make(**QUIET)
    torch.testing.assert_close(scoring.sample_score(model, streams, 5, 2), one_by_one(model, streams, 5).logprobs)
    model, streams = make(**{**QUIET, "dropouti": 0.5})
    twice = scoring.sample_score(model, [streams[4]] * 2, 5, 1)
    assert not torch.allclose(twice[:2], twice[2:])


def test_samples_of_one_text_are_columns_of_a_batch(monkeypatch):
    monkeypatch.setattr(scoring, "FEWEST", 1)
    model, streams = make(**RATES)
    stream = streams[6]
    torch.manual_seed(5)
    found = scoring.sample_score(model, [stream], 5, 3)
    torch.manual_seed(5)
    with scoring.sampling(model):
        features = torch.cat([each for each, _, _ in windows(model, stream.expand(-1, 3), 5)])         # (3·N, E)
        every = model.logprob(features).gather(1, stream[1:].expand(-1, 3).reshape(-1, 1))
    torch.testing.assert_close(found, every.view(-1, 3).logsumexp(1) - math.log(3))


@pytest.mark.parametrize("rate", ["dropouti", "dropouth", "dropoute", "wdrop"])
def test_what_samples_of_a_batch_share(rate):
    """The masks on weights alone."""
    model, streams = make(**{**QUIET, rate: 0.5})
    with scoring.sampling(model):
        features, _ = model(streams[6][:-1].expand(-1, 2), model.init_hidden(2))
    one, other = features.view(-1, 2, features.size(1)).unbind(1)
    assert torch.allclose(one, other) == (rate == "wdrop")
    with torch.no_grad():
        features, _ = model.train()(streams[6][:-1].expand(-1, 2), model.init_hidden(2))
    one, other = features.view(-1, 2, features.size(1)).unbind(1)
    assert torch.allclose(one, other) == (rate in ("wdrop", "dropoute"))        # in training words, too


@pytest.mark.parametrize(("samples", "bptt", "wdrop", "groups"), [
    (3, 70, 0, [3]), (10, 70, 0, [10]), (12, 70, 0, [6, 6]), (50, 70, 0.5, [10] * 5), (3, 1000, 0, [1, 2]),
    (2, 10**6, 0, [1, 1]), (10, 70, 0.5, [2] * 5), (3, 70, 0.5, [1, 1, 1])])
def test_how_many_samples_are_read_together(samples, bptt, wdrop, groups, monkeypatch):
    """As many as a window has tokens for; with weight drop in five batches at least; of several texts one."""
    model, streams = make(**{**RATES, "wdrop": wdrop})
    read, found = scoring.read, []
    monkeypatch.setattr(scoring, "read", lambda model, streams, *rest: found.append(len(streams)) or read(
        model, streams, *rest))
    scoring.sample_score(model, streams[:1], bptt, samples)
    assert found == groups
    scoring.sample_score(model, streams[:2], bptt, 2)
    assert found[-2:] == [2, 2]


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_a_masked_softmax_keeps_the_masks_of_each_column(temperature, small):
    """Its rows are known by their number, which neither padding nor chunks may change."""
    model, streams = make(softmax="mixture", mixtures=3, dropoutl=0.5, **QUIET)
    streams = [streams[i] for i in (0, 7, 8)]                                    # of 4, 7 and 5 tokens: one batch
    torch.manual_seed(8)
    found = scoring.sample_score(model, streams, 9, 1, temperature)
    torch.manual_seed(8)
    data = torch.nn.utils.rnn.pad_sequence([streams[i][:-1, 0] for i in (1, 2, 0)])
    with torch.no_grad():
        features, _ = model.train()(data, model.init_hidden(3))
        every = (model.logprob(features) / temperature).log_softmax(1).view(*data.shape, -1)
    expected = [every[:, column][:len(stream) - 1].gather(1, stream[1:]) for column, stream in
                ((2, streams[0]), (0, streams[1]), (1, streams[2]))]
    torch.testing.assert_close(found, torch.cat(expected)[:, 0])


# ---- hidden states

@pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
def test_hidden_states_are_those_after_each_word(cell, small):
    model, streams = make(cell)
    found = hidden_states.hidden_states(model, streams, 5, [1, 2])
    expected = {1: [], 2: []}
    for stream in streams:
        hidden = model.eval().init_hidden(1)
        for number, word in enumerate(stream):
            _, hidden, raw, _ = model(word[None], hidden, return_h=True)
            for layer in expected if number else ():
                expected[layer].append(raw[layer - 1][0, 0])
    for layer, width in (1, 14), (2, 10):
        assert found[layer].shape == (sum(LENGTHS), width)
        torch.testing.assert_close(found[layer], torch.stack(expected[layer]).float())
    with pytest.raises(Exception, match="has 2 layers"):
        hidden_states.chosen_layers(3, model)


# ---- Monte Carlo dropout at other rates

RATES = {"dropout": 0.5, "dropouth": 0.2, "dropouti": 0.3, "dropoute": 0.2, "wdrop": 0.4}


def test_no_dropout_is_the_plain_pass():
    for settings in ({}, {"softmax": "mixture", "mixtures": 2, "dropoutl": 0.3}):
        model, streams = make(**RATES, **settings)
        plain = scoring.score(model, streams, 5).logprobs
        torch.testing.assert_close(scoring.sample_score(model, streams, 5, 2, factor=0.0), plain)
        assert not torch.allclose(scoring.sample_score(model, streams, 5, 2, factor=0.1), plain)


def test_the_factor_is_on_every_rate_and_they_come_back():
    """0.8 of a dropout of 0.5 keeps with a probability of 0.6."""
    model, _ = make(**RATES, softmax="mixture", mixtures=2, dropoutl=0.3)
    owners = [vars(model), *(vars(rnn) for rnn in model.rnns)]
    before = [{name: owner.get(name) for name in RATES} for owner in owners]
    with scoring.sampling(model, 0.8):
        assert model.dropout == pytest.approx(0.4) and model.rnns[0].wdrop == pytest.approx(0.32)
        assert model.softmax.settings["dropoutl"] == pytest.approx(0.24) and model.dropoute == pytest.approx(0.16)
        kept = model.locked_dropout(torch.ones(1, 200, 200), model.dropout) != 0
        assert kept.float().mean() == pytest.approx(0.6, abs=0.02)
    with scoring.sampling(model, 0.8, words=False):
        assert model.dropoute == 0 and model.dropouti == pytest.approx(0.24)
    assert [{name: owner.get(name) for name in RATES} for owner in owners] == before
    assert model.softmax.settings["dropoutl"] == 0.3


def test_passes_serve_all_temperatures():
    """As passes with the same masks at each of them; the loss of a setting is that of its samples' mean."""
    model, streams = make(**RATES)
    torch.manual_seed(5)
    together = scoring.sample_scores(model, streams, 5, 3, (0.8, 1.0, 1.3), factor=0.7)
    for temperature, logprobs in zip((0.8, 1.0, 1.3), together):
        torch.manual_seed(5)
        torch.testing.assert_close(scoring.sample_score(model, streams, 5, 3, temperature, factor=0.7), logprobs)
    torch.manual_seed(5)
    losses = scoring.sample_losses(model, streams, 5, 3, (0.7,), (0.8, 1.0, 1.3))
    assert losses == pytest.approx({(0.7, t): -row.mean().item() for t, row in zip((0.8, 1.0, 1.3), together)})


def test_one_mask_for_the_whole_text():
    """What comes out does not depend on how long the windows are, and each pass has another mask."""
    model, streams = make(**RATES)
    passes = []
    for bptt in 3, 7, 1000:
        torch.manual_seed(5)
        passes.append(scoring.sample_score(model, streams[6:7], bptt, 1, one_mask=True))
    torch.testing.assert_close(passes[0], passes[2])
    torch.testing.assert_close(passes[1], passes[2])
    together = []
    for bptt in 3, 7:
        torch.manual_seed(5)
        together.append(scoring.sample_score(model, streams[6:7], bptt, 3, one_mask=True))
    torch.testing.assert_close(*together)
    other = scoring.sample_score(model, streams[6:7], 3, 1, one_mask=True)
    assert not torch.allclose(other, passes[0])
    torch.manual_seed(5)
    assert not torch.allclose(scoring.sample_score(model, streams[6:7], 3, 1), passes[0])


def test_one_mask_for_each_line_where_shorter_ones_end_before_it():
    """Every line has its own, from its first window to its last, whatever ends beside it."""
    model, streams = make(**RATES)
    passes = []
    for bptt in 3, 7, 1000:
        torch.manual_seed(5)
        passes.append(scoring.sample_score(model, streams, bptt, 2, one_mask=True))
    torch.testing.assert_close(passes[0], passes[2])
    torch.testing.assert_close(passes[1], passes[2])
