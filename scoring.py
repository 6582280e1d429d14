"""How likely a model finds each word of a text: its log-probability and rank, at any temperature, with masks on or off.

N tokens, V words, E width of a feature.
"""
import math

import torch

import engine

CHUNK = 2**24                    # numbers in the largest array of scores


def all_logprobs(criterion, decoder, features, temperature=1.0):
    """Log-probabilities of all words, some rows of `features` (N, E) at a time -> yields (rows, V)."""
    rows = max(1, CHUNK // len(decoder.weight))
    for part in features.split(rows):
        logprobs = criterion.logprob(decoder.weight, decoder.bias, part)
        yield logprobs if temperature == 1 else (logprobs / temperature).log_softmax(1)


def score(model, criterion, column, bptt, temperature=1.0, ranks=False, check=lambda: None):
    """Read `column` (N + 1, 1) from a zero state -> log-probabilities (N,) of the words after its first, ranks (N,).

    temperature: what logarithms of probabilities are divided by before they are normalised again. A rank counts the
    words that are likelier, from 1 on; without `ranks` it is None. check: called after every window.
    """
    found, places = [], []
    with engine.evaluating(model):
        for features, targets, _ in engine.windows(model, column, bptt):
            if temperature == 1 and not ranks:
                found.append(criterion.target_logprob(model.decoder.weight, model.decoder.bias, features, targets))
            else:
                start = 0
                for logprobs in all_logprobs(criterion, model.decoder, features, temperature):
                    wanted = targets[start:start + len(logprobs), None]              # (rows, 1)
                    found.append(logprobs.gather(1, wanted)[:, 0])
                    places.append((logprobs > found[-1][:, None]).sum(1) + 1)
                    start += len(logprobs)
            check()
    return torch.cat(found), torch.cat(places) if ranks else None


def score_lines(model, criterion, lines, start, bptt, temperature=1.0, ranks=False, check=lambda: None):
    """The same for each of `lines`, tensors of ids (n,), on its own: from a zero state, after the word `start`."""
    parts = [score(model, criterion, torch.cat([line.new_tensor([start]), line])[:, None], bptt, temperature, ranks,
                   check) for line in lines]
    return torch.cat([p for p, _ in parts]), torch.cat([r for _, r in parts]) if ranks else None


@torch.no_grad()
def sample_score(model, criterion, column, bptt, samples, check=lambda: None):
    """Log of the probabilities' mean over `samples` passes with the dropout masks of training on -> (N,).

    Monte Carlo dropout (Gal & Ghahramani 2016, section 3). Every window of `bptt` tokens has masks of its own.
    """
    decoder, total = model.decoder, None
    was_training = model.training
    model.train()
    try:
        for _ in range(samples):
            found = []
            for features, targets, _ in engine.windows(model, column, bptt):
                found.append(criterion.target_logprob(decoder.weight, decoder.bias, features, targets))
                check()
            logprobs = torch.cat(found)
            total = logprobs if total is None else torch.logaddexp(total, logprobs)
    finally:
        model.train(was_training)
    return total - math.log(samples)


def temperature_losses(model, criterion, column, bptt, temperatures, check=lambda: None):
    """Mean loss in nats over `column` (N + 1, 1) at each of `temperatures` -> list."""
    sums = [0.0] * len(temperatures)
    with engine.evaluating(model):
        for features, targets, _ in engine.windows(model, column, bptt):
            start = 0
            for logprobs in all_logprobs(criterion, model.decoder, features):
                wanted = targets[start:start + len(logprobs), None]                  # (rows, 1)
                for i, temperature in enumerate(temperatures):
                    scaled = logprobs / temperature
                    sums[i] -= (scaled.gather(1, wanted)[:, 0] - scaled.logsumexp(1)).sum().item()
                start += len(logprobs)
            check()
    return [nats / (len(column) - 1) for nats in sums]
