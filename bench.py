"""How fast: a training step and its parts, saving, evaluation, the cache, loading a corpus; and against a plain model.

Prints a table and, with --json FILE, writes the figures. Machines are noisy: medians are shown with the quartiles, and
with `--against plain` both models take turns in the same process, so that the ratio is worth more than the times.

T window length, B columns, V vocabulary, E emsize, N = T·B.
"""
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import torch
from torch import nn
from torch.nn import functional as F

import checkpoint
import engine
import errors
import hardware
import options
import pointwise
import train_step
from embed_regularize import embedded_dropout
from graphs import Graphs
from locked_dropout import LockedDropout
from meter import check_memory, peak_memory_mib
from model import build, count_parameters, set_precision
from nt_asgd import NTASGD
from pointer import cache_logprobs
from team import rehearse

IN_A_TEAM = "step of a team of one"


class Plain(nn.Module):
    """The simplest AWD-LSTM that a reader would write: nn.LSTM, F.dropout on the weight, nn.CrossEntropyLoss, SGD.

    Takes over the weights of an RNNModel, and computes the same.
    """

    def __init__(self, model, args):
        super().__init__()
        self.model, self.args, self.drop = model, args, LockedDropout()
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, weight_decay=args.wdecay)

    def forward(self, data, hidden):
        args, encoder = self.args, self.model.encoder
        kept = F.dropout(encoder.weight.new_ones(encoder.num_embeddings, 1), args.dropoute)
        x = F.embedding(data, encoder.weight * kept, padding_idx=encoder.padding_idx)        # (T, B, E)
        x = self.drop(x, args.dropouti)
        states = []
        for layer, (rnn, h) in enumerate(zip(self.model.rnns, hidden), start=1):
            weights = {"weight_hh_l0": F.dropout(rnn.weight_hh_l0, args.wdrop)}
            raw, h = torch.func.functional_call(rnn, weights, (x, h))                        # (T, B, H)
            x = self.drop(raw, args.dropouth if layer < args.nlayers else args.dropout)
            states.append(h)
        return F.linear(x.flatten(0, 1), self.model.decoder.weight, self.model.decoder.bias), states, raw, x

    def step(self, data, targets, hidden):
        self.optimizer.zero_grad()
        logits, hidden, raw, dropped = self(data, hidden)
        loss = self.loss(logits, targets)
        total = loss + self.args.alpha * dropped.pow(2).mean() + self.args.beta * (raw[1:] - raw[:-1]).pow(2).mean()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip)
        self.optimizer.step()
        return loss.detach(), hidden


class Stopwatch:
    """Milliseconds of everything timed, by name."""

    def __init__(self, device):
        self.device, self.times = device, {}

    def time(self, name, function, *args):
        self._wait()
        began = time.perf_counter()
        result = function(*args)
        self._wait()
        self.times.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        return result

    def time_host(self, name, function, *args):
        """How long until the host may do something else, the device being idle before."""
        self._wait()
        began = time.perf_counter()
        function(*args)
        self.times.setdefault(name, []).append(1000 * (time.perf_counter() - began))

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def figures(self, name):
        """Median, lower and upper quartile."""
        times = sorted(self.times[name])
        return {"median": statistics.median(times), "low": times[len(times) // 4], "high": times[-1 - len(times) // 4],
                "runs": len(times)}


def time_parts(watch, model, criterion, optimizer, data, targets, args):
    """One training step, piece by piece."""
    decoder = model.decoder
    optimizer.zero_grad(set_to_none=True)

    def embed():
        return model.locked_dropout(embedded_dropout(model.encoder, data, args.dropoute), args.dropouti)

    def recur(x):
        for layer, (rnn, h) in enumerate(zip(model.rnns, model.init_hidden(args.batch_size)), start=1):
            raw = model._recur(rnn, x, h)[0]
            x = model.locked_dropout(raw, args.dropouth if layer < args.nlayers else args.dropout)
        return raw, x

    def score(raw, x):
        loss = criterion(decoder.weight, decoder.bias, x.flatten(0, 1), targets)
        return loss + train_step.activation_penalty(raw, x, args.alpha, args.beta)

    def update():
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()

    x = watch.time("embedding", embed)
    raw, x = watch.time("recurrence", recur, x)
    loss = watch.time("softmax and loss", score, raw, x)
    watch.time("backward", loss.backward)
    watch.time("clip and update", update)


def check_equal(model, criterion, plain, data, targets, tolerance):
    """With every dropout off, the plain model must compute what ours does, loss and all gradients."""
    names = ("dropout", "dropouth", "dropouti", "dropoute", "wdrop", "dropoutr")
    on = {name: getattr(model, name) for name in names}
    for holder in (model, plain.args):
        vars(holder).update(dict.fromkeys(names, 0.0))
    hidden, weights = model.init_hidden(data.size(1)), list(model.parameters())
    ours = criterion(model.decoder.weight, model.decoder.bias, model(data, hidden)[0], targets)
    theirs = plain.loss(plain(data, hidden)[0], targets)
    pairs = [(ours, theirs), *zip(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights))]
    for a, b in pairs:
        assert (a - b).norm() <= tolerance * b.norm(), f"the plain model computes something else, by {(a - b).norm()}"
    for holder in (model, plain.args):
        vars(holder).update(on)


