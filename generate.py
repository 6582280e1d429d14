"""Sample text from a trained model: each next word from its softmax, then fed back. The checkpoint is all it needs."""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import itertools
import sys
import time

import torch

from checkpoint import open_model
from data import EOS, UNK
from evaluation.loss import evaluating
from runtime import options
from runtime.errors import InputError
from runtime.options import Flag
from runtime.paths import check_output


def next_word(logprobs, temperature, top_k=0):
    """Draw an id from `logprobs` (V,), sharpened (temperature < 1) or flattened, of the `top_k` likeliest if not 0."""
    logits = logprobs / temperature
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return torch.multinomial(logits.softmax(0), 1).item()


def sample(model, prompt, words, temperature, top_k=0):
    """Yield `words` ids that go on from `prompt`, a list of at least one id."""
    device = model.encoder.weight.device
    with evaluating(model):
        hidden = model.init_hidden(1)
        data = torch.tensor(prompt, device=device)[:, None]                            # (T, 1)
        for _ in range(words):
            features, hidden = model(data, hidden)                                     # (T, E)
            logprobs = model.logprob(features[-1:])                                    # (1, V)
            word = next_word(logprobs[0].float().cpu(), temperature, top_k)
            yield word
            data = torch.tensor([[word]], device=device)                               # (1, 1)


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
