"""The command `awd-lstm`: its subcommands are the scripts of the project."""
from runtime import errors

errors.prepare_process()               # before torch is imported, as when a script is run

import importlib  # noqa: E402
import sys  # noqa: E402

from runtime import program  # noqa: E402

SCRIPTS = {                                                      # and the first line of what each says of itself
    "bench": "How fast: a training step and its parts, saving, every way to evaluate, loading a corpus; and against a "
             "plain model.",
    "dynamiceval": "Dynamic evaluation of a trained model (Krause et al. 2018): it goes on learning from the "
                   "text it is evaluated on.",
    "ensemble": "Several models, mixed in probability: p = sum_k w_k p_k, with equal weights or those that are "
                "best on validation.",
    "evaluate": "Score a text by a trained model: perplexity, and for each word how likely the model found it.",
    "export": "Models for other programs, and from them.",
    "finetune": "Fine-tune a trained model: averaged SGD from its first step (Merity et al. 2018, section 5).",
    "generate": "Sample text from a trained model: each next word from its softmax, then fed back. The "
                "checkpoint is all it needs.",
    "main": "Train an AWD-LSTM language model: SGD, then averaging when validation stalls (Merity et al. 2018).",
    "pointer": "The neural cache over a trained model (Grave et al. 2017): the words seen lately become likelier.",
    "prepare": "Make a corpus of one's own text: train.txt, valid.txt and test.txt in tokens, and the tokenizer "
               "beside them.",
    "tune": "Search the settings of main.py: which values of its flags give the lowest validation loss.",
}
SUBCOMMANDS = {program.RENAMED.get(script, script): script for script in SCRIPTS}
PACKAGE = errors.__name__.removesuffix("runtime.errors")         # "" in the repository, "awd_lstm." installed


def usage():
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {SCRIPTS[script]}" for name, script in sorted(SUBCOMMANDS.items())]
    return "\n".join([f"usage: {program.COMMAND} SUBCOMMAND ...", "", *lines, "",
                      f"{program.COMMAND} SUBCOMMAND --help lists the flags of one."])


def main():
    asked, *words = sys.argv[1:] or [""]
    if asked in ("-h", "--help"):
        print(usage())
        return 0
    if asked not in SUBCOMMANDS:
        print(f"{program.COMMAND}: error: " + (f"there is no subcommand {asked!r}" if asked else "name a subcommand")
              + f"; use one of {', '.join(sorted(SUBCOMMANDS))}", file=sys.stderr)
        return 2
    return errors.run(lambda: importlib.import_module(PACKAGE + SUBCOMMANDS[asked]).main(words))
