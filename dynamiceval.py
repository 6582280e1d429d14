"""Dynamic evaluation of a trained model (Krause et al. 2018): it goes on learning from the text it is evaluated on.

Every segment of a text is scored before anything is learnt from it, and every text begins with the trained weights.
Segments are some tokens of a split, or the lines of any text: the model then adapts sentence by sentence (van Schijndel
and Linzen 2018). The model's file is not changed; --save-adapted writes another. The arithmetic is in
evaluation/dynamic.py.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import itertools
import math
import os
import time
from contextlib import nullcontext

import torch

import checkpoint
from data import batchify_split, read_corpus
from evaluation import outputs, scoring
from evaluation.dynamic import FLAGS, LEARNING_RATE, DynamicPass, learning_rate, segments_by_line, segments_of
from evaluation.formats import FORMATS
from evaluation.loss import PLAIN_WINDOW
from evaluation.neural_cache import at_the_edge, cache_logprobs, mean_loss
from evaluation.text import read_texts
from model import count_parameters
from runtime import options, record, values
from runtime.errors import InputError
from runtime.log import log, log_on_stderr, report, report_tokens, rule
from runtime.options import Flag
from runtime.paths import part_of_name
from runtime.run_files import Files

# The grids of a search, around the published values: learning rates, as factors of LEARNING_RATE, and decays. They are
# for segments of five tokens; longer ones make fewer steps, and these go further in proportion.
FACTORS = (0.6, 0.8, 1, 1.4, 2)
LAMBDAS = (0.001, 0.002, 0.003, 0.005)


def grids(rule, bptt):
    """The learning rates and the decays that a search tries with segments of `bptt` tokens."""
    return [LEARNING_RATE[rule] * factor * bptt / 5 for factor in FACTORS], [min(1, x * bptt / 5) for x in LAMBDAS]


def search(reading, stream, rule, bptt):
    """The learning rate and the decay of the grids with the lowest loss on a text of N tokens, `stream` (N + 1, 1)."""
    losses = {}
    for lr, lamb in itertools.product(*grids(rule, bptt)):
        losses[lr, lamb] = reading.loss(stream, lr, lamb)
        log(f"| lr {lr:.2g} | lamb {lamb:.2g} | {report_tokens(losses[lr, lamb], 'search ')}")
    best = min(losses, key=losses.get)
    if math.isinf(losses[best]):
        raise InputError("the model diverges with every setting of the search; try a smaller --lr by hand")
    return best


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("model", options.READ_MODEL)
    parser.add("data", options.DATA)
    parser.add("text", (
        Flag("split", "both", "text of the corpus to score; both: valid and test", choices=("both", "valid", "test")),
        *outputs.TEXT,
        Flag("segments", None, "what is scored before the model learns from it: --bptt tokens, or a line; if not given "
             "a line with --text or --context reset, else tokens", choices=("tokens", "lines"))))
    parser.add("dynamic evaluation", (
        *FLAGS,
        Flag("search", False, "choice of lr and lamb from a grid on the validation text", bool, only_true=True),
        Flag("search_tokens", 10_000, "tokens of the validation text that the search reads, for each of its "
             f"{len(FACTORS) * len(LAMBDAS)} settings", values.size, "N")))
    parser.add("neural cache", (
        *options.NEURAL_CACHE,
        Flag("neural_cache", False, "predictions mixed with the neural cache, as of pointer.py", bool,
             only_true=True)))
    parser.add("output", (
        *outputs.flags(FORMATS), *outputs.SURPRISAL,
        Flag("save_adapted", None, "new file for the model as it is after the text, which all scripts read",
             metavar="FILE")))
    parser.add("running", (*options.running(1000, "segments"), *options.RECIPE))
    parser.add("stopping and continuing", options.STOPPING)
    return parser


def check_flags(args):
    """Refuse flags that contradict each other -> Arguments, with what --segments is meant to be."""
    args = outputs.prepare(args)
    if args.context == "reset" and args.segments == "tokens":
        raise InputError("--context reset starts every line from a zero state: --segments tokens has none")
    args = args.replaced(segments=args.segments or ("lines" if args.text or args.context == "reset" else "tokens"))
    if args.search and args.segments == "lines":
        raise InputError("--search chooses --lr and --lamb for segments of --bptt tokens; for lines give both")
    if args.neural_cache and outputs.needs_entropy(args):
        raise InputError("entropies with --neural-cache are not computed; leave it out, or --entropy and --predictors")
    outputs.check(args, [checkpoint.choose(args)] + ([args.text] if args.text not in (None, "-") else []),
                  args.text or args.split != "both", "--split or --text")
    if args.save_adapted and os.path.exists(args.save_adapted):
        raise InputError(f"{args.save_adapted} is there already, and may be a model that is worth keeping; give "
                         "--save-adapted another name, or remove it")
    return args


def stream_of(text):
    """All of a `Text`, with the <eos> or the word that it is read after -> (N + 1, 1)."""
    first, *others = text.streams
    return torch.cat([first, *(stream[1:] for stream in others)])


def result_name(args):
    """What tells this evaluation from others of the same model, as part of its result's name."""
    text = [part_of_name("stdin" if args.text == "-" else os.path.basename(args.text))] if args.text else []
    return ".".join(["dynamic", *text, *(["reset"] if args.context == "reset" else [])])


