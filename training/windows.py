"""Variable length of BPTT segments (Merity et al. 2018, section 4.1)."""
import torch


def window_length(bptt, max_delta, generator, variable=True):
    """Length of the next training window in tokens: `bptt` if not `variable`.

    Drawn from N(base, 5), where base is `bptt` with probability 0.95 and else half of it; at least 5 and at most
    `bptt + max_delta`. `generator`: a torch.Generator of its own, so that lengths do not depend on dropout.
    """
    if not variable:
        return bptt
    base = bptt if torch.rand((), generator=generator).item() < 0.95 else bptt / 2
    drawn = torch.normal(float(base), 5.0, (), generator=generator).item()
    return min(max(5, int(drawn)), bptt + max_delta)
