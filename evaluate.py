"""Score a text by a trained model: perplexity, and for each word how likely the model found it.

The text is a split of the corpus, which is scored as published figures are: with batch size 1 from a zero state, all
words but the first. Or it is any text, a file or standard input, of which all words are scored, the first one after
<eos>. With --context reset all words of either are scored, every line on its own, from a zero state and after <eos>;
lines are then read in batches. So are the hypotheses of n-best lists, minimal pairs and BabyLM's zero-shot tasks.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import os
import time

from checkpoint import open_model
from data import read_corpus
from evaluation import babylm, hidden_states, minimal_pairs, nbest, outputs, pair_files, scoring
from evaluation.figures import best_of_grids, figures
from evaluation.formats import FORMATS
from evaluation.text import characters, read_split, read_text, read_texts
from model import count_parameters
from runtime import options, record, values
from runtime.errors import InputError
from runtime.log import counted, log, report_tokens
from runtime.options import Flag
from runtime.paths import cut_name, part_of_name
from runtime.run_files import Files
from runtime.signals import Interruption, Stop

TEMPERATURES = [t / 100 for t in range(70, 141, 5)]
FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)               # of the dropout rates, in a search with samples


def temperature(text):
    return values.number(text, float, lambda x: 0.001 <= x <= 1000, "a temperature from 0.001 to 1000")


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("model", options.READ_MODEL)
    parser.add("data", options.DATA)
    parser.add("text", (
        Flag("split", "both", "text of the corpus to score; both: valid and test",
             choices=("both", "train", "valid", "test")),
        *outputs.TEXT))
    parser.add("scoring", (
        Flag("temperature", 1.0, "temperature of the softmax: < 1 sharpens it, > 1 flattens it", temperature, "X"),
        Flag("search_temperature", False, "choice of the temperature on the validation text", bool, only_true=True),
        Flag("mc_samples", None, "passes with training's dropout on whose probabilities are averaged, too (Monte Carlo "
             "dropout)", values.size, "K"),
        Flag("mc_factor", 1.0, "factor on the dropout rates of these passes (Melis et al.: 0.6 to 0.9); 0 is the plain "
             "pass", values.weight, "X"),
        Flag("mc_mask", "window", "masks of these passes: anew for every window, or one for the text, no words dropped "
             "(Gal and Ghahramani)", choices=("window", "text")),
        Flag("mc_temperature", None, "temperature of these passes; that of --temperature if not given", temperature,
             "X"),
        Flag("search_mc", False, "choice of --mc-factor and --mc-temperature together, by the samples' loss on the "
             "validation text", bool, only_true=True),
        Flag("bptt", 70, "tokens read at a time; changes nothing but memory, and how long a mask holds in Monte Carlo "
             "dropout", values.size, "N")))
    parser.add("output", (
        *outputs.flags(FORMATS), *outputs.SURPRISAL, *hidden_states.FLAGS,
        Flag("max_minutes", None, "minutes after which the script stops", values.positive, "M")))
    parser.add("n-best lists", nbest.FLAGS)
    parser.add("minimal pairs", minimal_pairs.FLAGS)
    parser.add("BabyLM", babylm.FLAGS)
    parser.add("running", (*options.running(), *options.RECIPE))
    return parser


def log_text(text, logprobs, remark=""):
    """Log a text's figures -> dict."""
    text_figures = figures(logprobs, text.size)
    bits = text_figures["bits_per_token"] * len(logprobs)
    log(f"| {report_tokens(text_figures['loss'], text.name + ' ')}{remark} | {counted(len(logprobs), 'tokens')}"
        + (record.per_unit(text_figures) or f" | {bits / characters(text):.3f} bits per character as written"))
    return text_figures


def score(args, path, model, text, layers, check, counts=None):
    """Score one text and write what was asked for -> its figures."""
    began = time.monotonic()
    scores = scoring.score(model, text.streams, args.bptt, args.temperature, outputs.needs_ranks(args), check,
                           entropies=outputs.needs_entropy(args)).tolist()
    logprobs = scores.logprobs
    figures_by_text = {text.name: {**log_text(text, logprobs),
                                   "tokens_per_second": len(logprobs) / (time.monotonic() - began)}}
    if args.mc_samples:
        began = time.monotonic()
        sampled = scoring.sample_score(model, text.streams, args.bptt, args.mc_samples,
                                       args.mc_temperature or args.temperature, check, args.mc_factor,
                                       args.mc_mask == "text").tolist()
        figures_by_text[f"{text.name}_sampled"] = {
            **log_text(text, sampled, f" | mean of {counted(args.mc_samples, 'samples')}"), "samples": args.mc_samples,
            "tokens_per_second": len(logprobs) / (time.monotonic() - began)}
    if args.features:
        states = hidden_states.hidden_states(model, text.streams, args.bptt, layers, check)
        hidden_states.write(args.features, text, states)
    if args.nbest:
        nbest.write(args, text, logprobs)
    outputs.write(args, text, scores, f"{path}: {text.name}", counts)
    return figures_by_text


