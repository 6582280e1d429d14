"""The non-monotone rule that starts averaging, and ends fine-tuning (Merity et al. 2018, algorithm 1)."""


def has_stalled(val_losses, nonmono):
    """Whether averaging should start, asked after each epoch with the validation losses so far, the newest last.

    True when more than `nonmono` losses came before the newest, and it is worse than the best of those that lie
    more than `nonmono` epochs back (Merity et al. 2018, algorithm 1, as the published code reads it).
    """
    *earlier, newest = val_losses
    old = earlier[:max(0, len(earlier) - nonmono)]
    return bool(old) and newest > min(old)
