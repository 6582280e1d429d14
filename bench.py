"""How fast: a training step and its parts, saving, every way to evaluate, loading a corpus; and against a plain model.

Prints a table and, with --json FILE, writes the figures. Machines are noisy: medians are shown with the quartiles, and
with `--against plain` both models take turns in the same process, so that the ratio is worth more than the times.

T window length, B batch size, V vocabulary, E emsize, N = T·B.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch
from torch import nn

import checkpoint
from data import Corpus
from embed_regularize import embedded_dropout
from evaluation import dynamic
from evaluation.loss import evaluate, evaluating, window_loss, windows
from evaluation.neural_cache import cache_logprobs
from evaluation.scoring import sample_score
from evaluation.text_files import check_outputs, writing
from model import ModelConfig, count_parameters, model_flags, resolve
from nt_asgd import NTASGD
from ops.update import update
from ops.window import has_compiled_steps
from runtime import devices, options, record, values
from runtime.devices import peak_memory_mib
from runtime.errors import InputError
from runtime.options import Flag, flags_of
from runtime.processes import single_process_group
from training.compose import compose, compose_loss
from training.plain import MODULES, Plain, is_plain
from training.self_check import recording_for
from training.settings import TrainingConfig
from training.start import new_model
from training.step import TrainStep, activation_penalty

SEGMENTS, SAMPLES = 40, 10
ALONE = "step with collectives"       # of a process group of one


class Stopwatch:
    """Milliseconds of everything timed, and how many tokens it reads, by name."""

    def __init__(self, device):
        self.device, self.times, self.tokens = device, {}, {}

    def take_turns(self, times, functions, tokens, warm_up=1):
        """Time functions by name, one after another, so many times once they are warm. tokens: that each of them reads.
        """
        self.tokens |= dict.fromkeys(functions, tokens)
        for turn in range(-warm_up, times):
            for name, function in functions.items():
                self.time(name if turn >= 0 else "warm-up", function)

    def time(self, name, function, *args, wait=True):
        """wait: also for the device, else until the host may do something else, the device being idle before."""
        self._wait()
        began = time.perf_counter()
        result = function(*args)
        if wait:
            self._wait()
        self.times.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        return result

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def quartiles(numbers):
    """Median, lower and upper quartile, and how many there are -> dict."""
    numbers = sorted(numbers)
    return {"median": statistics.median(numbers), "low": numbers[len(numbers) // 4],
            "high": numbers[-1 - len(numbers) // 4], "runs": len(numbers)}


def time_parts(watch, model, optimizer, data, targets, args):
    """One training step, piece by piece."""
    optimizer.zero_grad(set_to_none=True)

    def embed():
        return model.locked_dropout(embedded_dropout(model.encoder, data, args.dropoute), args.dropouti)

    def recur(x):
        for layer, (rnn, h) in enumerate(zip(model.rnns, model.init_hidden(args.batch_size)), start=1):
            raw, _ = rnn(x, h)
            x = model.locked_dropout(raw, args.dropouth if layer < args.nlayers else args.dropout)
        return raw, x

    def loss_of(raw, x):
        return model.loss(x.flatten(0, 1), targets) + activation_penalty(raw, x, args.alpha, args.beta)

    def update():
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()

    x = watch.time("embedding", embed)
    raw, x = watch.time("recurrence", recur, x)
    loss = watch.time("softmax and loss", loss_of, raw, x)
    watch.time("backward", loss.backward)
    watch.time("clip and update", update)


def check_equal(model, plain, data, targets, tolerance):
    """With every dropout off, the plain model must compute what ours does, loss and all gradients."""
    def loss_and_gradients(module):
        names, parameters = zip(*module.named_parameters())
        loss = module.loss(module(data, model.init_hidden(data.size(1)))[0], targets)
        return {"loss": loss, **dict(zip(names, torch.autograd.grad(loss, parameters)))}

    with evaluating(model), evaluating(plain), torch.enable_grad():
        ours, theirs = loss_and_gradients(model), loss_and_gradients(plain)
    for name, b in theirs.items():
        assert (ours[name] - b).norm() <= tolerance * b.norm(), \
            f"{name} differs from the plain model's by {(ours[name] - b).norm()}"


def bench_training(args, model, device, watch, notes):
    """-> the plain model to compare with, or None."""
    data = torch.randint(args.words, (args.bptt, args.batch_size), device=device)            # (T, B)
    targets = torch.randint(args.words, (args.bptt * args.batch_size,), device=device)       # (N,)
    optimizer = NTASGD(model.parameters(), lr=args.lr, weight_decay=args.wdecay)

    def make_step(group=None):
        step = TrainStep(model, optimizer, bptt=args.bptt, clip=args.clip, alpha=args.alpha, beta=args.beta)
        return compose(step, group, recording_for(model, device, args.graphs))

    batch = data, targets, model.init_hidden(args.batch_size)
    step = partial(make_step(), *batch)
    model.train()
    for _ in range(3):
        watch.time("warm-up", step)
    if device.type == "cuda":
        for _ in range(args.runs):
            watch.time("host's share of a step", step, wait=False)
    notes["peak_memory_mib"] = peak_memory_mib(args.device)       # of ours alone: it can only grow from here
    rivals, plain = {"training step": step}, None
    if args.against == "plain":
        plain = Plain(model, args)
        check_equal(model, plain, data, targets, {"bf16": 2e-2, "tf32": 2e-3}.get(args.precision, 1e-4))
        rivals["plain training step"] = partial(plain.step, *batch)
    if args.process_group:
        rivals[ALONE] = partial(make_step(single_process_group()), *batch)
    watch.take_turns(args.runs, rivals, data.numel(), warm_up=2)
    if args.against:
        notes["peak_memory_mib_with_plain"] = peak_memory_mib(args.device)
    for _ in range(max(3, args.runs // 4)):
        time_parts(watch, model, optimizer, data, targets, args)

    optimizer.start_averaging()
    step()
    contents = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for _ in range(3):
            watch.time("saving the state", checkpoint.save, os.path.join(folder, "state.pt"), contents)
    return plain


def bench_evaluation(args, model, plain, device, watch):
    streams = torch.randint(args.words, (5 * args.bptt + 1, args.eval_batch_size), device=device)
    loss_of = compose_loss(window_loss(model), device, recording_for(model, device, args.graphs))
    rivals = {"evaluation": partial(evaluate, model, streams, args.bptt, loss_of=loss_of)}
    if plain:
        rivals["plain evaluation"] = lambda: plain.evaluate(streams, model.init_hidden(args.eval_batch_size))
    watch.take_turns(max(5, args.runs // 2), rivals, 5 * args.bptt * args.eval_batch_size)


def bench_cache(args, model, device, watch):
    """A pass with batch size 1, and what the cache adds to it."""
    stream = torch.randint(args.words, (args.window + 2001, 1), device=device)

    def read():
        parts = []
        for features, targets, _ in windows(model, stream, 2000):
            parts.append((features, targets, model.target_logprob(features, targets)))
        return [torch.cat(part) for part in zip(*parts)]

    with evaluating(model):
        for _ in range(3):
            seen = watch.time("one stream", read)
            watch.time("cache", cache_logprobs, *seen, 0.66, 0.13, args.window)
    watch.tokens |= dict.fromkeys(("one stream", "cache"), len(stream) - 1)


def bench_dynamic(args, model, device, watch):
    """Dynamic evaluation in segments of five tokens: reading, gradients, the update."""
    stream = torch.randint(args.words, (5 * SEGMENTS + 1, 1), device=device)
    weights = [w.detach() for w in model.parameters()]
    trained = [w.clone() for w in weights]
    rates, decays = dynamic.rms_rates([torch.full_like(w, 1e-6) for w in weights], 1e-9, 0.002, 2e-5)

    def learn():
        for features, targets, gradients, _ in dynamic.read_segments(model, stream, dynamic.segments_of(stream, 5),
                                                                     form=False):
            model.target_logprob(features, targets)
            update(weights, trained, decays, gradients, rates)

    watch.take_turns(max(3, args.runs // 2 - 1), {"dynamic evaluation": learn}, 5 * SEGMENTS)


def bench_samples(args, model, device, watch):
    """Monte Carlo dropout: SAMPLES passes over one text, read in batches, every sample's tokens counted."""
    stream = torch.randint(args.words, (5 * args.bptt + 1, 1), device=device)
    watch.take_turns(max(2, args.runs // 4 - 1), {"dropout samples": partial(
        sample_score, model, [stream], args.bptt, SAMPLES)}, SAMPLES * (len(stream) - 1))


