"""Sample text from a trained model: each next word from its softmax, then fed back. The checkpoint is all it needs."""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)
import argparse
import sys
import time

from checkpoint import open_model
from data import EOS, UNK
from evaluation.generation import sample
from evaluation.text_files import check_outputs, writing
from runtime import options, values
from runtime.errors import InputError
from runtime.log import counted
from runtime.options import Flag

PUBLISHED_DATA = Flag("data", argparse.SUPPRESS, argparse.SUPPRESS)       # there the vocabulary was made from the texts


def reported(ids, words, interval):
    """Yield `ids`; after each `interval` of them a line on stderr."""
    for n, i in enumerate(ids, start=1):
        yield i
        if n % interval == 0:
            print(f"| generated {n}/{words} words", file=sys.stderr)


def encode(prompt, vocabulary):
    """A prompt's words as ids; words the model does not know are read as `<unk>` if it has that."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    words = vocabulary.tokenizer.encode(prompt) if prompt else []
    unknown = sorted({word for word in words if word not in ids})
    if unknown and UNK not in ids:
        raise InputError(f"the model does not know {', '.join(unknown)}; use words of its vocabulary in --prompt")
    if unknown:
        print(f"the model does not know {', '.join(unknown)}: read as {UNK}", file=sys.stderr)
    return [ids.get(word, ids.get(UNK)) for word in words]


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("model", (*options.READ_MODEL, options.PUBLISHED_MODEL, PUBLISHED_DATA))
    parser.add("text", (
        Flag("words", 1000, "words (tokens of the model) to generate", values.size, "N"),
        Flag("samples", 1, "texts that go on from the prompt, an empty line between them", values.size, "N"),
        Flag("temperature", 1.0, "temperature of the softmax: < 1 sharpens it, > 1 flattens it, 0 takes the likeliest "
             "word each time", values.non_negative, "X"),
        Flag("top_k", 0, "number of likeliest words that are drawn from, 0 for all", values.count, "K"),
        Flag("top_p", 1.0, "probability of the likeliest words, together, that are drawn from, 1 for all",
             values.weight, "P"),
        Flag("prompt", "", "words to go on from, the start of the text", metavar="TEXT"),
        *options.READ_WORDS,
        Flag("outf", "generated.txt", "file to write; - is standard output", metavar="FILE")))
    parser.add("running", options.running(100, "words"))
    return parser


def main(argv=None):
    path, args, vocabulary, compute, model = open_model(options.parse(make_parser(), argv), corpus_flags=())
    prompt = encode(args.prompt, vocabulary)
    check_outputs([args.outf], [path])
    behind = "" if not args.prompt or args.prompt[-1].isspace() else vocabulary.tokenizer.separator
    start = vocabulary.index(EOS) if EOS in vocabulary else 0   # a text begins where a line has ended

    print(f"| reading {path}, on {compute}", file=sys.stderr)
    began = time.monotonic()
    with writing(args.outf) as out:
        for number in range(args.samples):
            ids = sample(model, [start, *prompt], args.words, args.temperature, args.top_k, args.top_p)
            if args.outf != "-" or not sys.stdout.isatty():             # where the words themselves show how far it is
                ids = reported(ids, args.words, args.log_interval)
            out.write(("\n\n" if number else "") + args.prompt + behind)
            for text in vocabulary.tokenizer.pieces(vocabulary[i] for i in ids):
                out.write(text)
        out.write("\n")
    print(f"| summary | {counted(args.samples * args.words, 'words')} in {time.monotonic() - began:.1f} s"
          + ("" if args.outf == "-" else f" | text {args.outf}"), file=sys.stderr)


if __name__ == "__main__":
    errors.run(main)
