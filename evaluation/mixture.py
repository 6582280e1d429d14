"""A mixture of models: the mean of their probabilities, with weights.

K models, N tokens.
"""
import math

import torch

CLOSE = 1e-6             # nats: how far from the best possible loss weights may be
MOST_STEPS = 1000


def mix(logprobs, weights):
    """log sum_k w_k p_k -> (N,), from log-probabilities (K, N) and weights (K,) that sum to one."""
    return (logprobs + weights.log()[:, None]).logsumexp(0)


def equal_weights(count):
    return torch.full((count,), 1 / count, dtype=torch.float64)


def best_weights(logprobs):
    """The weights (K,) under which tokens with log-probabilities (K, N) are likeliest -> weights, number of steps.

    By EM from equal weights: w_k <- w_k g_k with the gain g_k = mean_t p_k(t) / sum_j w_j p_j(t). The weights stay on
    the simplex, and no step makes the loss worse. It is convex in the weights, and by Jensen's inequality at most
    log max_k g_k above the best: the steps end when that is less than `CLOSE`, or after `MOST_STEPS`.
    """
    weights = equal_weights(len(logprobs))
    logprobs = logprobs[:, (logprobs > -math.inf).any(0)]      # what no model expects says nothing about them
    for step in range(MOST_STEPS):
        gains = (logprobs - mix(logprobs, weights)).exp().mean(1)                       # (K,)
        if gains.max().log() < CLOSE:
            return weights, step
        weights = weights * gains
        weights /= weights.sum()                               # it is one already, but for rounding
    return weights, MOST_STEPS
