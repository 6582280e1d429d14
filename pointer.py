"""The neural cache over a trained model (Grave et al. 2017): the words seen lately become likelier.

The arithmetic is in evaluation/neural_cache.py.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import time

from checkpoint import open_model
from data import batchify_split, read_corpus
from evaluation import neural_cache
from evaluation.figures import log_figures
from evaluation.neural_cache import cache_logprobs, search
from evaluation.resumable import ResumablePass
from model import count_parameters
from runtime import options, record, values
from runtime.errors import InputError
from runtime.log import log, report, rule
from runtime.paths import check_output
from runtime.run_files import Files


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("model", (*options.READ_MODEL, options.PUBLISHED_MODEL))
    parser.add("data", options.DATA)
    parser.add("neural cache", (
        *neural_cache.FLAGS,
        options.Flag("search", False, "choice of theta and lambda from a grid on the validation text", bool,
                     only_true=True),
        options.Flag("bptt", 5000, "tokens read at a time; changes memory, not results", values.size, "N")))
    parser.add("running", (*options.running(), *options.RECIPE))
    parser.add("stopping and continuing", options.STOPPING)
    return parser


def main(argv=None):
    args = options.parse(make_parser(), argv)
    if args.search and {"theta", "lambdasm"} & args.given:
        raise InputError("--search chooses --theta and --lambdasm; leave them out")
    path, args, vocabulary, compute, model = open_model(args)
    files = Files(path, "pointer")
    check_output(files.result)
    corpus = read_corpus(args, vocabulary)
    log(f"| reading {path}, on {compute}")

    result = record.result_path(files.result, args)
    record.remove(result)
    began, figures_by_text = time.monotonic(), {}
    settings = args
    with ResumablePass(path, args) as reading:
        for split in ("valid", "test"):
            stream = batchify_split(split, corpus, 1, args)                            # (N + 1, 1)
            features, targets, vocab = reading.read(split, model, stream)
            size = corpus.sizes.get(split)
            figures_by_text[f"{split}_without_cache"] = log_figures("without the cache", split, vocab.tolist(), size)
            if args.search and split == "valid":
                settings = args.replaced(**search(features, targets, vocab, args.window, split))
            logprobs = cache_logprobs(features, targets, vocab, settings.theta, settings.lambdasm, args.window)
            figures_by_text[split] = log_figures("with the cache   ", split, logprobs.tolist(), size)
        log(rule("="), f"| End of pointer | {report(figures_by_text['test']['loss'], 'test ')}", rule("="))
        seconds = time.monotonic() - began
        result = record.write(result, settings, count_parameters(model), args, seconds=seconds, **figures_by_text)
        record.summarise({split: figures_by_text[split] for split in ("valid", "test")}, seconds, result=result)
    return reading.status


if __name__ == "__main__":
    errors.run(main)
