"""How likely a model finds each word of a text: its log-probability and rank, at any temperature, with masks on or off.

A text is read as one stream from a zero state, or as several, each from a zero state of its own; those are read in
batches. T window length, B batch size, N tokens, V words, E width of a feature.
"""
import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
from tqdm import tqdm

from evaluation.batches import PADDING, TOKENS, read_batches
from evaluation.figures import mean_loss
from evaluation.loss import evaluating

CHUNK = 2**24                    # numbers in the largest array of scores
TOGETHER = 10                    # samples of a text in one batch
FEWEST = 5                       # batches of samples of a model with weight drop, whose masks a batch shares


class Scores(NamedTuple):
    """What a model makes of N words: tensors or lists (N,). What was not asked for is None.

    logprobs: log-probabilities in nats. ranks: the likeliest word has 1. entropies: of the distributions that the words
    were predicted by, before they were read, in nats.
    """
    logprobs: object
    ranks: object = None
    entropies: object = None

    def tolist(self):
        return Scores(*(None if values is None else values.tolist() for values in self))


@contextmanager
def sampling(model, factor=1.0, words=True):
    """Inside the block the masks of training are drawn, and no graph is kept; after it, the mode is as before.

    Every column of a batch has its own masks on words, too, whatever it was in training.
    factor: times the rates of training, as Melis et al. (2018, section 5) have it; words: whether words are dropped.
    """
    was_training, by_column = model.training, model.word_masks_by_column
    model.train()
    model.word_masks_by_column = True
    try:
        with torch.no_grad(), model.dropout_scaled(factor, words):
            yield
    finally:
        model.word_masks_by_column = by_column
        model.train(was_training)


class SameMasks:
    """Runs `model` so that every window has the masks of the first: what it draws depends on no window's length, but on
    the number of columns."""

    def __init__(self, model):
        self.model, self.state = model, None

    def __call__(self, data, hidden):
        if self.state is None:
            self.state = torch.get_rng_state(), data.is_cuda and torch.cuda.get_rng_state(data.device)
        torch.set_rng_state(self.state[0])
        if data.is_cuda:
            torch.cuda.set_rng_state(self.state[1], data.device)
        return self.model(data, hidden)


