"""The neural cache over a trained model (Grave et al. 2017): the words seen lately become likelier.

The arithmetic is in evaluation/neural_cache.py.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import time

from tqdm import tqdm

from checkpoint import open_model
from data import batchify_split, read_corpus
from evaluation.neural_cache import at_the_edge, cache_logprobs, mean_loss, mix, recall_logprobs
from evaluation.resumable import ResumablePass
from model import count_parameters
from runtime import options, record, values
from runtime.log import log, report, report_tokens, rule
from runtime.run_files import Files

THETAS = (0.1, 0.3, 0.5, 0.66, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0)
LAMBDAS = (0.02, 0.05, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


def search(features, targets, vocab, window):
    """The theta and lambda of the grid with the lowest loss on validation."""
    losses = {}
    for theta in tqdm(THETAS, disable=None, leave=False):
        recalled = recall_logprobs(features, targets, theta, window)
        for lambdasm in LAMBDAS:
            losses[theta, lambdasm] = mean_loss(mix(vocab, recalled, lambdasm))
        best = min(LAMBDAS, key=lambda lambdasm: losses[theta, lambdasm])
        log(f"| theta {theta:5.2f} | best lambda {best:5.2f} | {report_tokens(losses[theta, best], 'valid ')}")
    return min(losses, key=losses.get)


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("model", options.READ_MODEL)
    parser.add("data", options.DATA)
    parser.add("neural cache", (
        *options.NEURAL_CACHE,
        options.Flag("search", False, "choice of theta and lambda from a grid on the validation text", bool,
                     only_true=True),
        options.Flag("bptt", 5000, "tokens read at a time; changes memory, not results", values.size, "N")))
    parser.add("running", (*options.running(), *options.RECIPE))
    parser.add("stopping and continuing", options.STOPPING)
    return parser


def main(argv=None):
    path, args, vocabulary, compute, model = open_model(options.parse(make_parser(), argv))
    corpus = read_corpus(args, vocabulary)
    log(f"| reading {path}, on {compute}")

    result = record.result_path(Files(path, "pointer").result, args)
    record.remove(result)
    began, figures_by_text = time.monotonic(), {}
    theta, lambdasm = args.theta, args.lambdasm
    with ResumablePass(path, args) as reading:
        for split in ("valid", "test"):
            stream = batchify_split(split, corpus, 1, args)                            # (N + 1, 1)
            features, targets, vocab = reading.read(split, model, stream)
            figures_by_text[f"{split}_without_cache"] = record.figures(
                mean_loss(vocab), len(stream), corpus.sizes.get(split))
            log(f"| without the cache | {report_tokens(mean_loss(vocab), split + ' ')}")
            if args.search and split == "valid":
                theta, lambdasm = search(features, targets, vocab, args.window)
                log(f"| chosen: --theta {theta} --lambdasm {lambdasm}")
                log(*filter(None, (at_the_edge("theta", theta, THETAS), at_the_edge("lambda", lambdasm, LAMBDAS))))
            loss = mean_loss(cache_logprobs(features, targets, vocab, theta, lambdasm, args.window))
            figures_by_text[split] = record.figures(loss, len(stream), corpus.sizes.get(split))
            log(f"| with the cache    | {report_tokens(loss, split + ' ')}")
        log(rule("="), f"| End of pointer | {report(loss, 'test ')}", rule("="))
        seconds = time.monotonic() - began
        settings = args.replaced(theta=theta, lambdasm=lambdasm)
        result = record.write(result, settings, count_parameters(model), args, seconds=seconds, **figures_by_text)
        record.summarise({split: figures_by_text[split] for split in ("valid", "test")}, seconds, result=result)
    return reading.status


if __name__ == "__main__":
    errors.run(main)
