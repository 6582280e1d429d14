"""The settings of a training run: flags of main.py, finetune.py and tune.py, and of bench.py those of a step."""
from dataclasses import dataclass

from checkpoint import KeptTraining
from model import model_flags
from runtime import options
from runtime.errors import InputError
from runtime.options import RUN, Flag, flags_of, own_flags, setting
from runtime.values import count, epoch, positive, size, words
from training.optimizers import OPTIMIZERS
from training.schedules import ON_STALL, SCHEDULES

SCHEDULE, RUNNING, STOPPING = "schedule", "running", "stopping and continuing"      # groups in --help
NO_TEST = Flag("test", True, "scoring of the test text when training has ended, into NAME.result.json", bool)


def _help_of_optimizer():
    rates = ", ".join(f"{name} {entry.lr:g}" for name, entry in OPTIMIZERS.items())
    return f"optimizer; --lr, if not given, is: {rates}"


@dataclass(frozen=True)
class TrainingConfig(KeptTraining):
    """How a run trains. Each field is the flag of its name, here with main.py's default.

    What makes a model is in `model.ModelConfig`, flags of one optimizer or one schedule are at its entry, and those
    that scripts without training have, too, in `runtime.options`. finetune.py and bench.py do not take all of them.
    """
    lr: float | None = setting(None, "learning rate; if not given, the optimizer's own", positive, "X", kept=RUN)
    epochs: int = setting(8000, "upper limit of epochs", count, "N", kept=RUN)
    turn_steps: int | None = setting(
        None, "training steps between validations, a turn, instead of an epoch; what other flags say of epochs is then "
        "of turns. The text is read on from turn to turn", size, "N", kept=RUN)
    max_seq_len_delta: int = setting(40, "largest length of a window beyond bptt", count, "N", kept=RUN)
    nonmono: int = setting(5, "patience in epochs of the rule that detects a stalled validation loss", count, "N",
                           kept=RUN)
    patience: int | None = setting(None, "epochs without a new lowest validation loss that count as a stall, instead "
                                   "of that rule", size, "N", kept=RUN)

    optimizer: str = setting("sgd", _help_of_optimizer, choices=OPTIMIZERS, group=SCHEDULE, kept=RUN)
    on_stall: str = setting(
        "average", "reaction to a stalled validation loss: averaging of the weights from then on (NT-ASGD; sgd and "
        "averaged-adam only), halving of the learning rate or its division by --stall-divisor, each time anew, or none",
        choices=ON_STALL, group=SCHEDULE, kept=RUN)
    stall_divisor: float = setting(10.0, "divisor of the learning rate under --on-stall divide", positive, "X",
                                   group=SCHEDULE, kept=RUN)
    stall_by: int | None = setting(None, "epoch after which the validation loss counts as stalled, if it has not "
                                   "stalled before", size, "N", group=SCHEDULE, kept=RUN)
    average_from: int | None = setting(None, "epoch after which weights are averaged at the latest (sgd and "
                                       "averaged-adam only)", size, "N", group=SCHEDULE, kept=RUN)
    decay: float = setting(1.0, "divisor of the learning rate after each epoch from --decay-from on", positive, "X",
                           group=SCHEDULE, kept=RUN)
    decay_from: int = setting(1, "first epoch that --decay is for", size, "EPOCH", group=SCHEDULE, kept=RUN)
    when: list[int] = setting([-1], "epochs after which the learning rate is divided by 10", epoch, "EPOCH",
                              group=SCHEDULE, nargs="+", kept=RUN)

    save_at_words: list[int] | None = setting(
        None, "numbers of words between white space of the training text, every reading counted, after which the "
        "model, as it is evaluated then, is also saved as NAME.1M.pt; 99% are enough at the end", words, "N",
        group=RUNNING, nargs="+", kept=RUN)
    tensorboard: str | None = setting(None, "folder for the curves in TensorBoard's format", metavar="FOLDER",
                                      group=RUNNING)
    max_bad_steps: int = setting(20, "steps in a row whose loss or gradient is not finite, and which are skipped, that "
                                 "end a run", size, "N", group=STOPPING)


def add_to(parser):
    """Add the flags of main.py to a Parser -> it."""
    parser.add("data", options.DATA)
    parser.add("model", model_flags())
    parser.add("optimisation", flags_of(TrainingConfig))
    parser.add(SCHEDULE, (*flags_of(TrainingConfig, SCHEDULE), *own_flags(OPTIMIZERS), *own_flags(SCHEDULES)))
    add_running(parser, NO_TEST)
    return parser.add("files", [options.save("file of the best model; beside it NAME.state.pt, the state to continue "
                                             "from, and NAME.jsonl, one line of JSON per epoch")])


def add_running(parser, *others):
    """Add the flags that say how training runs, and how it is stopped and continued. others: more of the former."""
    running = (*options.running(), *flags_of(TrainingConfig, RUNNING), options.GRAPHS, *options.RECIPE, *others)
    parser.add(RUNNING, running)
    parser.add(STOPPING, (*options.STOPPING, *flags_of(TrainingConfig, STOPPING)))


def check(args, processes):
    """Raise InputError for flags that contradict each other, or the number of processes."""
    if args.batch_size < processes:
        raise InputError(f"--batch-size {args.batch_size} is less than the number of processes ({processes}); use a "
                         "larger one, or fewer processes")
    if args.partial_shuffle and args.read_on:
        raise InputError("--partial-shuffle begins each stream elsewhere in every epoch, --read-on in none; leave one "
                         "of them out")
    if "nonmono" in args.given and args.patience:
        raise InputError("--patience takes the place of --nonmono; leave one of them out")
