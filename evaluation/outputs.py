"""What a user asks to have written of a scored text: its words, its lines, a page.

N tokens.
"""
import os
import sys
from contextlib import nullcontext

from corpus.reading import files_in
from data import SPLITS
from evaluation import page
from evaluation.formats import FORMATS, PLAIN, WITH_ENTROPY, sentence_rows
from evaluation.pieces import typed_words, whole_words
from evaluation.reading_times import BEFORE, predictor_rows, warn_of_frequencies
from evaluation.tables import write_rows
from evaluation.text_files import check_outputs, writing
from runtime.errors import InputError
from runtime.log import log_on_stderr
from runtime.options import READ_WORDS, Flag
from runtime.paths import check_output
from runtime.values import number

# flags with a file to write
NAMES = ("per_token", "per_sentence", "html", "features", "rescored", "best", "per_pair", "save_adapted")


def flags(formats=PLAIN):
    """What scripts that score a text have in common; formats: in which they can write it."""
    tools = ", ".join(name for name in formats if name not in PLAIN)
    return (
        Flag("per_token", None, "file for every word, its log-probability in nats and, of one model, its rank",
             metavar="FILE"),
        Flag("per_sentence", None, "file for every line, its log-probability and perplexity", metavar="FILE"),
        Flag("format", "tsv", "format of these two; - is standard output. csv puts words in quotes; without this flag "
             "the columns of a table (--column) are written as they were read" + (f". {tools}: words as these tools "
             "write them, joined where they were read in pieces, to standard output without --per-token" if tools else
             ""), choices=tuple(formats)),
        Flag("html", None, "file for a page with every word shaded by its surprisal", metavar="FILE"),
    )


TEXT = (
    Flag("text", None, "text to score instead, one sentence a line; - is standard input", metavar="FILE"),
    Flag("column", None, "column to score of a text that is a table with a heading, TSV or CSV; the others are "
         "kept in the output", metavar="NAME"),
    Flag("unknown", "unk", "reading of words that the model does not know: as <unk>, or an error",
         choices=("unk", "error")),
    Flag("context", "carry", "state at the start of a line: carried from the line before, as published (of a split "
         "the first word is then not scored), or reset to zero, and the line read after <eos>",
         choices=("carry", "reset")),
    *READ_WORDS,
)
SURPRISAL = (
    Flag("parts", False, "rows for the parts that --split-words makes of words, not for the words", bool,
         only_true=True),
    Flag("unit", None, "unit of surprisal and entropy, bits if not given; typed, it adds a column with surprisal to "
         "tsv and json, whose log-probabilities are in nats in any case", choices=("bits", "nats")),
    Flag("entropy", False, "entropy and its reduction beside the words of tsv and json, with surprisal", bool,
         only_true=True),
    Flag("predictors", False, "table of the words for studies of reading times: item, condition, word_nr, "
         "word, surprisal, entropy, length, log_freq, unknown; no row for <eos>", bool, only_true=True),
    Flag("spillover", 0, f"earlier words whose figures that table has, too (0 to {len(BEFORE)})",
         lambda text: number(text, int, range(len(BEFORE) + 1).__contains__, f"0 to {len(BEFORE)}"), "N"),
)
WITH = {"column": "text", "layer": "features", "weight": "nbest", "rescored": "nbest", "best": "nbest",
        "mc_factor": "mc_samples", "mc_temperature": "mc_samples", "mc_mask": "mc_samples", "search_mc": "mc_samples",
        "entropy": "per_token", "predictors": "per_token", "spillover": "predictors",
        **dict.fromkeys(("good", "bad", "normalise", "without_eos", "per_pair"), "minimal_pairs"),
        **dict.fromkeys(("window", "theta", "lambdasm"), "neural_cache"), "search_tokens": "search",
        "babylm": "predictions", "predictions": "babylm"}    # flags that do nothing without another
OF_A_TEXT = ("text", "split", "column", "context", "nbest", "search_temperature", "mc_samples", "features", "html",
             "per_token", "per_sentence", "unit")
AGAINST = {"nbest": ("text", "split", "column"), "minimal_pairs": OF_A_TEXT,
           "babylm": (*OF_A_TEXT, "minimal_pairs", "per_pair")}       # flags that another does not go with


READERS = ("text", "nbest", "minimal_pairs", "babylm")            # flags that name a text which is not of the corpus
OF_READERS = ("unknown", "split_words", "lower", "parts")          # flags for what these read


def typed(name):
    return "--" + name.replace("_", "-")


