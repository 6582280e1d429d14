"""Dynamic evaluation of a trained model (Krause et al. 2018): it goes on learning from the text it is evaluated on.

Every segment of a text is scored before anything is learnt from it, and every text begins with the trained weights. The
model's file is not changed.

N tokens.
"""
import itertools
import math
import time

import checkpoint
import engine
import errors
import hardware
import options
import record
from corpora import columns, read_corpus
from dynamic_evaluation import DynamicPass
from errors import InputError
from meter import say
from model import count_parameters
from pointer import cache_logprobs, mean_loss

LEARNING_RATE = {"rms": 5e-5, "sgd": 0.3}
FACTORS = (0.4, 0.7, 1, 1.5, 2.5, 4)          # of the learning rate above, in a search
LAMBDAS = (0.001, 0.002, 0.005)
PLAIN_WINDOW = 200                       # tokens at a time where nothing is learnt: changes memory, not results


def search(reading, column, rule):
    """The learning rate and the decay of the grid with the lowest loss on `column` (N + 1, 1)."""
    losses = {}
    for lr, lamb in itertools.product((LEARNING_RATE[rule] * factor for factor in FACTORS), LAMBDAS):
        losses[lr, lamb] = reading.loss(column, lr, lamb)
        say(f"| lr {lr:.2g} | lamb {lamb:.2g} | {engine.report(losses[lr, lamb], 'search ')}")
    best = min(losses, key=losses.get)
    if math.isinf(losses[best]):
        raise InputError("the model diverges with every setting of the search; try a smaller --lr by hand")
    return best


def make_parser():
    parser = options.Parser(__doc__)
    options.add_checkpoint(parser)
    options.add_data(parser)
    group = parser.add_argument_group("dynamic evaluation")
    group.add_argument("--rule", choices=["rms", "sgd"], default="rms",
                       help="steps and decay scaled by how large a weight's gradient was in training, or all alike")
    group.add_argument("--lr", type=options.non_negative, metavar="X",
                       help="learning rate; {rms} for rms and {sgd} for sgd if not given".format(**LEARNING_RATE))
    group.add_argument("--lamb", type=options.weight, default=0.002, metavar="X",
                       help="how much of the way back to the trained weights every step goes; with rms on average")
    group.add_argument("--epsilon", type=options.positive, default=2e-5, metavar="X",
                       help="added to the root of a gradient's mean square, which rms divides by")
    group.add_argument("--bptt", type=options.size, default=5, metavar="N", help="tokens in a segment")
    group.add_argument("--stat-batch-size", type=options.size, default=100, metavar="N",
                       help="columns in which the training text is read for the gradients' mean squares")
    group.add_argument("--split", choices=["both", "valid", "test"], default="both", help="which text to evaluate on")
    group.add_argument("--search", action="store_true", help="choose lr and lamb from a grid on the validation text")
    group.add_argument("--search-tokens", type=options.size, default=10_000, metavar="N",
                       help="how much of the validation text the search reads, for each of its "
                            f"{len(FACTORS) * len(LAMBDAS)} settings")
    options.add_neural_cache(parser).add_argument(
        "--neural-cache", action="store_true", help="mix the neural cache, as of pointer.py, into the predictions")
    options.add_recipe(options.add_running(parser, log_interval=1000, log_what="segments"))
    options.add_stopping(parser)
    return parser


def main(argv=None):
    args = options.parse(make_parser(), argv)
    path = checkpoint.choose(args)
    contents = checkpoint.load(path)
    options.inherit(args, contents["settings"], path, ("data", "vocab", "precision"))
    args.lr = LEARNING_RATE[args.rule] if args.lr is None else args.lr
    device = hardware.prepare(args)
    corpus = read_corpus(args, contents["vocabulary"])
    model, criterion = checkpoint.restore(contents, path, device, args.precision)
    texts = {split: columns(f"{split}.txt", getattr(corpus, split), 1, args)
             for split in ("valid", "test") if args.split in ("both", split)}
    say(f"| reading {path}, on {device} in {args.precision}")

    result = checkpoint.Files(path, "dynamic").result
    record.remove(result)
    began, found = time.monotonic(), {}
    with DynamicPass(path, args, model, criterion) as reading:
        for split, column in texts.items():
            loss = engine.evaluate(model, criterion, column, PLAIN_WINDOW, reading.interruption.check)
            found[f"{split}_without_dynamic_evaluation"] = record.figures(loss, len(column))
            say(f"| without dynamic evaluation | {engine.report(loss, split + ' ')}")
        if args.rule == "rms":
            reading.gather(columns("train.txt", corpus.train, args.stat_batch_size, args))
        if args.search:
            args.lr, args.lamb = search(
                reading, columns("valid.txt", corpus.valid[:args.search_tokens + 1], 1, args), args.rule)
            say(f"| chosen: --lr {args.lr:g} --lamb {args.lamb:g}")
        for split, column in texts.items():
            features, targets, vocab, speed = reading.stream(split, column, args.lr, args.lamb)
            loss = mean_loss(vocab)
            say(f"| with dynamic evaluation    | {engine.report(loss, split + ' ')} | {speed:.0f} tokens/s")
            if args.neural_cache:
                found[f"{split}_without_cache"] = record.figures(loss, len(column))
                loss = mean_loss(cache_logprobs(features, targets, vocab, args.theta, args.lambdasm, args.window))
                say(f"| and with the neural cache  | {engine.report(loss, split + ' ')}")
            found[split] = {**record.figures(loss, len(column)), "tokens_per_second": speed}
        say("=" * 89, f"| End of dynamic evaluation | {engine.report(loss, split + ' ')}", "=" * 89)
        seconds = time.monotonic() - began
        record.write(result, args, count_parameters(model, criterion), seconds=seconds, **found)
        record.summarise({split: found[split] for split in texts}, seconds, result=result)
    return reading.status


if __name__ == "__main__":
    errors.run(main)
