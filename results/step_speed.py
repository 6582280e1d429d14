"""Milliseconds of a training step of each system of small_scale.py, and its time per operation beside the LSTM's.

Run from the repository: python results/step_speed.py [NAME...], names of `small_scale.SYSTEMS`; without any, all.
OMP_NUM_THREADS is the number of threads. For a time before and after, run it in two working trees in turns.
"""
import statistics
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import small_scale

import main
from model import build, resolve, set_precision
from nt_asgd import NTASGD
from runtime import options
from training.step import TrainStep

STEPS, B, T, WORDS = 8, 20, 70, small_scale.WORDS


def operations(model, args):
    """Multiplications and additions of a step's matrix products: 6 for each element of a weight and each token."""
    recurrent = sum(p.numel() for module in (model.rnns, model.softmax) for p in module.parameters() if p.dim() == 2)
    decoder = model.decoder.weight.numel() * getattr(model.softmax, "components", 1)
    past = 0
    if model.past is not None:      # the softmax again, and two products of the size of the decoder
        past = 3 * decoder + sum(p.numel() for p in model.past.parameters() if p.dim() == 2)
    return 6 * B * T * (recurrent + decoder + past)


def measure(flags):
    """-> parameters, milliseconds of a step: the shortest and the median; operations."""
    args = options.parse(main.make_parser(), [*small_scale.SETTINGS, *flags])
    args = resolve(args, WORDS)
    torch.manual_seed(0)
    model = set_precision(build(vars(args), WORDS), args.precision).train()
    step = TrainStep(model, NTASGD(model.parameters(), lr=1), bptt=T, clip=args.clip, alpha=0, beta=0)
    data, targets, hidden = torch.randint(WORDS, (T, B)), torch.randint(WORDS, (T * B,)), model.init_hidden(B)
    times = []
    for _ in range(STEPS + 3):
        began = time.perf_counter()
        step(data, targets, hidden)
        times.append(1000 * (time.perf_counter() - began))
    return sum(p.numel() for p in model.parameters()), min(times), statistics.median(times[3:]), operations(model, args)


if __name__ == "__main__":
    names, per_operation = sys.argv[1:] or list(small_scale.SYSTEMS), None
    most = small_scale.parameters(small_scale.SIZE)
    for name in ["LSTM", *(each for each in names if each != "LSTM")]:
        parameters, shortest, median, count = measure(small_scale.fitted(*small_scale.SYSTEMS[name], most))
        per_operation = per_operation or median / count
        print(f"| {name} | {parameters / 1e6:.3f}M | {shortest:.0f} | {median:.0f} | {count / 1e9:.2f} "
              f"| {median / count / per_operation:.2f} |", flush=True)
