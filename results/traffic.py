"""What processes of data-parallel training exchange in a step: counted, and measured on the loopback device (Linux).

    torchrun --standalone --nproc-per-node 2 results/traffic.py --batch-size 20 --json results/cpu/traffic_2.json

Flags: those of main.py, and --words. Nothing else may talk over the loopback device meanwhile. What is measured has
TCP's headers and acknowledgements in it.
"""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import main
from model import build, count_parameters, resolve, set_precision
from runtime import devices, options, record, values
from runtime.log import log
from runtime.processes import init_distributed
from training import optimizers
from training.compose import compose
from training.step import TrainStep

STEPS = 5


def make_parser():
    parser = main.make_parser()
    return parser.add("traffic", (options.Flag("words", 10_000, "size of the vocabulary", values.size, "V"),
                                  options.Flag("json", None, "file for the figures", metavar="FILE")))


def sent():
    """Bytes that this machine has sent to itself so far."""
    with open("/proc/net/dev", encoding="ascii") as file:
        line, = (line for line in file if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def measure(args, group):
    """Figures of STEPS training steps of PTB's kind -> dict."""
    model = set_precision(build(vars(args), args.words), args.precision)
    share = group.share(args.batch_size)
    columns = share.stop - share.start                                            # this process's part of B
    step = compose(TrainStep(model, optimizers.make(args, model), bptt=args.bptt, clip=args.clip, alpha=args.alpha,
                             beta=args.beta, share=columns / args.batch_size), group)
    data = torch.randint(args.words, (args.bptt, columns))                        # (T, this part of B)
    targets = torch.randint(args.words, (args.bptt * columns,))                   # (N,)
    gradients = [torch.zeros_like(p) for p in step.parameters]

    def steps():
        hidden = model.init_hidden(columns)
        for _ in range(STEPS):
            _, hidden = step(data, targets, hidden)

    def exchanges():
        for _ in range(STEPS):
            group.all_reduce_sum_(gradients)

    def timed(function):
        group.all_reduce_max(0)                                                             # all begin together
        bytes_before, began = sent(), time.perf_counter()
        function()
        group.all_reduce_max(0)
        return (sent() - bytes_before) / STEPS / group.size, 1000 * (time.perf_counter() - began) / STEPS

    steps()
    measured, step_ms = timed(steps)
    _, exchange_ms = timed(exchanges)
    numbers = count_parameters(model) + 1                              # and the loss
    return {"processes": group.size, "numbers": numbers, "ms_per_step": step_ms, "ms_per_exchange": exchange_ms,
            "counted_bytes_sent": 4 * numbers * 2 * (group.size - 1) / group.size, "measured_bytes_sent": measured}


def show(args):
    group = init_distributed()
    if group.size == 1:
        sys.exit("traffic.py: error: one process has nothing to exchange; start it with torchrun --nproc-per-node 2")
    compute = devices.prepare(args.replaced(device="cpu"), {"bf16"})
    args = resolve(optimizers.resolve(args), args.words).replaced(device="cpu", precision=compute.precision)
    figures = measure(args, group)
    log("{processes} processes sum {numbers:,} numbers in a step of {ms_per_step:.0f} ms".format(**figures),
        "each sends {counted_bytes_sent:,.0f} bytes, counted for a ring; {measured_bytes_sent:,.0f} measured; "
        "the sum alone takes {ms_per_exchange:.0f} ms".format(**figures))
    if args.json and not group.rank:
        record.write(args.json, args, figures["numbers"] - 1, **figures)
    group.leave()


if __name__ == "__main__":
    show(options.parse(make_parser(), None))