def result_name(args):
    """What tells this evaluation from others of the same model, as part of its result's name."""
    file = args.text or args.nbest
    parts = [] if args.split == "both" or file else [args.split]
    names = [part_of_name(os.path.basename(os.path.normpath(name)))
             for name in (args.minimal_pairs or args.babylm or [])]
    if args.minimal_pairs:
        parts += ["pairs", *names[:3], *(["and-more"] if len(names) > 3 else [])]
        parts += [name for name in ("normalise", "without_eos") if getattr(args, name)]
    if args.babylm:
        parts += ["babylm", *names[:3]]
    if file:
        parts.append(part_of_name("stdin" if file == "-" else os.path.basename(file)))
    if args.context == "reset":
        parts.append("reset")
    if args.search_temperature:
        parts.append("search-temperature")
    elif args.temperature != 1:
        parts.append(f"temperature-{args.temperature:g}")
    if args.mc_samples:
        parts.append(f"mc-{args.mc_samples}")
    if args.search_mc:
        parts.append("search-mc")
    elif args.mc_factor != 1:
        parts.append(f"factor-{args.mc_factor:g}")
    return cut_name(".".join(["evaluation", *parts]), 150)              # file systems take names of 255 bytes


def searched(args, model, corpus, check):
    """What --search-temperature and --search-mc choose by the loss on the validation text -> values of flags by name.

    Of the samples of Monte Carlo dropout those of one factor on the dropout rates serve all temperatures.
    """
    streams, chosen = read_split("valid", corpus, args, args.context).streams, {}
    if args.search_temperature:
        losses = dict(zip(TEMPERATURES, scoring.temperature_losses(model, streams, args.bptt, TEMPERATURES, check)))
        for temperature, loss in losses.items():
            log(f"| temperature {temperature:.2f} | {report_tokens(loss, 'valid ')}")
        chosen |= best_of_grids({(temperature,): loss for temperature, loss in losses.items()},
                                temperature=TEMPERATURES)
    if args.search_mc:
        losses = scoring.sample_losses(model, streams, args.bptt, args.mc_samples, FACTORS, TEMPERATURES, check,
                                       args.mc_mask == "text")
        for factor in FACTORS:
            temperature = min(TEMPERATURES, key=lambda t, factor=factor: losses[factor, t])
            log(f"| factor {factor:.2f} | temperature {temperature:.2f} is the best "
                f"| {report_tokens(losses[factor, temperature], 'valid ')}")
        chosen |= best_of_grids(losses, mc_factor=FACTORS, mc_temperature=TEMPERATURES)
    return chosen


def main(argv=None):
    args = outputs.prepare(options.parse(make_parser(), argv))
    if args.search_temperature and "temperature" in args.given:
        raise InputError("--temperature and --search-temperature are two ways to choose one; give one of them")
    if args.search_mc and {"mc_factor", "mc_temperature"} & args.given:
        raise InputError("--search-mc chooses --mc-factor and --mc-temperature; leave them out")
    items = pair_files.read(args.minimal_pairs or [], args.good, args.bad)
    minimal_pairs.check_flags(args, items)
    datasets = babylm.read(args.babylm or [])
    file = args.text or args.nbest
    path, args, vocabulary, compute, model = open_model(args)
    outputs.check(args, [path], file or items or datasets or args.split != "both", "--split or --text",
                  Files(path, result_name(args)))
    layers = hidden_states.chosen_layers(args.layer, model)
    if args.mc_mask == "text" and model.config.per_step_dropout:
        raise InputError("--mc-mask text: this model draws masks anew at every step (--per-step-dropout)")
    searches = args.search_temperature or args.search_mc
    corpus = None if (file or items or datasets) and not searches else read_corpus(args, vocabulary)
    pairs = items and minimal_pairs.cut(minimal_pairs.lines_of(items), vocabulary, compute.device, args.unknown,
                                        args.untrained_unk)
    texts = [] if items or datasets or args.nbest else read_texts(args, vocabulary, corpus, compute.device)
    if args.nbest:
        texts = [read_text(args.nbest, vocabulary, args.unknown, args.context, compute.device, nbest.TEXT,
                           args.untrained_unk, nbest.read_lists, args.line_ends)]

    with outputs.log_beside(args):
        log(f"| reading {path}, on {compute}")
        began = time.monotonic()
        try:
            with Interruption(args.max_minutes) as interruption:
                name = result_name(args)
                if searches:
                    args = args.replaced(**searched(args, model, corpus, interruption.check))
                figures_by_text = {}
                task_figures = minimal_pairs.evaluate(args, items, pairs, model, interruption.check) if items else {}
                if datasets:
                    task_figures = babylm.evaluate(args, datasets, vocabulary, compute.device, model,
                                                   interruption.check)
                for text in texts:
                    figures_by_text |= score(args, path, model, text, layers, interruption.check, vocabulary.counts)
        except Stop as stop:
            log(f"| {stop}; nothing was written")
            return stop.status
        seconds = time.monotonic() - began
        result = record.result_path(Files(path, name).result, args)
        result = record.write(result, args, count_parameters(model), seconds=seconds, **figures_by_text, **task_figures)
        accuracy = task_figures["minimal_pairs"]["all"]["accuracy"] if items else None
        facts = [] if accuracy is None else [f"accuracy {accuracy:.1%}"]
        record.summarise(figures_by_text, seconds, *facts, **outputs.written(args), result=result)
    return 0


if __name__ == "__main__":
    errors.run(main)
