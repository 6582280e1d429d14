"""Judge a text by a trained model: perplexity, and for each word how likely the model found it.

The text is a split of the corpus, which is scored as published figures are: in one column from a zero state, all words
but the first. Or it is any text, a file or standard input, of which all words are scored, the first one after <eos>.
With --context reset all words of either are scored, every line on its own, from a zero state and after <eos>.
"""
import math
import sys
import time
from contextlib import redirect_stdout

import checkpoint
import engine
import errors
import hardware
import options
import record
import scoring
import surprisal_page
from corpora import read_corpus
from errors import InputError
from interruption import Interruption, Stop
from judged_text import (
    characters,
    check_outputs,
    read_split,
    read_text,
    sentence_rows,
    token_rows,
    write_rows,
    writing,
)
from meter import say
from model import count_parameters

OUTPUTS = ("per_token", "per_sentence", "html")      # flags with a file to write
TEMPERATURES = [t / 100 for t in range(70, 141, 5)]


def temperature(text):
    return options.number(text, float, lambda x: 0.001 <= x <= 1000, "a temperature from 0.001 to 1000")


def make_parser():
    parser = options.Parser(__doc__)
    options.add_checkpoint(parser)
    options.add_data(parser)
    group = parser.add_argument_group("text")
    group.add_argument("--split", choices=["both", "train", "valid", "test"], default="both",
                       help="of the corpus; both: valid and test")
    group.add_argument("--text", metavar="FILE",
                       help="judge this text instead, one sentence a line; - is standard input")
    group.add_argument("--unknown", choices=["unk", "error"], default="unk",
                       help="words that the model does not know: read as <unk>, or refused")
    group.add_argument("--context", choices=["carry", "reset"], default="carry",
                       help="carry the state from line to line, as published (of a split the first word is then not "
                            "scored), or reset it to zero at every line, which is then read after <eos>")
    group = parser.add_argument_group("judgement")
    group.add_argument("--temperature", type=temperature, default=1.0, metavar="X",
                       help="of the softmax: below 1 surer, above 1 less sure")
    group.add_argument("--search-temperature", action="store_true", help="choose it on the validation text")
    group.add_argument("--mc-samples", type=options.size, metavar="K",
                       help="also average the probabilities of K passes with training's dropout on (Monte Carlo "
                            "dropout)")
    group.add_argument("--bptt", type=options.size, default=70, metavar="N",
                       help="tokens read at a time; changes nothing but memory, and how long a mask holds in "
                            "Monte Carlo dropout")
    group = parser.add_argument_group("output")
    group.add_argument("--per-token", metavar="FILE", help="write every word, its log-probability in nats and its rank")
    group.add_argument("--per-sentence", metavar="FILE", help="write every line, its log-probability and perplexity")
    group.add_argument("--format", choices=["tsv", "json"], default="tsv", help="of these two; - is standard output")
    group.add_argument("--html", metavar="FILE", help="write a page with every word shaded by its surprisal")
    group.add_argument("--max-minutes", type=options.positive, metavar="M", help="stop after M minutes")
    options.add_recipe(options.add_running(parser))
    return parser


def report(text, logprobs, how=""):
    """Print a text's figures -> mean loss in nats."""
    loss = -math.fsum(logprobs) / len(logprobs)
    bits = loss * len(logprobs) / math.log(2)
    say(f"| {engine.report(loss, text.name + ' ')}{how} | {len(logprobs):,} tokens | "
        f"{bits / characters(text.words):.3f} bits per character as written")
    return loss


def judge(args, model, criterion, text, check):
    """Score one text and write what was asked for -> its figures."""
    began = time.monotonic()
    logprobs, ranks = scoring.score(model, criterion, text.columns, args.bptt, args.temperature,
                                    bool(args.per_token or args.html), check)
    logprobs = logprobs.tolist()
    loss = report(text, logprobs)
    found = {text.name: {**record.figures(loss, len(logprobs) + 1),
                         "tokens_per_second": len(logprobs) / (time.monotonic() - began)}}
    if args.mc_samples:
        began = time.monotonic()
        sampled = scoring.sample_score(model, criterion, text.columns, args.bptt, args.mc_samples, args.temperature,
                                       check).tolist()
        loss = report(text, sampled, f" | mean of {args.mc_samples} samples")
        found[f"{text.name}_sampled"] = {**record.figures(loss, len(logprobs) + 1), "samples": args.mc_samples,
                                         "tokens_per_second": len(logprobs) / (time.monotonic() - began)}
    if args.per_token:
        write_rows(args.per_token, token_rows(text.words, logprobs, ranks.tolist()), args.format)
    if args.per_sentence:
        write_rows(args.per_sentence, sentence_rows(text.words, logprobs), args.format)
    if args.html:
        with writing(args.html) as file:
            file.write(surprisal_page.page(text.words, logprobs, ranks.tolist(), f"{args.path}: {text.name}"))
    return found


def main(argv=None):
    args = options.parse(make_parser(), argv)
    outputs = [getattr(args, what) for what in OUTPUTS if getattr(args, what)]
    if args.split == "both" and not args.text and outputs:
        raise InputError("--per-token, --per-sentence and --html are of one text: choose it with --split or --text")
    args.path = checkpoint.choose(args)
    check_outputs(outputs, [args.path] + ([args.text] if args.text not in (None, "-") else []))
    contents = checkpoint.load(args.path)
    options.inherit(args, contents["settings"], args.path, ("data", "vocab", "precision"))
    device = hardware.prepare(args)
    corpus = None if args.text and not args.search_temperature else read_corpus(args, contents["vocabulary"])
    model, criterion = checkpoint.restore(contents, args.path, device, args.precision)
    splits = ("valid", "test") if args.split == "both" else (args.split,)
    texts = ([read_text(args.text, contents["vocabulary"], args.unknown, args.context, device)] if args.text else
             [read_split(split, corpus, args) for split in splits])

    with redirect_stdout(sys.stderr if "-" in outputs else sys.stdout):
        say(f"| reading {args.path}, on {device} in {args.precision}")
        began = time.monotonic()
        try:
            with Interruption(args.max_minutes) as interruption:
                if args.search_temperature:
                    args.temperature = search_temperature(args, model, criterion, corpus, interruption.check)
                found = {}
                for text in texts:
                    found |= judge(args, model, criterion, text, interruption.check)
        except Stop as stop:
            say(f"| {stop}; nothing was written")
            return stop.status
        seconds = time.monotonic() - began
        files = {what: getattr(args, what) for what in OUTPUTS if getattr(args, what) not in (None, "-")}
        if not args.text:
            files["result"] = checkpoint.Files(args.path, "evaluation").result
            record.write(files["result"], args, count_parameters(model, criterion), seconds=seconds, **found)
        record.summarise(found, seconds, **files)
    return 0


def search_temperature(args, model, criterion, corpus, check):
    columns = read_split("valid", corpus, args).columns
    losses = scoring.temperature_losses(model, criterion, columns, args.bptt, TEMPERATURES, check)
    best = min(range(len(losses)), key=losses.__getitem__)
    for temperature, loss in zip(TEMPERATURES, losses):
        say(f"| temperature {temperature:.2f} | {engine.report(loss, 'valid ')}")
    say(f"| chosen: --temperature {TEMPERATURES[best]}")
    return TEMPERATURES[best]


if __name__ == "__main__":
    errors.run(main)