def prepare(args):
    """The flags of a script that scores a text, with standard output where a file may be left out -> Arguments.

    Raises InputError for flags that contradict each other or have no effect.
    """
    for name, other in WITH.items():
        if name in args.given and not getattr(args, other):
            raise InputError(f"{typed(name)} does nothing without {typed(other)}")
    for name, others in AGAINST.items():
        taken = [other for other in others if getattr(args, name, None) and other in args.given]
        if taken:
            raise InputError(f"{typed(taken[0])} and {typed(name)} do not go together: what that names is scored "
                             "instead, each on its own")
    for name in OF_READERS:
        if name in args.given and not any(getattr(args, reader, None) for reader in READERS):
            raise InputError(f"{typed(name)} does nothing without --text: the texts of a corpus are read as they are")
    if args.predictors and args.format not in PLAIN:
        raise InputError(f"--predictors is a table of its own; --format {args.format} is another")
    if args.predictors and args.parts:
        raise InputError("--predictors are of whole words; leave --parts out")
    if args.unit and not (args.per_token or args.per_sentence or args.format not in PLAIN):
        raise InputError("--unit does nothing without --per-token or --per-sentence")
    for name, file in asked_for(args, ("features", "save_adapted")).items():
        if file == "-":
            raise InputError(f"{typed(name)}: arrays are not written to standard output; give the name of a file")
        check_output(file)
    if getattr(args, "nbest", None):
        if args.context == "carry" and "context" in args.given:
            raise InputError("--context carry and --nbest do not go together: every hypothesis is scored on its own")
        args = args.replaced(context="reset", rescored=args.rescored or (None if args.best else "-"))
    if (args.predictors or args.format not in PLAIN) and not (args.text or args.context == "reset"):
        raise InputError(f"{'--predictors' if args.predictors else f'--format {args.format}'} has a row for every "
                         "word, and the first one of a split is not scored as published figures are; use --context "
                         "reset")
    if args.format not in PLAIN:
        args = args.replaced(per_token=args.per_token or (None if getattr(args, "nbest", None) else "-"))
    return args


def asked_for(args, names=NAMES):
    """The files to be written -> {flag: file}."""
    return {name: getattr(args, name) for name in names if getattr(args, name, None)}


def log_beside(args):
    """A block in which the log goes to stderr where something is written to standard output."""
    return log_on_stderr() if "-" in asked_for(args).values() else nullcontext()


def check(args, models, is_one_text, choosing_flags, run=None):
    """Say now, not after the work, that an output cannot be written, or stands in for a file that is read.

    models: those that are read, by their paths. choosing_flags: which flags choose one text. run: the `Files` of the
    script's own result and state, which would take an output's place.
    """
    files = asked_for(args)
    if files and not is_one_text:
        raise InputError(f"{', '.join(map(typed, files))}: this is written of one text; choose it with "
                         f"{choosing_flags}")
    texts = [*files_in(getattr(args, "minimal_pairs", None) or []),
             *(getattr(args, name, None) for name in ("text", "nbest")),
             *(os.path.join(args.data, f"{split}.txt") for split in SPLITS)]
    of_run = [run.result, run.state] if run else []
    for path in of_run:
        check_output(path)
    check_outputs(files.values(), [*models, *texts, *of_run])


def needs_ranks(args):
    return bool(args.html or (args.per_token and args.format in PLAIN))


def needs_entropy(args):
    return bool(args.per_token) and (args.entropy or args.format in WITH_ENTROPY or args.predictors)


def write(args, text, scores, title, counts=None):
    """Write what was asked for of a `Text` with its `Scores`, lists (N,). counts: `WordCounts`, if they are known."""
    tokenizer, unit = text.tokenizer, getattr(args, "unit", None)
    dialect = None if "format" in args.given else text.dialect          # a table's columns go back as they came
    if not getattr(args, "parts", False):
        text, scores = typed_words(text, scores)
    if args.per_token and getattr(args, "predictors", False):
        rows = list(predictor_rows(*whole_words(text, scores), unit, counts, tokenizer, args.spillover))
        warn_of_frequencies(rows, counts)
        write_rows(args.per_token, rows, args.format, dialect)
    elif args.per_token:
        rows_of = (text, scores) if args.format in PLAIN else whole_words(text, scores)
        warn_of_empty_lines(args.format, rows_of[0])
        write_rows(args.per_token, FORMATS[args.format](*rows_of, unit), args.format, dialect)
    if args.per_sentence:
        write_rows(args.per_sentence, sentence_rows(text, scores.logprobs, unit), args.format, dialect)
    if args.html:
        with writing(args.html) as file:
            file.write(page.page(text, scores.logprobs, scores.ranks, title))


def warn_of_empty_lines(format_name, text):
    """Say on stderr which lines have no row in neural-complexity's format, where <eos> has none."""
    empty = sum(end and before for end, before in zip(text.ends, [True, *text.ends]))
    if empty and format_name == "neural-complexity":
        print(f"| {empty} empty line{'s' * (empty > 1)} without a row in this format; the other lines keep their "
              "numbers", file=sys.stderr)


def written(args):
    """The files that were written, for the last line of a script -> {flag: file}."""
    return {name: file for name, file in asked_for(args).items() if file != "-"}
