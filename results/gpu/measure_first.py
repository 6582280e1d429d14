"""What is to be measured before anything is made faster: layers, products, softmax, update, one run of some minutes.

    python results/gpu/measure_first.py --json "$OUT/measure_first.json"

`--device cpu --quick` runs the parts that need no GPU, at toy sizes, to see that the script works.
"""
import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nt_asgd import NTASGD  # (found through the line above)
from ops.compiled import cuda_kernel
from ops.cudnn import recur_flat
from ops.fused_softmax import available, fused_softmax
from splitcross import SplitCrossEntropyLoss

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Clock:
    """Median milliseconds of a function, by events on a GPU; graphed, if asked, so that launches cost nothing."""

    def __init__(self, device, runs):
        self.device, self.runs = device, runs

    def time(self, function, graphed=False):
        for _ in range(2):
            function()
        if self.device.type != "cuda":
            return statistics.median(self._on_cpu(function) for _ in range(self.runs))
        if graphed:
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                function()
            function = graph.replay
            function()
        times = []
        for _ in range(self.runs):
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            function()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended))
        return statistics.median(times)

    def host(self, function):
        """Milliseconds until the host may do something else."""
        times = []
        for _ in range(self.runs):
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(self._on_cpu(function))
        return statistics.median(times)

    def _on_cpu(self, function):
        began = time.perf_counter()
        function()
        return 1000 * (time.perf_counter() - began)


def allow_tf32(allowed):
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision("high" if allowed else "highest")


def layers(clock, device, quick):
    """nn.LSTM alone: microseconds per recurrent step, forward and forward with backward."""
    shapes = [(400, 1150), (1150, 1150), (1150, 400), (400, 1152), (1152, 1152), (1152, 400)]
    cases = [(i, h, b, 70, kind) for (i, h), b, kind in itertools.product(shapes, (20, 24, 80), TYPES)]
    cases.append((768, 768, 16, 1024, "fp16"))      # the control: near 2.0 and 5.1 where persistent kernels run
    if quick:
        cases = [(12, 16, 3, 7, "fp32"), (12, 16, 3, 7, "bf16")]
    for inputs, width, columns, steps, kind in cases:
        allow_tf32(kind != "fp32")
        rnn = nn.LSTM(inputs, width).to(device, TYPES[kind])
        x = torch.randn(steps, columns, inputs, device=device, dtype=TYPES[kind], requires_grad=True)
        gradient = torch.randn(steps, columns, width, device=device, dtype=TYPES[kind])

        def both(rnn=rnn, x=x, gradient=gradient):
            torch.autograd.grad(rnn(x)[0], [x, *rnn.parameters()], gradient)

        def forward(rnn=rnn, x=x):
            rnn(x)
        for graphed in (False, True):
            times = [1000 * clock.time(f, graphed) / steps for f in (forward, both)]
            yield {"layer": f"{inputs} to {width}, {columns} columns, {steps} steps, {kind}", "graphed": graphed,
                   "us_per_step_forward": times[0], "us_per_step_both": times[1]}


def buffers(clock, device, quick):
    """Host milliseconds for one forward call with the weights in one buffer, and scattered."""
    allow_tf32(True)
    width = 16 if quick else 1152
    rnn = nn.LSTM(width, width).to(device).eval()
    weights = [w.detach().clone() for w in rnn.parameters()]
    x = torch.randn(70, 20, width, device=device)
    hidden = torch.zeros(2, 1, 20, width, device=device).unbind()
    with torch.no_grad():
        for name, function in {
                "scattered": lambda: torch._VF.lstm(x, hidden, weights, True, 1, 0.0, False, False, False),
                "one buffer, made for the call": lambda: recur_flat("LSTM", x, hidden, *weights),
                "one buffer, nn.LSTM": lambda: rnn(x, hidden)}.items():
            yield {"weights": name, "host_ms": clock.host(function), "ms": clock.time(function)}


def products(clock, device, quick):
    """Products of a window's rows, at 1150 and at 1152."""
    for rows, width, kind in itertools.product([1400, 5600], (1150, 1152), ("fp32", "tf32", "bf16")):
        allow_tf32(kind != "fp32")
        n = 64 if quick else rows
        a = torch.randn(n, width, device=device, dtype=TYPES[kind])
        b = torch.randn(4 * width, width, device=device, dtype=TYPES[kind])
        yield {"product": f"{rows} x {width} x {4 * width}, {kind}",
               "ms": clock.time(lambda a=a, b=b: a @ b.t(), True), "of_transposed_ms": clock.time(
                   lambda a=a, n=n: a.t() @ a[:n], True)}


