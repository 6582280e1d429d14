"""What processes that train together exchange in a step: counted, and measured on the loopback device (Linux).

    torchrun --standalone --nproc-per-node 2 results/traffic.py --batch-size 20 --json results/cpu/traffic_2.json

Flags: those of main.py, and --words. Nothing else may talk over the loopback device meanwhile. What is measured has
TCP's headers and acknowledgements in it.
"""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import hardware
import main
import options
import record
from meter import say
from model import build, count_parameters, set_precision
from team import join
from train_step import TrainStep

STEPS = 5


def make_parser():
    parser = main.make_parser()
    parser.add_argument("--words", type=options.size, default=10_000, metavar="V", help="size of the vocabulary")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    return parser


def sent():
    """Bytes that this machine has sent to itself so far."""
    with open("/proc/net/dev", encoding="ascii") as file:
        line, = (line for line in file if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def measure(args, team):
    """Figures of STEPS training steps of PTB's kind -> dict."""
    model, criterion = build({**vars(args), "cutoffs": args.cutoffs or []}, args.words)
    set_precision((model, criterion), args.precision)
    share = team.share(args.batch_size)
    columns = share.stop - share.start
    step = TrainStep(model, criterion, main.make_optimizer(args, [*model.parameters(), *criterion.parameters()]),
                     bptt=args.bptt, clip=args.clip, alpha=args.alpha, beta=args.beta, team=team,
                     share=columns / args.batch_size)
    data = torch.randint(args.words, (args.bptt, columns))                        # (T, own B)
    targets = torch.randint(args.words, (args.bptt * columns,))                   # (N,)
    gradients = [torch.zeros_like(p) for p in step.parameters]

    def steps():
        hidden = model.init_hidden(columns)
        for _ in range(STEPS):
            _, hidden = step(data, targets, hidden)

    def exchanges():
        for _ in range(STEPS):
            team.add_up(gradients)

    def timed(function):
        team.agree(0)                                                             # all begin together
        bytes_before, began = sent(), time.perf_counter()
        function()
        team.agree(0)
        return (sent() - bytes_before) / STEPS / team.size, 1000 * (time.perf_counter() - began) / STEPS

    steps()
    measured, step_ms = timed(steps)
    _, exchange_ms = timed(exchanges)
    numbers = count_parameters(model, criterion) + 1                              # and the loss
    return {"processes": team.size, "numbers": numbers, "ms_per_step": step_ms, "ms_per_exchange": exchange_ms,
            "counted_bytes_sent": 4 * numbers * 2 * (team.size - 1) / team.size, "measured_bytes_sent": measured}


def show(args):
    team = join()
    if team.size == 1:
        sys.exit("traffic.py: error: one process has nothing to exchange; start it with torchrun --nproc-per-node 2")
    args.device = "cpu"
    hardware.prepare(args)
    found = measure(args, team)
    say("{processes} processes add up {numbers:,} numbers in a step of {ms_per_step:.0f} ms".format(**found),
        "each sends {counted_bytes_sent:,.0f} bytes, counted for a ring; {measured_bytes_sent:,.0f} measured; "
        "adding up alone takes {ms_per_exchange:.0f} ms".format(**found))
    if args.json and not team.rank:
        record.write(args.json, args, found["numbers"] - 1, **found)
    team.leave()


if __name__ == "__main__":
    show(options.parse(make_parser(), None))