def load_corpus(folder, cache):
    """Milliseconds of it, the largest memory of this process in MiB, tokens."""
    began = time.perf_counter()
    corpus = Corpus(folder, "all", cache)
    milliseconds = 1000 * (time.perf_counter() - began)
    return milliseconds, peak_memory_mib("cpu"), sum(map(len, (corpus.train, corpus.valid, corpus.test)))


def bench_corpus(folder, watch, notes):
    """Loading a corpus for the first time and from the cache, each in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        for name in ("corpus, first time", "corpus, cached"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                milliseconds, notes[f"{name}, peak memory mib"], watch.tokens[name] = pool.submit(
                    load_corpus, folder, cache).result()
            watch.times[name] = [milliseconds]


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("model", model_flags())
    parser.add("optimisation", flags_of(TrainingConfig, lr={"default": 0.1, "help": "learning rate"},
                                        max_seq_len_delta={"default": 0}))
    parser.add("running", (*options.running(), options.GRAPHS))
    return parser.add("benchmark", (
        Flag("words", 10_000, "size of the vocabulary", values.size, "V"),
        Flag("window", 500, "positions of the cache", values.size, "N"),
        Flag("runs", 10, "training steps timed", values.size, "N"),
        Flag("against", None, "model to time beside ours", choices=("plain",)),
        Flag("process_group", False, "timing of a step that sums its gradients over a process group of one", bool,
             only_true=True),
        Flag("data", None, "corpus whose loading is timed, too", metavar="FOLDER"),
        Flag("folder", ".", "folder in which saving is timed", metavar="FOLDER"),
        Flag("json", None, "file for the figures", metavar="FILE")))


def main(argv=None):
    args = options.parse(make_parser(), argv)
    if args.json:
        check_outputs([args.json], [])
    with tempfile.TemporaryDirectory(dir=args.folder):           # where that cannot be, it is said before the timing
        pass
    args, compute = devices.prepare(args, ModelConfig.of(vars(args)).supported)
    args, device = resolve(args.replaced(cutoffs=args.cutoffs or []), args.words), compute.device
    if args.against and not is_plain(args):
        raise InputError(f"--against plain is for --model {' or '.join(MODULES)} with the full softmax and no option "
                         "that torch has no module for, such as --skip-output or --gate")
    model = new_model(args, args.words, compute)
    watch, notes = Stopwatch(device), {}
    if args.data:
        bench_corpus(args.data, watch, notes)
    plain = bench_training(args, model, device, watch, notes)
    bench_evaluation(args, model, plain, device, watch)
    bench_cache(args, model, device, watch)
    bench_samples(args, model, device, watch)
    bench_dynamic(args, model, device, watch)
    rivals = [(name, f"plain {name}") for name in ("training step", "evaluation") if args.against]
    rivals += [(ALONE, "training step")] if args.process_group else []
    print(f"{count_parameters(model):,} parameters, batch {args.batch_size} x {args.bptt}, "
          f"on {compute}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{torch.backends.cpu.get_cpu_capability()}")
    figures = {name: quartiles(times) for name, times in watch.times.items() if name != "warm-up"}
    for name, times in figures.items():
        if name in watch.tokens:
            times["tokens_per_second"] = 1000 * watch.tokens[name] / times["median"]
        print(f"{name:22} {times['median']:10.1f} ms  ({times['low']:.1f} to {times['high']:.1f}, {times['runs']} runs)"
              + (f"  {times['tokens_per_second']:10.0f} tokens/s" if name in watch.tokens else ""))
    notes |= {"cache_over_one_stream": figures["cache"]["median"] / figures["one stream"]["median"],
              "saving_share_of_ten_minutes": figures["saving the state"]["median"] / 600_000,
              "compiled_steps": has_compiled_steps(torch.float32, model.encoder.weight)}
    for name, rival in rivals:
        notes[f"{name} against {rival.removesuffix(f' {name}')}"] = quartiles(
            [a / b for a, b in zip(watch.times[name], watch.times[rival])])
    for name, value in notes.items():
        print(f"{name.replace('_', ' '):30} "
              + (f"{value:.4g}" if not isinstance(value, dict) else
                 f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"))
    if args.json:
        with writing(args.json) as file:
            json.dump({"figures": figures, **notes, "settings": args.settings(), "torch": torch.__version__,
                       "machine": record.device_name(device), "threads": torch.get_num_threads(),
                       "capability": torch.backends.cpu.get_cpu_capability()}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    errors.run(main)
