"""What a user asks to have written of a scored text: its words, its lines, a page.

N tokens.
"""
from evaluation import page
from evaluation.text import check_outputs, sentence_rows, token_rows, write_rows, writing
from runtime.errors import InputError
from runtime.options import Flag

NAMES = ("per_token", "per_sentence", "html")      # flags with a file to write
FLAGS = (
    Flag("per_token", None, "write every word, its log-probability in nats and, of one model, its rank",
         metavar="FILE"),
    Flag("per_sentence", None, "write every line, its log-probability and perplexity", metavar="FILE"),
    Flag("format", "tsv", "of these two; - is standard output", choices=("tsv", "json")),
    Flag("html", None, "write a page with every word shaded by its surprisal", metavar="FILE"),
)


def asked_for(args):
    """The files to be written -> {flag: file}."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name)}


def check(args, inputs, is_one_text, how):
    """Say now, not after the work, that an output cannot be written. inputs: files that none may stand in for.

    how: which flags choose one text.
    """
    files = asked_for(args)
    if files and not is_one_text:
        raise InputError(f"--per-token, --per-sentence and --html are of one text: choose it with {how}")
    check_outputs(files.values(), inputs)


def write(args, text, logprobs, ranks, title):
    """Write what was asked for of a `Text`. logprobs: of its N words, in nats; ranks: of them, or None."""
    if args.per_token:
        write_rows(args.per_token, token_rows(text, logprobs, ranks), args.format)
    if args.per_sentence:
        write_rows(args.per_sentence, sentence_rows(text, logprobs), args.format)
    if args.html:
        with writing(args.html) as file:
            file.write(page.page(text, logprobs, ranks, title))


def written(args):
    """The files that were written, for the last line of a script -> {flag: file}."""
    return {name: file for name, file in asked_for(args).items() if file != "-"}
