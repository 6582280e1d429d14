"""The flags of a training run, as main.py takes them and tune.py searches them."""
from model import model_flags
from runtime import options
from runtime.options import RUN, Flag
from runtime.values import epoch, positive, size
from training.optimizers import OPTIMIZERS
from training.schedules import ON_STALL, SCHEDULES

TRAINING = (
    Flag("tensorboard", None, "write the curves there for TensorBoard, too", metavar="FOLDER"),
    options.GRAPHS,
)

BAD_STEPS = (Flag("max_bad_steps", 20, "stop after N steps in a row whose loss or gradient is not finite (they are "
                  "skipped)", size, "N"),)

NO_TEST = Flag("test", True, "score the test text when training has ended, and write NAME.result.json", bool)


def schedule():
    """How training goes."""
    rates = ", ".join(f"{name} {entry.lr:g}" for name, entry in OPTIMIZERS.items())
    return (
        Flag("optimizer", "sgd", f"optimizer; --lr, if not given, is: {rates}", choices=tuple(OPTIMIZERS), kept=RUN),
        Flag("on_stall", "average", "what follows once the validation loss stalls: average the weights from then on "
             "(NT-ASGD; sgd and averaged-adam only), halve the learning rate or divide it by --stall-divisor, each "
             "time anew, or nothing", choices=tuple(ON_STALL), kept=RUN),
        Flag("stall_divisor", 10.0, "what --on-stall divide divides by", positive, "X", kept=RUN),
        Flag("stall_by", None, "where the validation loss has not stalled before, it counts as stalled after epoch N",
             size, "N", kept=RUN),
        Flag("average_from", None, "average the weights after epoch N at the latest (sgd and averaged-adam only)", size,
             "N", kept=RUN),
        Flag("decay", 1.0, "divide the learning rate by X after each epoch from --decay-from on", positive, "X",
             kept=RUN),
        Flag("decay_from", 1, "first epoch that --decay is for", size, "EPOCH", kept=RUN),
        *options.own_flags(OPTIMIZERS), *options.own_flags(SCHEDULES),
        Flag("when", [-1], "divide the learning rate by 10 after these epochs", epoch, "EPOCH", nargs="+", kept=RUN),
    )


def add_to(parser):
    """Add them to a Parser -> it."""
    parser.add("data", options.DATA)
    parser.add("model", model_flags())
    parser.add("optimisation", options.optimisation(None, "learning rate; if not given, the optimizer's own", 40))
    parser.add("schedule", schedule())
    parser.add("running", (*options.running(), *TRAINING, *options.RECIPE, NO_TEST))
    parser.add("stopping and continuing", (*options.STOPPING, *BAD_STEPS))
    return parser.add("files", [options.save("the best model goes to FILE, the state to continue from to NAME.state.pt "
                                             "beside it, one line of JSON per epoch to NAME.jsonl")])
