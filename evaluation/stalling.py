"""When a validation loss has stalled: what starts averaging or lowers the learning rate, and ends fine-tuning."""


def has_stalled(val_losses, nonmono):
    """Whether averaging should start, asked after each epoch with the validation losses so far, the newest last.

    True when more than `nonmono` losses came before the newest, and it is worse than the best of those that lie
    more than `nonmono` epochs back (Merity et al. 2018, algorithm 1, as the published code reads it).
    """
    *earlier, newest = val_losses
    old = earlier[:max(0, len(earlier) - nonmono)]
    return bool(old) and newest > min(old)


def has_no_new_best(val_losses, patience, since=0):
    """Whether none of the newest `patience` losses is better than all before it (Melis et al. 2018, "no progress").

    since: how many losses had come when that was last answered by something; so many more must have come, too.
    """
    best = val_losses.index(min(val_losses)) + 1
    return len(val_losses) - max(best, since) >= patience
