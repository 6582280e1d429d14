"""The command line, said once: groups of flags that the scripts share.

`parse` accepts `--batch_size` for `--batch-size`, abbreviations (`--epoch`), and tells what the user typed from
what is a default, so that a checkpoint's settings can stand in for flags nobody gave.
"""
import argparse
import math
import sys

from corpus_cache import default_cache
from errors import InputError

ARCHITECTURE = ("model", "emsize", "nhid", "nlayers", "tied", "cutoffs")
INHERITED = (*ARCHITECTURE, "data", "vocab", "dropout", "dropouth", "dropouti", "dropoute", "wdrop", "dropoutr",
             "alpha", "beta", "wdecay", "clip", "batch_size", "eval_batch_size", "bptt", "variable_bptt", "precision")
KEPT = (*INHERITED, "lr", "epochs", "max_seq_len_delta", "nonmono", "optimizer", "when", "on_stall", "decay",
        "decay_from", "beta2", "one_cycle", "momentum", "seed")


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and with `_` and `-` alike in the names of flags."""

    def __init__(self, description, **kwargs):
        super().__init__(description=description, formatter_class=_Help, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        words = [_hyphenated(arg) for arg in (sys.argv[1:] if args is None else args)]
        namespace, rest = super().parse_known_args(words, namespace)
        cutoffs = getattr(namespace, "cutoffs", None)
        if isinstance(cutoffs, list) and sorted(set(cutoffs)) != cutoffs:
            self.error(f"argument --cutoffs: {shown(cutoffs)} does not grow from cut to cut")
        return namespace, rest

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _hyphenated(arg):
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value


def parse(parser, argv=None):
    """The flags as a namespace; `given` in it holds the names of those that the user typed."""
    args = parser.parse_args([])
    unset = object()
    typed = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), unset)))
    typed = {name: value for name, value in vars(typed).items() if value is not unset}
    return argparse.Namespace(**{**vars(args), **typed}, given=set(typed))


def inherit(args, settings, path, names=INHERITED):
    """Put a checkpoint's `settings` in place of the flags in `names` that the user did not type.

    Raises InputError where the user typed another architecture than the checkpoint at `path` has.
    """
    for name in names:
        if name in ARCHITECTURE and name in args.given and getattr(args, name) != settings[name]:
            raise InputError(f"{path} was trained with {flag_of(name)} {shown(settings[name])}, the command line asks "
                             f"for {shown(getattr(args, name))}; leave the flag out or use another checkpoint")
        if name not in args.given and name in settings:
            setattr(args, name, settings[name])


def settings(args):
    """The flags as a plain dict, fit for a checkpoint or a line of JSON."""
    return {name: value for name, value in vars(args).items() if name not in ("given", "cuda", "resume")}


def checked(settings, path):
    """A checkpoint's settings, put through the same checks as flags that are typed -> dict of KEPT.

    Raises InputError naming the file.
    """
    parser = Parser("", add_help=False)
    parser.error = lambda message: _reject(path, message)
    for add in (add_data, add_architecture, add_regularisation, add_optimisation, add_schedule, add_running):
        add(parser)
    words = [word for name in KEPT if settings.get(name) is not None for word in as_flag(name, settings[name])]
    clean = vars(parser.parse_args(words))
    if not {*ARCHITECTURE} <= {*settings} or clean["cutoffs"] is None:
        _reject(path, "it does not say what architecture the model has")
    return {name: clean[name] for name in KEPT if name in INHERITED or name in settings}


def _reject(path, message):
    raise InputError(f"{path} is damaged: {' '.join(message.split())}")


def as_flag(name, value):
    """A setting as words of a command line."""
    flag = flag_of(name)
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag[2:]]
    return [flag, *map(str, value)] if isinstance(value, list) else [f"{flag}={value}"]


def flag_of(name):
    return "--" + name.replace("_", "-")


def shown(value):
    return " ".join(map(str, value)) or "(none)" if isinstance(value, list) else str(value)


# Values. Each says in one line what it wants; argparse names the flag.

def number(text, kind, accepts, wanted):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not math.isfinite(value) or not accepts(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def probability(text):
    return number(text, float, lambda p: 0 <= p < 1, "a probability in [0, 1)")


def weight(text):
    return number(text, float, lambda p: 0 <= p <= 1, "a number in [0, 1]")


def positive(text):
    return number(text, float, lambda x: x > 0, "a positive number")


def non_negative(text):
    return number(text, float, lambda x: x >= 0, "a number of at least 0")


def size(text):
    return number(text, int, lambda n: 0 < n < 2**31, "a positive whole number")


def width(text):
    return number(text, int, lambda n: 0 < n <= 10**6, "a whole number from 1 to 1,000,000")


def count(text):
    return number(text, int, lambda n: 0 <= n < 2**31, "a whole number of at least 0")


def epoch(text):
    return number(text, int, lambda n: n == -1 or n > 0, "an epoch (a positive whole number, or -1 for never)")


def seed(text):
    return number(text, int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1")


# Groups, in the order in which --help shows them.

def add_save(parser, what):
    group = parser.add_argument_group("files")
    group.add_argument("--save", default="model.pt", metavar="FILE", help=what)
    return group


def add_checkpoint(parser):
    """For scripts that read a trained model."""
    group = parser.add_argument_group("model")
    group.add_argument("--save", default="model.pt", metavar="FILE",
                       help="the model that main.py saved; its fine-tuned version is read if there is one")
    group.add_argument("--checkpoint", metavar="FILE", help="read exactly this model instead")


def add_data(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="data/penn", metavar="FOLDER",
                       help="folder with train.txt, valid.txt and test.txt, or `demo`: a corpus made from Python's "
                            "own documentation")
    group.add_argument("--vocab", choices=["all", "train"], default="all",
                       help="words of all three texts, as in published figures, or of the training text alone with "
                            "<unk> for the rest")
    add_cache(group)
    return group


def add_cache(group):
    group.add_argument("--cache", default=default_cache(), metavar="FOLDER",
                       help="where tokenised corpora are kept; `none` keeps nothing")


def add_neural_cache(parser):
    """For scripts that can mix the words seen lately into the model's predictions."""
    group = parser.add_argument_group("neural cache")
    group.add_argument("--window", type=size, default=3785, metavar="N", help="positions the cache holds")
    group.add_argument("--theta", type=non_negative, default=0.6625523432485668, metavar="X",
                       help="how much the cache prefers similar positions")
    group.add_argument("--lambdasm", type=weight, default=0.12785920428335693, metavar="X",
                       help="share of the cache in the mixture")
    return group


