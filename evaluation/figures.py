"""The figures of a scored text, and the setting of a grid with the best of them."""
import math

from runtime import record
from runtime.log import counted, log, report_tokens, warn


def mean_loss(logprobs):
    return -math.fsum(logprobs) / len(logprobs)


def figures(logprobs, size=None):
    """Of a text's log-probabilities (N,) in nats, of all tokens but the first; size: as of `record.figures` -> dict."""
    return record.figures(mean_loss(logprobs), len(logprobs) + 1, size)


def log_figures(what, name, logprobs, size=None, more=""):
    """Log what a text's loss is -> its `figures`. what: under which the model reads it; name: the text's."""
    text_figures = figures(logprobs, size)
    log(f"| {what} | {report_tokens(text_figures['loss'], name + ' ')}{more}")
    impossible = sum(logprob == -math.inf for logprob in logprobs)
    if impossible:                             # a softmax gives all words some probability, a cache only those in it
        warn(f"{what.strip()}: {impossible:,} of {counted(len(logprobs), 'tokens')} of {name} have probability 0, so "
             "that the loss is infinite: they are not in the cache, whose share --lambdasm 1 leaves the model none")
    return text_figures


def best_of_grids(losses, **grids):
    """The setting with the lowest loss -> dict; it is logged, and where a value is at the edge of its grid.

    losses: {tuple of one value from each grid: loss}. grids: the values that were tried, by the names of the flags.
    """
    best = dict(zip(grids, min(losses, key=losses.get)))
    log("| chosen: " + " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in best.items()))
    for name, value in best.items():
        if value in (grids[name][0], grids[name][-1]):
            warn(f"{name} {value:g} is the {'last' if value == grids[name][-1] else 'first'} of its grid: the best may "
                 "lie beyond")
    return best