def bench_training(args, model, criterion, device, watch):
    data = torch.randint(args.words, (args.bptt, args.batch_size), device=device)            # (T, B)
    targets = torch.randint(args.words, (args.bptt * args.batch_size,), device=device)       # (N,)
    optimizer = NTASGD([*model.parameters(), *criterion.parameters()], lr=args.lr, weight_decay=args.wdecay)
    step = train_step.TrainStep(model, criterion, optimizer, bptt=args.bptt, clip=args.clip, alpha=args.alpha,
                            beta=args.beta, graphs=device.type == "cuda" and args.graphs)
    hidden = model.init_hidden(args.batch_size)
    model.train()
    for _ in range(3):
        watch.time("warm-up", step, data, targets, hidden)
    if device.type == "cuda":
        for _ in range(args.runs):
            watch.time_host("host's share of a step", step, data, targets, hidden)
    peaks = {"peak_memory_mib": peak_memory_mib(args.device)}       # of ours alone: it can only grow from here
    rivals = {"training step": step}
    if args.against == "plain":
        plain = Plain(model, args)
        check_equal(model, criterion, plain, data, targets, {"bf16": 2e-2, "tf32": 2e-3}.get(args.precision, 1e-4))
        rivals["plain training step"] = plain.step
    if args.team:
        rivals[IN_A_TEAM] = train_step.TrainStep(model, criterion, optimizer, bptt=args.bptt, clip=args.clip,
                                                 alpha=args.alpha, beta=args.beta, graphs=step.graphs is not None,
                                                 team=rehearse())
    for turn in range(args.runs + 2):
        for name, rival in rivals.items():
            watch.time(name if turn >= 2 else "warm-up", rival, data, targets, hidden)
    if args.against:
        peaks["peak_memory_mib_with_plain"] = peak_memory_mib(args.device)
    for _ in range(max(3, args.runs // 4)):
        time_parts(watch, model, criterion, optimizer, data, targets, args)

    optimizer.start_averaging()
    step(data, targets, hidden)
    contents = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for _ in range(3):
            watch.time("saving the state", checkpoint.save, os.path.join(folder, "state.pt"), contents)
    return peaks


def bench_evaluation(args, model, criterion, device, watch):
    columns = torch.randint(args.words, (5 * args.bptt + 1, args.eval_batch_size), device=device)
    score = engine.scorer(model, criterion)
    if device.type == "cuda" and args.graphs:
        score = Graphs(score, device)
    engine.evaluate(model, criterion, columns, args.bptt, score=score)
    for _ in range(max(5, args.runs // 2)):
        watch.time("evaluation", engine.evaluate, model, criterion, columns, args.bptt, lambda: None, score)
        if args.against:
            watch.time("plain evaluation", evaluate_plainly, model, columns, args.bptt)


@torch.no_grad()
def evaluate_plainly(model, columns, bptt):
    """`engine.evaluate` as a reader would write it."""
    hidden, total = model.init_hidden(columns.size(1)), 0.0
    for row in range(0, len(columns) - 1, bptt):
        x, targets = model.encoder(columns[row:row + bptt]), columns[row + 1:row + bptt + 1].flatten()
        for layer, rnn in enumerate(model.rnns):
            x, hidden[layer] = rnn(x, hidden[layer])
        total += F.cross_entropy(model.decoder(x.flatten(0, 1)), targets, reduction="sum").item()
    return total / (len(columns) - 1) / columns.size(1)


def bench_cache(args, model, criterion, device, watch):
    """The plain pass over one column, and what the cache adds to it."""
    column = torch.randint(args.words, (args.window + 2001, 1), device=device)
    weight, bias = model.decoder.weight, model.decoder.bias

    def read():
        parts = []
        for features, targets, _ in engine.windows(model, column, 2000):
            parts.append((features, targets, criterion.target_logprob(weight, bias, features, targets)))
        return [torch.cat(part) for part in zip(*parts)]

    with engine.evaluating(model):
        for _ in range(3):
            seen = watch.time("one column", read)
            watch.time("cache", cache_logprobs, *seen, 0.66, 0.13, args.window)
    return len(column) - 1


def bench_corpus(folder, watch, notes):
    """Loading a corpus for the first time and from the cache, each in a process of its own -> tokens."""
    program = ("import sys, time, resource; from data import Corpus; began = time.perf_counter()\n"
               "corpus = Corpus(sys.argv[1], 'all', sys.argv[2]); seconds = time.perf_counter() - began\n"
               "print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,"
               " sum(map(len, (corpus.train, corpus.valid, corpus.test))))")
    with tempfile.TemporaryDirectory() as cache:
        for name in ("corpus, first time", "corpus, cached"):
            done = subprocess.run([sys.executable, "-c", program, folder, cache], cwd=os.path.dirname(__file__) or ".",
                                  check=True, capture_output=True, text=True)
            seconds, peak, tokens = map(float, done.stdout.split())
            watch.times[name], notes[f"{name}, peak memory mib"] = [1000 * seconds], peak
    return tokens


def make_corpus(folder, tokens, words=270_000):
    """Write a text of the size of WikiText-103 if `tokens` is 100 million: words as frequent as Zipf's law has them."""
    draw = numpy.random.default_rng(0)
    spelled = numpy.array([f"w{i}" for i in range(words)], dtype=object)
    chances = 1 / numpy.arange(1, words + 1)
    for split, n in ("train", tokens), ("valid", min(tokens, 200_000)), ("test", min(tokens, 200_000)):
        with open(os.path.join(folder, f"{split}.txt"), "w", encoding="utf-8") as file:
            if split == "train":
                file.write(" ".join(spelled) + "\n")     # each word once at least
            for _ in range(-(-n // 1_000_000)):
                ids = draw.choice(words, min(n, 1_000_000), p=chances / chances.sum())
                lines = numpy.array_split(spelled[ids], max(1, len(ids) // 25))
                file.writelines(" ".join(line) + "\n" for line in lines)


def make_parser():
    parser = options.Parser(__doc__)
    options.add_architecture(parser)
    options.add_regularisation(parser)
    options.add_optimisation(parser, lr=0.1, lr_help="learning rate")
    options.add_graphs(options.add_running(parser))
    group = parser.add_argument_group("benchmark")
    group.add_argument("--words", type=options.size, default=10_000, metavar="V", help="size of the vocabulary")
    group.add_argument("--window", type=options.size, default=500, metavar="N", help="positions of the cache")
    group.add_argument("--runs", type=options.size, default=10, metavar="N", help="training steps timed")
    group.add_argument("--against", choices=["plain"], help="time a plain model beside ours")
    group.add_argument("--team", action="store_true", help="time a step that exchanges gradients, with nobody")
    corpus = group.add_mutually_exclusive_group()
    corpus.add_argument("--data", metavar="FOLDER", help="time loading this corpus, too")
    corpus.add_argument("--made-corpus", type=options.size, metavar="N",
                        help="time loading a made corpus of N tokens and 270,000 words (WikiText-103: 100000000)")
    group.add_argument("--folder", default=".", metavar="FOLDER", help="where saving is timed")
    group.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    return parser


def main(argv=None):
    args = options.parse(make_parser(), argv)
    device = hardware.prepare(args)
    args.cutoffs = args.cutoffs or []
    with torch.device("meta"):
        check_memory(count_parameters(*build(vars(args), args.words)), device)
    model, criterion = modules = [module.to(device) for module in build(vars(args), args.words)]
    set_precision(modules, args.precision)
    watch = Stopwatch(device)
    notes = bench_training(args, model, criterion, device, watch)
    bench_evaluation(args, model, criterion, device, watch)
    tokens = {"cache": bench_cache(args, model, criterion, device, watch)}
    tokens |= {"one column": tokens["cache"], "training step": args.bptt * args.batch_size,
               "evaluation": 5 * args.bptt * args.eval_batch_size}
    tokens |= {f"plain {name}": tokens[name] for name in ("training step", "evaluation")}
    rivals = [(name, f"plain {name}") for name in ("training step", "evaluation") if args.against]
    rivals += [(IN_A_TEAM, "training step")] if args.team else []
    with tempfile.TemporaryDirectory() as made:
        if args.made_corpus:
            make_corpus(made, args.made_corpus)
        if args.data or args.made_corpus:
            tokens |= dict.fromkeys(("corpus, first time", "corpus, cached"),
                                    bench_corpus(args.data or made, watch, notes))
    print(f"{count_parameters(model, criterion):,} parameters, batch {args.batch_size} x {args.bptt}, "
          f"on {device} in {args.precision}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{torch.backends.cpu.get_cpu_capability()}")
    figures = {name: watch.figures(name) for name in watch.times if name != "warm-up"}
    for name, times in figures.items():
        if name in tokens:
            times["tokens_per_second"] = 1000 * tokens[name] / times["median"]
        print(f"{name:22} {times['median']:10.1f} ms  ({times['low']:.1f} to {times['high']:.1f}, {times['runs']} runs)"
              + (f"  {times['tokens_per_second']:10.0f} tokens/s" if name in tokens else ""))
    notes |= {"cache_over_one_column": figures["cache"]["median"] / figures["one column"]["median"],
              "saving_share_of_ten_minutes": figures["saving the state"]["median"] / 600_000,
              "compiled_steps": pointwise.compiled(torch.float32, model.encoder.weight)}
    for name, rival in rivals:
        ratios = sorted(a / b for a, b in zip(watch.times[name], watch.times[rival]))
        notes[f"{name} against {rival.removesuffix(f' {name}')}"] = {
            "median": statistics.median(ratios), "low": ratios[len(ratios) // 4], "high": ratios[-1 - len(ratios) // 4]}
    for name, value in notes.items():
        print(f"{name.replace('_', ' '):30} "
              + (f"{value:.4g}" if not isinstance(value, dict) else
                 f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"figures": figures, **notes, "settings": options.settings(args), "torch": torch.__version__,
                       "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
                       "capability": torch.backends.cpu.get_cpu_capability()}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    errors.run(main)
