"""Dynamic evaluation of a trained model (Krause et al. 2018): it goes on learning from the text it is evaluated on.

Every segment of a text is scored before anything is learnt from it, and every text begins with the trained weights. The
model's file is not changed. The arithmetic is in evaluation/dynamic.py.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import itertools
import math
import time

from checkpoint import open_model
from data import batchify_split, read_corpus
from evaluation.dynamic import FLAGS, LEARNING_RATE, DynamicPass, learning_rate
from evaluation.loss import PLAIN_WINDOW, evaluate
from evaluation.neural_cache import at_the_edge, cache_logprobs, mean_loss
from model import count_parameters
from runtime import options, record, values
from runtime.errors import InputError
from runtime.log import log, report, report_tokens, rule
from runtime.options import Flag
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
    parser.add("dynamic evaluation", (
        *FLAGS,
        Flag("split", "both", "which text to evaluate on", choices=("both", "valid", "test")),
        Flag("search", False, "choose lr and lamb from a grid on the validation text", bool, only_true=True),
        Flag("search_tokens", 10_000, "how much of the validation text the search reads, for each of its "
             f"{len(FACTORS) * len(LAMBDAS)} settings", values.size, "N")))
    parser.add("neural cache", (
        *options.NEURAL_CACHE,
        Flag("neural_cache", False, "mix the neural cache, as of pointer.py, into the predictions", bool,
             only_true=True)))
    parser.add("running", (*options.running(1000, "segments"), *options.RECIPE))
    parser.add("stopping and continuing", options.STOPPING)
    return parser


def main(argv=None):
    path, args, vocabulary, compute, model = open_model(options.parse(make_parser(), argv))
    corpus = read_corpus(args, vocabulary)
    texts = {split: batchify_split(split, corpus, 1, args) for split in ("valid", "test")}             # (N + 1, 1)
    beginning = texts["valid"][:args.search_tokens + 1]
    texts = {split: stream for split, stream in texts.items() if args.split in ("both", split)}
    lr, lamb = learning_rate(args), args.lamb
    log(f"| reading {path}, on {compute}")

    result = record.result_path(Files(path, "dynamic").result, args)
    record.remove(result)
    began, found = time.monotonic(), {}
    with DynamicPass(path, args, model) as reading:
        for split, stream in texts.items():
            loss = evaluate(model, stream, PLAIN_WINDOW, reading.interruption.check)
            found[f"{split}_without_dynamic_evaluation"] = record.figures(loss, len(stream), corpus.sizes.get(split))
            log(f"| without dynamic evaluation | {report_tokens(loss, split + ' ')}")
        if args.rule == "rms":
            reading.gather(batchify_split("train", corpus, args.stat_batch_size, args, "--stat-batch-size"))
        if args.search:
            lr, lamb = search(reading, beginning, args.rule, args.bptt)
            log(f"| chosen: --lr {lr:g} --lamb {lamb:g}")
            rates, decays = grids(args.rule, args.bptt)
            log(*filter(None, (at_the_edge("lr", lr, rates), at_the_edge("lamb", lamb, decays))))
        for split, stream in texts.items():
            features, targets, vocab, speed = reading.learn(split, stream, lr, lamb)
            loss = mean_loss(vocab)
            log(f"| with dynamic evaluation    | {report_tokens(loss, split + ' ')} | {speed:.0f} tokens/s")
            if args.neural_cache:
                found[f"{split}_without_cache"] = record.figures(loss, len(stream), corpus.sizes.get(split))
                loss = mean_loss(cache_logprobs(features, targets, vocab, args.theta, args.lambdasm, args.window))
                log(f"| and with the neural cache  | {report_tokens(loss, split + ' ')}")
            found[split] = {**record.figures(loss, len(stream), corpus.sizes.get(split)), "tokens_per_second": speed}
        log(rule("="), f"| End of dynamic evaluation | {report(loss, split + ' ')}", rule("="))
        seconds = time.monotonic() - began
        settings = args.replaced(lr=lr, lamb=lamb)
        result = record.write(result, settings, count_parameters(model), args, seconds=seconds, **found)
        record.summarise({split: found[split] for split in texts}, seconds, result=result)
    return reading.status


if __name__ == "__main__":
    errors.run(main)
