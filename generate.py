"""Sample text from a trained model: each next word from its softmax, then fed back. The checkpoint is all it needs."""
import sys
import time

import torch

import checkpoint
import engine
import errors
import hardware
import options
from data import EOS, UNK
from errors import InputError


def next_word(logprobs, temperature, top_k=0):
    """Draw an id from `logprobs` (V,), sharpened (temperature < 1) or flattened, of the `top_k` likeliest if not 0."""
    logits = logprobs / temperature
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return torch.multinomial(logits.softmax(0), 1).item()


def sample(model, criterion, prompt, words, temperature, top_k=0):
    """Yield `words` ids that go on from `prompt`, a list of at least one id."""
    device, decoder = model.encoder.weight.device, model.decoder
    with engine.evaluating(model):
        hidden = model.init_hidden(1)
        data = torch.tensor(prompt, device=device)[:, None]                            # (T, 1)
        for _ in range(words):
            features, hidden = model(data, hidden)                                     # (T, E)
            logprobs = criterion.logprob(decoder.weight, decoder.bias, features[-1:])  # (1, V)
            word = next_word(logprobs[0].float().cpu(), temperature, top_k)
            yield word
            data = torch.tensor([[word]], device=device)                               # (1, 1)


def encode(prompt, vocabulary):
    """A prompt's words as ids; words the model does not know are read as `<unk>` if it has that."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    unknown = sorted({word for word in prompt.split() if word not in ids})
    if unknown and UNK not in ids:
        raise InputError(f"the model does not know {', '.join(unknown)}; use words of its vocabulary in --prompt")
    if unknown:
        print(f"the model does not know {', '.join(unknown)}: read as {UNK}", file=sys.stderr)
    return [ids.get(word, ids.get(UNK)) for word in prompt.split()]


def make_parser():
    parser = options.Parser(__doc__)
    options.add_checkpoint(parser)
    group = parser.add_argument_group("text")
    group.add_argument("--words", type=options.size, default=1000, metavar="N", help="words to generate")
    group.add_argument("--temperature", type=options.positive, default=1.0, metavar="X",
                       help="below 1 safer, above 1 wilder")
    group.add_argument("--top-k", type=options.count, default=0, metavar="K",
                       help="draw from the K likeliest words only, 0 from all")
    group.add_argument("--prompt", default="", metavar="TEXT", help="words to go on from, the start of the text")
    group.add_argument("--outf", default="generated.txt", metavar="FILE", help="where to write; - is standard output")
    options.add_running(parser, log_interval=100, log_what="words")
    return parser


def main(argv=None):
    args = options.parse(make_parser(), argv)
    path = checkpoint.choose(args)
    contents = checkpoint.load(path)
    options.inherit(args, contents["settings"], path, ("precision",))
    device = hardware.prepare(args)
    model, criterion = checkpoint.restore(contents, path, device, args.precision)
    vocabulary = contents["vocabulary"]
    prompt = encode(args.prompt, vocabulary)
    start = vocabulary.index(EOS) if EOS in vocabulary else 0   # a text begins where a line has ended

    print(f"| reading {path}, on {device} in {args.precision}", file=sys.stderr)
    began = time.monotonic()
    with open(sys.stdout.fileno() if args.outf == "-" else args.outf, "w", encoding="utf-8",
              closefd=args.outf != "-") as out:
        for word in prompt:
            write(out, vocabulary[word])
        for n, word in enumerate(sample(model, criterion, [start, *prompt], args.words, args.temperature,
                                        args.top_k), start=1):
            write(out, vocabulary[word])
            if n % args.log_interval == 0:
                print(f"| generated {n}/{args.words} words", file=sys.stderr)
        out.write("\n")
    print(f"| summary | {args.words} words in {time.monotonic() - began:.1f} s"
          + ("" if args.outf == "-" else f" | text {args.outf}"), file=sys.stderr)


def write(out, word):
    """Words with a space after each; a line ends where the model ends it."""
    out.write(word + ("\n" if word == EOS else " "))


if __name__ == "__main__":
    errors.run(main)