def save_adapted(path, source, model):
    """Write `model`, whose weights have changed since they were read from `source`, as a model's file of its own."""
    contents = checkpoint.load(source)
    contents |= checkpoint.contents_of(model, contents["settings"], checkpoint.vocabulary_of(contents),
                                       contents["losses"])
    contents.pop("digest", None)
    try:
        checkpoint.save(path, {**contents, "digest": checkpoint.digest(contents)})
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
    log(f"| the adapted model is saved in {path}")


def main(argv=None):
    path, args, vocabulary, compute, model = checkpoint.open_model(check_flags(options.parse(make_parser(), argv)))
    needs_corpus = not args.text or args.search or args.rule == "rms"
    corpus = read_corpus(args, vocabulary) if needs_corpus else None
    with log_on_stderr() if "-" in outputs.asked_for(args).values() else nullcontext():
        texts = read_texts(args, vocabulary, corpus, compute.device)
        log(f"| reading {path}, on {compute}")
        lr, lamb = learning_rate(args), args.lamb
        result = record.result_path(Files(path, result_name(args)).result, args)
        record.remove(result)
        began, found = time.monotonic(), {}
        with DynamicPass(path, args, model) as reading:
            for text in texts:
                logprobs = scoring.score(model, text.streams, PLAIN_WINDOW, check=reading.interruption.check).logprobs
                found[f"{text.name}_without_dynamic_evaluation"] = figures(text, logprobs)
                log(f"| without dynamic evaluation | {report_tokens(mean_loss(logprobs), text.name + ' ')}")
            if args.rule == "rms":
                reading.gather(batchify_split("train", corpus, args.stat_batch_size, args, "--stat-batch-size"))
            if args.search:
                beginning = batchify_split("valid", corpus, 1, args)[:args.search_tokens + 1]
                lr, lamb = search(reading, beginning, args.rule, args.bptt)
                log(f"| chosen: --lr {lr:g} --lamb {lamb:g}")
                rates, decays = grids(args.rule, args.bptt)
                log(*filter(None, (at_the_edge("lr", lr, rates), at_the_edge("lamb", lamb, decays))))
            for text in texts:
                found |= adapt(args, path, model, reading, text, lr, lamb, vocabulary.counts)
            log(rule("="), f"| End of dynamic evaluation | {report(found[text.name]['loss'], text.name + ' ')}",
                rule("="))
            seconds = time.monotonic() - began
            settings = args.replaced(lr=lr, lamb=lamb)
            result = record.write(result, settings, count_parameters(model), args, seconds=seconds, **found)
            record.summarise({text.name: found[text.name] for text in texts}, seconds, **outputs.written(args),
                             result=result)
    return reading.status


def figures(text, logprobs):
    return record.figures(mean_loss(logprobs), len(logprobs) + 1, text.size)


def adapt(args, path, model, reading, text, lr, lamb, counts):
    """Read one text while the model learns from it, and write what was asked for -> its figures."""
    stream, found = stream_of(text), {}                                                                # (N + 1, 1)
    segments = segments_of(stream, args.bptt) if args.segments == "tokens" else segments_by_line(
        text.ends, args.context == "reset")
    keep = (lambda: save_adapted(args.save_adapted, path, model)) if args.save_adapted else None
    learnt = reading.learn(text.name, stream, lr, lamb, segments, ranks=outputs.needs_ranks(args),
                           entropies=outputs.needs_entropy(args), keep=keep)
    logprobs = learnt.logprobs
    log(f"| with dynamic evaluation    | {report_tokens(mean_loss(logprobs), text.name + ' ')} "
        f"| {learnt.speed:.0f} tokens/s")
    if args.neural_cache:
        found[f"{text.name}_without_cache"] = figures(text, logprobs)
        logprobs = cache_logprobs(learnt.features, learnt.targets, logprobs, args.theta, args.lambdasm, args.window)
        log(f"| and with the neural cache  | {report_tokens(mean_loss(logprobs), text.name + ' ')}")
    found[text.name] = {**figures(text, logprobs), "tokens_per_second": learnt.speed}
    ranks = None if args.neural_cache else learnt.scores.ranks                    # those are of the model alone
    entropies = None if args.neural_cache else learnt.scores.entropies
    outputs.write(args, text, scoring.Scores(logprobs, ranks, entropies).tolist(), f"{path}: {text.name}, adapting",
                  counts)
    return found


if __name__ == "__main__":
    errors.run(main)
