"""Milliseconds of a training step of many systems with the same number of parameters, and the time that each takes for
an operation beside the LSTM's.

    OMP_NUM_THREADS=1 python results/systems.py [NAME...]

NAMEs of SYSTEMS; without any, all. The width that is named beside a system's flags is chosen such that it has as many
parameters as the LSTM. For a time before and after, run it in two working trees in turns.
"""
import statistics
import sys
import time
from bisect import bisect_right
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import main
from model import build, count_parameters, refuse_unsupported, resolve, set_precision
from nt_asgd import NTASGD
from runtime import options
from training.step import TrainStep

STEPS, B, T, WORDS = 8, 20, 70, 10_000                                 # words: of Penn Treebank
SETTINGS = ["--emsize", "100", "--nhid", "200", "--nlayers", "2", "--clip", "0.25", "--dropout", "0.1", "--dropouti",
            "0.1", "--dropouth", "0.1", "--dropoute", "0", "--wdrop", "0.1", "--precision", "bf16"]
# name: flags, and which width is fitted, if any
SYSTEMS = {
    "LSTM": ([], None),
    "GRU": (["--model", "GRU"], "nhid"),
    "QRNN": (["--model", "QRNN"], "nhid"),
    "RHN, depth 5": (["--model", "RHN", "--rhn-depth", "5", "--nlayers", "1"], "emsize"),
    "skip-connection LSTM, capped gate": (["--skip-output", "--gate", "capped"], "nhid"),
    "Mogrifier LSTM": (["--model", "Mogrifier", "--mogrifier-rank", "20"], "nhid"),
    "LSTM, mixture of 5 softmaxes": (["--mixtures", "5", "--dropoutl", "0.1"], "nhid"),
    "LSTM, past decode regularisation": (["--pdr", "0.001"], None),
}


def resolved(flags):
    """Flags of main.py, on top of SETTINGS -> Arguments."""
    args = options.parse(main.make_parser(), [*SETTINGS, *flags])
    refuse_unsupported(args)
    return resolve(args, WORDS)


def fitted(flags, width):
    """The flags with the largest `width` at which the model has at most as many parameters as the LSTM."""
    def parameters(words):
        with torch.device("meta"):
            return count_parameters(build(vars(resolved(words)), WORDS))

    if width is None:
        return flags
    best = bisect_right(range(1, 4000), parameters([]), key=lambda n: parameters([*flags, f"--{width}", str(n)]))
    return [*flags, f"--{width}", str(max(1, best))]


def operations(model):
    """Multiplications and additions of a step's matrix products: 6 for each element of a weight and each token."""
    recurrent = sum(p.numel() for module in (model.rnns, model.softmax) for p in module.parameters() if p.dim() == 2)
    decoder = model.decoder.weight.numel() * getattr(model.softmax, "components", 1)
    past = 0
    if model.past is not None:      # the softmax again, and two products of the size of the decoder
        past = 3 * decoder + sum(p.numel() for p in model.past.parameters() if p.dim() == 2)
    return 6 * B * T * (recurrent + decoder + past)


def measure(flags):
    """-> parameters, milliseconds of a step: the shortest and the median; operations."""
    args = resolved(flags)
    torch.manual_seed(0)
    model = set_precision(build(vars(args), WORDS), args.precision).train()
    step = TrainStep(model, NTASGD(model.parameters(), lr=1), bptt=T, clip=args.clip, alpha=0, beta=0)
    data, targets, hidden = torch.randint(WORDS, (T, B)), torch.randint(WORDS, (T * B,)), model.init_hidden(B)
    times = []
    for _ in range(STEPS + 3):
        began = time.perf_counter()
        step(data, targets, hidden)
        times.append(1000 * (time.perf_counter() - began))
    return sum(p.numel() for p in model.parameters()), min(times), statistics.median(times[3:]), operations(model)


if __name__ == "__main__":
    names, per_operation = sys.argv[1:] or list(SYSTEMS), None
    for name in ["LSTM", *(each for each in names if each != "LSTM")]:
        parameters, shortest, median, count = measure(fitted(*SYSTEMS[name]))
        per_operation = per_operation or median / count
        print(f"| {name} | {parameters / 1e6:.3f}M | {shortest:.0f} | {median:.0f} | {count / 1e9:.2f} "
              f"| {median / count / per_operation:.2f} |", flush=True)
