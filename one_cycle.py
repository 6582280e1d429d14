"""One cycle of learning rate and momentum over a whole run (Smith 2018, 1803.09820): fewer epochs, same perplexity.

Four phases: the rate rises from a tenth to its full value while momentum falls; both stay; both go back the way they
came; and the rate goes on down to a thousandth.
"""


def one_cycle(epoch, phases, momentum):
    """What the learning rate is multiplied by, and the momentum, at `epoch` (a number of epochs, with fractions).

    phases: lengths of the four phases in epochs, not negative. momentum: the pair (at the ends, at the full rate).
    """
    high, low = momentum
    corners = [(0.1, high), (1.0, low), (1.0, low), (0.1, high), (0.001, high)]
    for length, before, after in zip(phases, corners, corners[1:]):
        if epoch < length:
            share = epoch / length
            return tuple(a + share * (b - a) for a, b in zip(before, after))
        epoch -= length
    return corners[-1]