def add_architecture(parser):
    group = parser.add_argument_group("model")
    group.add_argument("--model", choices=["LSTM", "GRU", "QRNN"], default="LSTM", help="recurrent cell")
    group.add_argument("--emsize", type=width, default=400, metavar="N", help="width of word vectors")
    group.add_argument("--nhid", type=width, default=1150, metavar="N", help="hidden units per layer")
    group.add_argument("--nlayers", type=width, default=3, metavar="N", help="recurrent layers")
    group.add_argument("--tied", action=argparse.BooleanOptionalAction, default=True,
                       help="decoder and encoder share one matrix")
    group.add_argument("--cutoffs", type=size, nargs="*", metavar="N",
                       help="adaptive softmax: where the vocabulary, sorted by frequency, is cut; without numbers the "
                            "full softmax. If not given: 4200 35000 180000 for more than 500,000 words, 2800 20000 "
                            "76000 for more than 75,000, else full")


def add_regularisation(parser):
    group = parser.add_argument_group("regularisation")
    for name, default, what in [("dropout", 0.4, "the last layer's output"),
                                ("dropouth", 0.3, "the output of the layers below"),
                                ("dropouti", 0.65, "the embedded input"),
                                ("dropoute", 0.1, "whole words of the input"),
                                ("wdrop", 0.5, "the hidden-to-hidden weights; of a QRNN, on all its layers' weights"),
                                ("dropoutr", 0.0, "the state that the hidden-to-hidden weights are multiplied by, one "
                                                  "mask for a window (Gal and Ghahramani's)")]:
        group.add_argument(f"--{name}", type=probability, default=default, metavar="P", help=f"dropout on {what}")
    group.add_argument("--alpha", type=non_negative, default=2, metavar="X",
                       help="AR: weight of the squared activations")
    group.add_argument("--beta", type=non_negative, default=1, metavar="X",
                       help="TAR: weight of their squared change from step to step")
    group.add_argument("--wdecay", type=non_negative, default=1.2e-6, metavar="X", help="weight decay")


