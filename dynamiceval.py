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

import torch

import checkpoint
from data import batchify_split, read_corpus
from evaluation import neural_cache, outputs, scoring
from evaluation.dynamic import FLAGS, LEARNING_RATE, DynamicPass, learning_rate, segments_by_line, segments_of
from evaluation.figures import best_of_grids, log_figures
from evaluation.formats import FORMATS
from evaluation.loss import PLAIN_WINDOW
from evaluation.text import read_texts
from model import count_parameters
from runtime import options, record, values
from runtime.errors import InputError
from runtime.log import log, report, report_tokens, rule
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


def search(reading, stream, args):
    """The settings with the lowest loss on a text of N tokens, `stream` (N + 1, 1) -> Arguments.

    `lr` and `lamb` are of the grids; then, with --neural-cache, those of the cache over the model as it learns by them,
    if none was typed.
    """
    losses, (rates, decays) = {}, grids(args.rule, args.bptt)
    for lr, lamb in itertools.product(rates, decays):
        losses[lr, lamb] = reading.loss(stream, lr, lamb)
        log(f"| lr {lr:.2g} | lamb {lamb:.2g} | {report_tokens(losses[lr, lamb], 'search ')}")
    if math.isinf(min(losses.values())):
        raise InputError("the model diverges with every setting of the search; try a smaller --lr by hand")
    args = args.replaced(**best_of_grids(losses, lr=rates, lamb=decays))
    if args.neural_cache and not {"theta", "lambdasm"} & args.given:
        learnt = reading.learn("the search", stream, args.lr, args.lamb, quiet=True)
        args = args.replaced(**neural_cache.search(learnt.features, learnt.targets, learnt.logprobs, args.window,
                                                   "search"))
    return args


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
        Flag("search", False, "choice of lr and lamb, and of the neural cache's theta and lambdasm if none is "
             "typed, from grids on the validation text", bool, only_true=True),
        Flag("search_tokens", 10_000, "tokens of the validation text that the search reads, for each of its "
             f"{len(FACTORS) * len(LAMBDAS)} settings of lr and lamb", values.size, "N")))
    parser.add("neural cache", (
        *neural_cache.FLAGS,
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
    if args.search and {"lr", "lamb"} & args.given:
        raise InputError("--search chooses --lr and --lamb; leave them out")
    if args.search and args.segments == "lines":
        raise InputError("--search chooses --lr and --lamb for segments of --bptt tokens; leave it out for lines")
    if args.neural_cache and outputs.needs_entropy(args):
        raise InputError("entropies with --neural-cache are not computed; leave it out, or --entropy and --predictors")
    return args


def check_files(args, path):
    """Refuse outputs that cannot be written, or would take the place of another file. path: of the model."""
    files = Files(path, result_name(args))
    state = files.state if args.resume in (None, "auto") else args.resume
    outputs.check(args, [path, state], args.text or args.split != "both", "--split or --text", files)
    continues = args.resume and os.path.exists(state)
    if args.save_adapted and os.path.exists(args.save_adapted) and not continues:
        raise is_there(args.save_adapted)


def is_there(path):
    return InputError(f"{path} is there already, and may be a model that is worth keeping; give --save-adapted another "
                      "name, or remove it")


def result_name(args):
    """What tells this evaluation from others of the same model, as part of its result's and its state's name."""
    text = [part_of_name("stdin" if args.text == "-" else os.path.basename(args.text))] if args.text else []
    return ".".join(["dynamic", *text, *(["reset"] if args.context == "reset" else [])])


def save_adapted(path, source, model):
    """Write `model`, whose weights have changed since they were read from `source`, as a model's file of its own.

    A file that is there already is this model, written before the pass was interrupted, or else an InputError.
    """
    contents = checkpoint.load(source)
    contents |= checkpoint.contents_of(model, contents["settings"], checkpoint.vocabulary_of(contents),
                                       contents["losses"])
    contents.pop("digest", None)
    digest = checkpoint.digest(contents)
    if os.path.exists(path) and checkpoint.digest(checkpoint.load(path)) != digest:
        raise is_there(path)
    try:
        checkpoint.save(path, {**contents, "digest": digest})
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
    log(f"| the adapted model is saved in {path}")


def main(argv=None):
    path, args, vocabulary, compute, model = checkpoint.open_model(check_flags(options.parse(make_parser(), argv)))
    check_files(args, path)
    needs_corpus = not args.text or args.search or args.rule == "rms"
    corpus = read_corpus(args, vocabulary) if needs_corpus else None
    with outputs.log_beside(args):
        texts = read_texts(args, vocabulary, corpus, compute.device)
        log(f"| reading {path}, on {compute}")
        settings = args.replaced(lr=learning_rate(args))
        result = record.result_path(Files(path, result_name(args)).result, args)
        record.remove(result)
        began, figures_by_text = time.monotonic(), {}
        with DynamicPass(path, args, model, result_name(args)) as reading:
            for text in texts:
                logprobs = scoring.score(model, text.streams, PLAIN_WINDOW, check=reading.interruption.check).logprobs
                figures_by_text[f"{text.name}_without_dynamic_evaluation"] = log_figures(
                    "without dynamic evaluation", text.name, logprobs.tolist(), text.size)
            if args.rule == "rms":
                reading.gather(batchify_split("train", corpus, args.stat_batch_size, args, "--stat-batch-size"))
            if args.search:
                beginning = batchify_split("valid", corpus, 1, args)[:args.search_tokens + 1]
                settings = search(reading, beginning, args)
            for text in texts:
                figures_by_text |= adapt(settings, path, model, reading, text, vocabulary.counts)
            loss = figures_by_text[text.name]["loss"]
            log(rule("="), f"| End of dynamic evaluation | {report(loss, text.name + ' ')}", rule("="))
            seconds = time.monotonic() - began
            result = record.write(result, settings, count_parameters(model), args, seconds=seconds, **figures_by_text)
            record.summarise({text.name: figures_by_text[text.name] for text in texts}, seconds,
                             **outputs.written(args), result=result)
    return reading.status


def adapt(args, path, model, reading, text, counts):
    """Read one text while the model learns from it, and write what was asked for -> its figures."""
    first, *others = text.streams
    stream, text_figures = torch.cat([first, *(each[1:] for each in others)]), {}                      # (N + 1, 1)
    segments = segments_of(stream, args.bptt) if args.segments == "tokens" else segments_by_line(
        text.ends, args.context == "reset")
    keep = (lambda: save_adapted(args.save_adapted, path, model)) if args.save_adapted else None
    learnt = reading.learn(text.name, stream, args.lr, args.lamb, segments, ranks=outputs.needs_ranks(args),
                           entropies=outputs.needs_entropy(args), keep=keep)
    scores, adapted = learnt.scores, log_figures("with dynamic evaluation   ", text.name, learnt.logprobs.tolist(),
                                                 text.size, f" | {learnt.speed:.0f} tokens/s")
    if args.neural_cache:
        text_figures[f"{text.name}_without_cache"] = adapted
        scores = scoring.Scores(neural_cache.cache_logprobs(          # ranks are of the model alone
            learnt.features, learnt.targets, learnt.logprobs, args.theta, args.lambdasm, args.window))
        adapted = log_figures("and with the neural cache ", text.name, scores.logprobs.tolist(), text.size)
    text_figures[text.name] = {**adapted, "tokens_per_second": learnt.speed}
    outputs.write(args, text, scores.tolist(), f"{path}: {text.name}, adapting", counts)
    return text_figures


if __name__ == "__main__":
    errors.run(main)
