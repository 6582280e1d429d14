"""Sample text from a trained model: each next word from its softmax, then fed back. The checkpoint is all it needs."""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import itertools
import sys
import time

from checkpoint import open_model
from data import EOS, UNK
from evaluation.generation import sample
from runtime import options
from runtime.errors import InputError
from runtime.options import Flag
from runtime.paths import check_output


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
    parser.add("model", options.READ_MODEL)
    parser.add("text", (
        Flag("words", 1000, "words (tokens of the model) to generate", options.size, "N"),
        Flag("temperature", 1.0, "of the softmax: < 1 sharpens it, > 1 flattens it", options.positive, "X"),
        Flag("top_k", 0, "draw from the K likeliest words only, 0 from all", options.count, "K"),
        Flag("prompt", "", "words to go on from, the start of the text", metavar="TEXT"),
        Flag("outf", "generated.txt", "where to write; - is standard output", metavar="FILE")))
    parser.add("running", options.running(100, "words"))
    return parser


def main(argv=None):
    path, args, vocabulary, compute, model = open_model(options.parse(make_parser(), argv), corpus_flags=())
    prompt = encode(args.prompt, vocabulary)
    if args.outf != "-":
        check_output(args.outf)
    start = vocabulary.index(EOS) if EOS in vocabulary else 0   # a text begins where a line has ended

    print(f"| reading {path}, on {compute}", file=sys.stderr)
    began = time.monotonic()
    with open(sys.stdout.fileno() if args.outf == "-" else args.outf, "w", encoding="utf-8",
              closefd=args.outf != "-") as out:
        ids = sample(model, [start, *prompt], args.words, args.temperature, args.top_k)
        ids = reported(ids, args.words, args.log_interval)
        for text in vocabulary.tokenizer.pieces(vocabulary[i] for i in itertools.chain(prompt, ids)):
            out.write(text)
        out.write("\n")
    print(f"| summary | {args.words} words in {time.monotonic() - began:.1f} s"
          + ("" if args.outf == "-" else f" | text {args.outf}"), file=sys.stderr)


if __name__ == "__main__":
    errors.run(main)
