"""What a run counts, and how it speaks: losses, tokens, seconds, memory."""
import math
import os
import sys
import time

import torch
from tqdm import tqdm

from errors import InputError


class Meter:
    """Mean loss and speed over the windows added to it."""

    def __init__(self, nats=0.0, tokens=0, batches=0, seconds=0.0):
        self.nats, self.tokens, self.batches = nats, tokens, batches
        self._started = time.monotonic() - seconds

    def add(self, loss, tokens):
        """A window's mean loss."""
        self.nats += loss * tokens
        self.tokens += tokens
        self.batches += 1

    def loss(self):
        """Mean loss per token in nats."""
        return self.nats / self.tokens if self.tokens else math.nan

    def seconds(self):
        return time.monotonic() - self._started

    def speed(self):
        """Tokens per second."""
        return self.tokens / max(self.seconds(), 1e-9)

    def state(self):
        """What `Meter(**state)` goes on from."""
        return {"nats": self.nats, "tokens": self.tokens, "batches": self.batches, "seconds": self.seconds()}


def say(*lines):
    """Print log lines, above a progress bar if there is one."""
    for line in lines:
        tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def peak_memory_mib(device):
    """Largest memory held so far, in MiB: of the GPU's allocator on CUDA, else of the process."""
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def check_memory(parameters, device):
    """Raise InputError if a model of so many parameters can never be trained in the memory of `device`."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    needed = 2 * 4 * parameters  # weights and gradients in fp32, to begin with
    if needed > memory:
        raise InputError(f"the model has {parameters:,} parameters and needs more than {needed / 2**30:.0f} GiB, "
                         f"{device} has {memory / 2**30:.0f}; use a smaller --emsize, --nhid or vocabulary")