def losses(clock, device, quick):
    """Cross-entropy with its gradient, with and without its kernel, and torch's own."""
    for (n, words), kind in itertools.product([(1400, 10_000), (5600, 33_278)], ("tf32", "bf16")):
        allow_tf32(True)
        n = 20 if quick else n
        criterion = SplitCrossEntropyLoss(400, [])
        criterion.matmul_dtype = torch.bfloat16 if kind == "bf16" else None
        weight = torch.randn(words, 400, device=device).mul_(0.1).requires_grad_()
        bias, x = torch.zeros(words, device=device, requires_grad=True), torch.randn(n, 400, device=device)
        x.requires_grad_()
        targets = torch.randint(words, (n,), device=device)

        def plain(weight=weight, bias=bias, x=x, targets=targets):
            loss = nn.functional.cross_entropy(nn.functional.linear(x, weight, bias), targets)
            torch.autograd.grad(loss, [x, weight, bias])

        def ours(criterion=criterion, weight=weight, bias=bias, x=x, targets=targets):
            torch.autograd.grad(criterion(weight, bias, x, targets), [x, weight, bias])
        yield {"loss": f"{n} rows, {words} words, torch's", "ms": clock.time(plain, True)}
        yield {"loss": f"{n} rows, {words} words, ours, {kind}", "ms": clock.time(ours, True)}
        if device.type == "cuda" and available(0):
            criterion.fused = fused_softmax
            yield {"loss": f"{n} rows, {words} words, ours with its kernel, {kind}", "ms": clock.time(ours, True)}


def updates(clock, device, quick):
    """Clipping, SGD, decay and average over PTB's parameters."""
    sizes = [10] if quick else [4_000_000, 10_000, 1_840_000, 5_290_000, 5_290_000, 5_290_000, 1_840_000, 640_000]
    params = [nn.Parameter(torch.randn(n, device=device)) for n in sizes]
    for p in params:
        p.grad = torch.randn_like(p)
    sgd, averaging = torch.optim.SGD(params, lr=0.0, weight_decay=1e-6, foreach=True), NTASGD(params, 0.0, 1e-6)
    averaging.found_inf = torch.zeros((), device=device)
    averaging.grad_scale = torch.ones((), device=device)

    def plain():
        nn.utils.clip_grad_norm_(params, 0.25)
        sgd.step()

    def ours():
        nn.utils.get_total_norm([p.grad for p in params])
        averaging.step()
    yield {"update": "clip_grad_norm_ and SGD", "ms": clock.time(plain)}
    yield {"update": "norm and NTASGD", "ms": clock.time(ours)}
    averaging.start_averaging()
    yield {"update": "norm and NTASGD with the average", "ms": clock.time(ours)}


def exchanges(clock, device, quick):
    """Microseconds for all blocks to see what all blocks wrote: 46 KB of states, by barrier, flags, or the data."""
    if device.type != "cuda":
        return
    steps, words = 500, 46 * 1024 // 4          # 24 MB: they stay in the L2 cache
    source = Path(__file__).resolve().with_name("exchange")
    for name in ("by_barrier", "by_flags", "by_data"):
        kernel = cuda_kernel(source, name, 0)
        if kernel is None:
            raise RuntimeError("the kernel cannot be compiled")
        for blocks in (72, 96, 128):
            data = torch.full((steps + 1, words), -1, dtype=torch.int32, device=device)
            flags, failed, sums = (torch.zeros(n, dtype=torch.int32, device=device) for n in (128, 1, blocks))

            def run(kernel=kernel, blocks=blocks, data=data, flags=flags, failed=failed, sums=sums):
                data.fill_(-1)
                flags.zero_()
                sums.zero_()
                kernel((blocks, 1, 1), (256, 1, 1), [data, flags, failed, sums, words, steps])
            filling = clock.time(lambda data=data, flags=flags: (data.fill_(-1), flags.zero_()))
            milliseconds = clock.time(run) - filling
            total = (words * steps * (steps + 1) // 2 + 2**31) % 2**32 - 2**31      # as 32 bits count
            right = not failed.item() and bool((sums == total).all())               # every block has read everything
            yield {"exchange": f"{name}, {blocks} blocks", "us_per_step": 1000 * milliseconds / steps, "right": right}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script out")
    parser.add_argument("--json", help="where the figures go")
    args = parser.parse_args()
    device = torch.device(args.device)
    about = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
             "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "date": time.ctime()}
    print(about)
    figures = []
    for part in (updates, losses, products, buffers, exchanges, layers):      # the longest last
        try:
            for figure in part(Clock(device, 3 if args.quick else 10), device, args.quick):
                figures.append(figure)
                save(args.json, about, figures)
                print(" | ".join(f"{value:.4g}" if isinstance(value, float) else str(value)
                                 for value in figure.values()), flush=True)
        except Exception as error:       # one part that fails must not cost the others
            figures.append({part.__name__: f"failed: {error!r}"[:300]})
            print(figures[-1], flush=True)
            save(args.json, about, figures)


def save(path, about, figures):
    """Write what there is so far: the time may be up at any moment."""
    if path:
        Path(path).write_text(json.dumps({**about, "figures": figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