def add_optimisation(parser, lr=None, lr_help="", max_seq_len_delta=0):
    group = parser.add_argument_group("optimisation")
    group.add_argument("--lr", type=positive, default=lr, metavar="X", help=lr_help)
    group.add_argument("--clip", type=non_negative, default=0.25, metavar="X",
                       help="largest gradient norm, 0 for none")
    group.add_argument("--epochs", type=count, default=8000, metavar="N", help="upper limit of epochs")
    group.add_argument("--batch-size", type=size, default=80, metavar="N", help="columns read side by side")
    group.add_argument("--bptt", type=size, default=70, metavar="N", help="mean window length in tokens")
    group.add_argument("--variable-bptt", action=argparse.BooleanOptionalAction, default=True,
                       help="draw each window's length; --no-variable-bptt makes all of them bptt long")
    group.add_argument("--max-seq-len-delta", type=count, default=max_seq_len_delta, metavar="N",
                       help="no window is longer than bptt plus this")
    group.add_argument("--nonmono", type=count, default=5, metavar="N",
                       help="patience in epochs of the rule that detects a stalled validation loss")
    group.add_argument("--eval-batch-size", type=size, default=10, metavar="N",
                       help="columns in validation during training; the test reads one")
    return group


def add_schedule(parser):
    group = parser.add_argument_group("schedule")
    group.add_argument("--optimizer", choices=["sgd", "adam", "adagrad"], default="sgd",
                       help="sgd with --lr 30, adam with 0.001, adagrad with 0.2, if that is not given")
    group.add_argument("--on-stall", choices=["average", "halve", "nothing"], default="average",
                       help="what sgd does once the validation loss stalls: average the weights from then on "
                            "(NT-ASGD), halve the learning rate, each time anew, or nothing")
    group.add_argument("--decay", type=positive, default=1.0, metavar="X",
                       help="divide the learning rate by X after each epoch from --decay-from on")
    group.add_argument("--decay-from", type=size, default=1, metavar="EPOCH", help="first epoch that --decay is for")
    group.add_argument("--beta2", type=probability, default=0.999, metavar="X", help="of adam")
    group.add_argument("--one-cycle", type=non_negative, nargs=4, metavar="E",
                       help="adam's learning rate in four phases of so many epochs: from a tenth up to --lr, "
                            "there, back, and down to a thousandth; --epochs is then their sum if not given")
    group.add_argument("--momentum", type=probability, nargs=2, default=[0.8, 0.7], metavar="X",
                       help="adam's beta1 in one cycle: at its ends, and at the full learning rate")
    group.add_argument("--when", type=epoch, nargs="+", default=[-1], metavar="EPOCH",
                       help="divide the learning rate by 10 after these epochs")


def add_stopping(parser):
    group = parser.add_argument_group("stopping and continuing")
    group.add_argument("--resume", metavar="FILE", help="continue exactly where the run that wrote FILE was; `auto` "
                       "continues the run of this --save if there is one and starts it if not")
    group.add_argument("--checkpoint-minutes", type=positive, default=10, metavar="M",
                       help="save the state this often, besides at the end of an epoch (of some epochs, where they are "
                            "so short that saving would take more than a twentieth of the time)")
    group.add_argument("--max-minutes", type=positive, metavar="M", help="stop after M minutes with everything saved")
    return group


def add_bad_steps(group):
    group.add_argument("--max-bad-steps", type=size, default=20, metavar="N",
                       help="stop after N steps in a row whose loss or gradient is not finite (they are skipped)")


def add_running(parser, log_interval=200, log_what="batches"):
    group = parser.add_argument_group("running")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to compute")
    group.add_argument("--precision", choices=["auto", "fp32", "tf32", "bf16"], default="auto",
                       help="numbers that matrix products multiply; sums, weights and the loss are fp32 in any case, "
                            "states but for bf16 on CUDA. auto: bf16 on a CPU with matrix units for it (AMX), tf32 on "
                            "GPUs that have it, else fp32; scripts that read a model take the one it was trained in")
    group.add_argument("--cuda", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    group.add_argument("--seed", type=seed, default=1111, metavar="N", help="of all random numbers")
    group.add_argument("--log-interval", type=size, default=log_interval, metavar="N",
                       help=f"{log_what} between log lines")
    return group


def add_recipe(group):
    group.add_argument("--recipe", metavar="NAME", help="under what name results/table.py counts this run")
    return group


def add_graphs(group):
    """For scripts that train."""
    group.add_argument("--tensorboard", metavar="FOLDER", help="write the curves there for TensorBoard, too")
    group.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True,
                       help="on CUDA, replay steps as CUDA graphs; --no-graphs computes the same, more slowly. The "
                            "adaptive softmax has none")
    return group
