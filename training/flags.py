"""The flags of a training run, as main.py takes them and tune.py searches them."""
from model import model_flags
from runtime import options
from runtime.options import Flag
from training import optimizers, schedules

NO_TEST = Flag("test", True, "score the test text when training has ended, and write NAME.result.json", bool)


def add_to(parser):
    """Add them to a Parser -> it."""
    parser.add("data", options.DATA)
    parser.add("model", model_flags())
    parser.add("optimisation", options.optimisation(None, "learning rate; if not given, the optimizer's own", 40))
    parser.add("schedule", options.schedule(optimizers.OPTIMIZERS, schedules.SCHEDULES, schedules.ON_STALL))
    parser.add("running", (*options.running(), *options.TRAINING, *options.RECIPE, NO_TEST))
    parser.add("stopping and continuing", (*options.STOPPING, *options.BAD_STEPS))
    return parser.add("files", [options.save("the best model goes to FILE, the state to continue from to NAME.state.pt "
                                             "beside it, one line of JSON per epoch to NAME.jsonl")])
