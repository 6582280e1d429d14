"""Fine-tune a trained model: averaged SGD from its first step (Merity et al. 2018, section 5).

Reads the checkpoint that --save names and keeps it. The fine-tuned model is a file of its own beside it:
PTB.pt becomes PTB.finetuned.pt. Flags of the model and its data that are not given are those of the checkpoint.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

from contextlib import suppress

import checkpoint
from model import count_parameters, model_flags
from nt_asgd import NTASGD
from runtime import options
from runtime.errors import InputError
from runtime.log import log, warn
from runtime.options import flags_of
from runtime.run_files import Files
from training import schedules, settings
from training.optimizers import own_decay
from training.reports import report_test
from training.run import Run
from training.start import start
from training.stopping import running


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("data", options.DATA)
    parser.add("model", model_flags())
    parser.add("optimisation", flags_of(settings.TrainingConfig, lr={"default": 30.0, "help": "learning rate"},
                                        max_seq_len_delta={"default": 10}))
    settings.add_running(parser)
    parser.add("files", [options.save("fine-tune the model in FILE, which stays as it is; the fine-tuned model goes to "
                                      "NAME.finetuned.pt, its state and log beside it")])
    return parser


def is_of_another(files, source):
    """Whether the run that `--resume auto` would continue was begun with another model than `source`, its contents."""
    for path in files.state, files.previous:
        with suppress(InputError):                                 # missing or damaged: then the one before it counts
            return checkpoint.made_of(path) not in (None, checkpoint.digest(source))
    return False


def main(argv=None):
    parser = make_parser()
    args = options.parse(parser, argv)
    source, files = checkpoint.load(args.save), Files(args.save, "finetuned")
    anew = args.resume == "auto" and is_of_another(files, source)
    args = args.replaced(resume=None) if anew else args
    args, compute, group, corpus, resumed = start(parser, args, source, "finetuned")
    if anew:
        warn(f"{files.state} is of another model than {args.save} is now: fine-tuning begins anew")
    made_of = resumed and checkpoint.made_of(resumed[0])
    args = args.replaced(**{checkpoint.MADE_OF: made_of or checkpoint.digest(source)})
    model = checkpoint.restore({**source, "settings": vars(args)}, args.save, compute, training=True)
    optimizer = NTASGD(model.parameters(), lr=args.lr, weight_decay=own_decay(vars(args)))
    group.seed_rank(args.seed)
    log(f"| fine-tuning {args.save} ({count_parameters(model):,} parameters, on {compute}) into {files.best}")

    run = Run(args, compute, files, model, optimizer, corpus, resumed, group=group,
              words_before=checkpoint.words_seen(source))
    with running(run):
        if not resumed:
            schedules.average(run, "from the first step of fine-tuning")
        if not (run.progress.history or run.progress.batch):       # also where it was stopped in doing this
            run.keep_initial()
        for _ in run.epochs():
            run.train_epoch()
            run.validate()
            if run.progress.stalled():
                run.progress.finished = True
                log(f"| fine-tuning ends: {run.progress.why_stalled()}")
            run.end_epoch()
        report_test(run)
    return run.status


if __name__ == "__main__":
    errors.run(main)