def read(model, streams, bptt, check, step=None):
    """Run over `streams`, a list of (n + 1, 1), each from a zero state -> yields features, targets and places, and B.

    step: what is called with each window, if not the model.

    features (T·B, E); targets and places (T·B,) as of `read_batches`. Where no masks are drawn padding is left out. A
    mask of the softmax is that of a column of the batch: there all rows stay, the features of a step side by side.
    """
    widest = max(1, CHUNK // len(model.decoder.weight))        # all words' scores of a step may stand in memory
    with tqdm(total=sum(len(stream) - 1 for stream in streams), disable=None, leave=False, unit=" tokens") as bar:
        for features, targets, places in read_batches(step or model, model.init_hidden, streams, bptt, widest):
            batch, targets, places = targets.size(1), targets.flatten(), places.flatten()
            scored = (places != PADDING).nonzero()[:, 0]                                 # (n,)
            if len(scored) < len(places) and not model.training:
                rows = scored.to(features.device)
                features, targets, places = features[rows], targets[rows], places[scored]
            yield features, targets, places, batch
            bar.update(len(scored))
            check()


def read_in_order(model, streams, bptt, check, find, step=None):
    """What `find` makes of the windows of `read`, in the order of the words -> for each of its tensors one (…, N).

    find: features, targets (n,), batch -> tensors (…, n), or None, which it then gives of every window.
    """
    parts, order = [], []
    for features, targets, places, batch in read(model, streams, bptt, check, step):
        order.append(places)
        parts.append(find(features, targets, batch))
    order = torch.cat(order)
    scored = (order != PADDING).nonzero()[:, 0]
    source = torch.empty_like(scored)
    source[order[scored]] = scored                                                       # of each place its row
    return [None if values[0] is None else torch.cat(values, -1)[..., source.to(values[0].device)]
            for values in zip(*parts)]


def all_logprobs(model, features, targets, batch=1):
    """All words' log-probabilities, some rows of `features` (n, E) at a time -> yields (rows, V), (rows, 1) targets.

    batch: rows that belong together, those of a step.
    """
    rows = max(1, CHUNK // len(model.decoder.weight) // batch) * batch
    for part, target_ids in zip(features.split(rows), targets[:, None].split(rows)):
        yield model.logprob(part), target_ids


def score(model, streams, bptt, temperature=1.0, ranks=False, check=lambda: None, mode=evaluating, entropies=False):
    """Read `streams`, a list of (n + 1, 1) -> Scores of their words but the first, in the order given.

    Each is read from a zero state, several in batches: equal to one by one but for rounding. temperature: what
    logarithms of probabilities are divided by before they are normalised again. ranks, entropies: whether to find them,
    too. check: called after every window. mode: `sampling` draws masks, others for every window of `bptt` tokens; those
    on words, activations and states are each stream's own, those on weights hold for a batch.
    """
    with mode(model):
        return Scores(*read_in_order(model, streams, bptt, check, lambda *window: score_features(
            model, *window, temperature, ranks, entropies)))


def score_features(model, features, targets, batch=1, temperature=1, ranks=False, entropies=False):
    """Scores of targets (n,), given features (n, E); batch: rows that belong together, those of a step."""
    if temperature == 1 and not (ranks or entropies):
        return Scores(model.target_logprob(features, targets))
    logprobs, ranked, entropy = [], [], []
    for every, target_ids in all_logprobs(model, features, targets, batch):
        every = every if temperature == 1 else (every / temperature).log_softmax(1)           # (rows, V)
        logprobs.append(every.gather(1, target_ids)[:, 0])
        if ranks:
            ranked.append((every > logprobs[-1][:, None]).sum(1) + 1)
        if entropies:
            entropy.append(torch.special.entr(every.exp()).sum(1))                            # -Σ p log p
    return Scores(*(torch.cat(values) if values else None for values in (logprobs, ranked, entropy)))


def sample_scores(model, streams, bptt, samples, temperatures=(1.0,), check=lambda: None, factor=1.0, one_mask=False):
    """Log of the probabilities' mean over `samples` passes with dropout on, at each of K temperatures -> (K, N) nats.

    Monte Carlo dropout (Gal & Ghahramani 2016, section 3). Every pass has the temperature, and rates of dropout that
    are `factor` times those of training: with 0 it is the plain pass. Every window of `bptt` tokens has masks of its
    own; with `one_mask` a pass has one for the whole text, and no words are dropped, as Gal and Ghahramani evaluated.
    Of a single stream several samples are read in one batch.
    """
    total = None
    if one_mask and len(streams) > 1:                 # streams that end leave a batch, and what is drawn for it changes
        bptt = max(len(stream) - 1 for stream in streams)
    most = 1 if len(streams) > 1 else samples // FEWEST if factor and any(rnn.wdrop for rnn in model.rnns) else samples
    for count in _groups(samples, bptt, most):
        with sampling(model, factor, words=not one_mask):
            sampled, = read_in_order(model, [*streams] * count, bptt, check, lambda *window: [
                _at(temperatures, model, *window)], SameMasks(model) if one_mask else None)   # (K, count·N)
        sampled = sampled.view(len(sampled), count, -1).logsumexp(1)                          # (K, N)
        total = sampled if total is None else torch.logaddexp(total, sampled)
    return total - math.log(samples)


def _groups(samples, bptt, most):
    """How many samples are read together in windows of `bptt` tokens, never more than `most` -> iterator."""
    most = max(1, min(TOGETHER, TOKENS // bptt, most))
    groups = -(-samples // most)
    return (samples * (i + 1) // groups - samples * i // groups for i in range(groups))


def _at(temperatures, model, features, targets, batch):
    """Log-probabilities of targets (n,), given features (n, E), at each of the temperatures -> (K, n)."""
    if tuple(temperatures) == (1.0,):
        return model.target_logprob(features, targets)[None]
    parts = []
    for logprobs, target_ids in all_logprobs(model, features, targets, batch):              # (rows, V), (rows, 1)
        scaled = (logprobs / temperature for temperature in temperatures)
        parts.append(torch.stack([each.gather(1, target_ids)[:, 0] - each.logsumexp(1) for each in scaled]))
    return torch.cat(parts, 1)


def sample_score(model, streams, bptt, samples, temperature=1.0, check=lambda: None, factor=1.0, one_mask=False):
    """`sample_scores` at one temperature -> (N,)."""
    return sample_scores(model, streams, bptt, samples, (temperature,), check, factor, one_mask)[0]


def sample_losses(model, streams, bptt, samples, factors, temperatures, check=lambda: None, one_mask=False):
    """Mean loss in nats of `sample_scores` -> {(factor, temperature): loss}. A factor's passes serve all temperatures.
    """
    losses = {}
    for factor in factors:
        sampled = sample_scores(model, streams, bptt, samples, temperatures, check, factor, one_mask)
        losses |= {(factor, temperature): mean_loss(logprobs.tolist())
                   for temperature, logprobs in zip(temperatures, sampled)}
    return losses


def temperature_losses(model, streams, bptt, temperatures, check=lambda: None):
    """Mean loss in nats over `streams`, a list of (n + 1, 1), at each of `temperatures` -> list."""
    with evaluating(model):
        logprobs = torch.cat([_at(temperatures, model, features, targets, batch).cpu().double()
                              for features, targets, _, batch in read(model, streams, bptt, check)], 1)      # (K, N)
    return (-logprobs.mean(1)).tolist()
