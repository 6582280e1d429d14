"""The flags of a training run, as main.py takes them and tune.py searches them."""
from model import model_flags
from runtime import options
from runtime.errors import InputError
from runtime.options import RUN, Flag
from runtime.values import epoch, positive, size, words
from training.optimizers import OPTIMIZERS
from training.schedules import ON_STALL, SCHEDULES

TRAINING = (
    Flag("save_at_words", None, "numbers of words between white space of the training text, every reading counted, "
         "after which the model, as it is evaluated then, is also saved as NAME.1M.pt; 99% are enough at the end",
         words, "N", nargs="+", kept=RUN),
    Flag("tensorboard", None, "folder for the curves in TensorBoard's format", metavar="FOLDER"),
    options.GRAPHS,
)

BAD_STEPS = (Flag("max_bad_steps", 20, "steps in a row whose loss or gradient is not finite, and which are skipped, "
                  "that end a run", size, "N"),)

NO_TEST = Flag("test", True, "scoring of the test text when training has ended, into NAME.result.json", bool)


def schedule():
    """How training goes."""
    rates = ", ".join(f"{name} {entry.lr:g}" for name, entry in OPTIMIZERS.items())
    return (
        Flag("optimizer", "sgd", f"optimizer; --lr, if not given, is: {rates}", choices=tuple(OPTIMIZERS), kept=RUN),
        Flag("on_stall", "average", "reaction to a stalled validation loss: averaging of the weights from then on "
             "(NT-ASGD; sgd and averaged-adam only), halving of the learning rate or its division by --stall-divisor, "
             "each time anew, or none", choices=tuple(ON_STALL), kept=RUN),
        Flag("stall_divisor", 10.0, "divisor of the learning rate under --on-stall divide", positive, "X", kept=RUN),
        Flag("stall_by", None, "epoch after which the validation loss counts as stalled, if it has not stalled before",
             size, "N", kept=RUN),
        Flag("average_from", None,
             "epoch after which weights are averaged at the latest (sgd and averaged-adam only)", size, "N", kept=RUN),
        Flag("decay", 1.0, "divisor of the learning rate after each epoch from --decay-from on", positive, "X",
             kept=RUN),
        Flag("decay_from", 1, "first epoch that --decay is for", size, "EPOCH", kept=RUN),
        *options.own_flags(OPTIMIZERS), *options.own_flags(SCHEDULES),
        Flag("when", [-1], "epochs after which the learning rate is divided by 10", epoch, "EPOCH", nargs="+",
             kept=RUN),
    )


def add_to(parser):
    """Add them to a Parser -> it."""
    parser.add("data", options.DATA)
    parser.add("model", model_flags())
    parser.add("optimisation", options.optimisation(None, "learning rate; if not given, the optimizer's own", 40))
    parser.add("schedule", schedule())
    parser.add("running", (*options.running(), *TRAINING, *options.RECIPE, NO_TEST))
    parser.add("stopping and continuing", (*options.STOPPING, *BAD_STEPS))
    return parser.add("files", [options.save("file of the best model; beside it NAME.state.pt, the state to continue "
                                             "from, and NAME.jsonl, one line of JSON per epoch")])


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
