"""Fine-tune a trained model: averaged SGD from its first step (Merity et al. 2018, section 5).

Reads the checkpoint that --save names and keeps it. The fine-tuned model is a file of its own beside it:
PTB.pt becomes PTB.finetuned.pt. Flags of the model and its data that are not given are those of the checkpoint.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import checkpoint
from data import read_corpus, untrained_unk
from model import count_parameters, model_flags, refuse_unsupported, supports
from nt_asgd import NTASGD
from runtime import devices, options
from runtime.log import log
from runtime.processes import init_distributed
from runtime.run_files import Files
from training import flags
from training.optimizers import own_decay
from training.run import Run
from training.state import continued, find_state


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("data", options.DATA)
    parser.add("model", model_flags())
    parser.add("optimisation", options.optimisation(30.0, "learning rate", 10))
    parser.add("running", (*options.running(), *flags.TRAINING, *options.RECIPE))
    parser.add("stopping and continuing", (*options.STOPPING, *flags.BAD_STEPS))
    parser.add("files", [options.save("fine-tune the model in FILE, which stays as it is; the fine-tuned model goes to "
                                      "NAME.finetuned.pt, its state and log beside it")])
    return parser


def main(argv=None):
    parser = make_parser()
    args = options.parse(parser, argv)
    group = init_distributed()
    contents = checkpoint.load(args.save)
    args = options.inherit(args, contents["settings"], args.save, checkpoint.kept_flags())
    resumed = find_state(args, parser.flags.values(), "finetuned")
    args = continued(args, resumed, parser.flags.values())
    refuse_unsupported(args)
    compute = devices.prepare(args, supports(vars(args)))
    args = args.replaced(device=str(compute.device), precision=compute.precision,
                         **{checkpoint.MADE_OF: checkpoint.digest(contents)})
    corpus = read_corpus(args, checkpoint.vocabulary_of(contents))
    args = args.replaced(**{checkpoint.UNTRAINED_UNK: bool(untrained_unk(args, corpus))})
    model = checkpoint.restore({**contents, "settings": vars(args)}, args.save, compute, training=True)
    optimizer = NTASGD(model.parameters(), lr=args.lr, weight_decay=own_decay(vars(args)))
    group.seed_rank(args.seed)
    files = Files(args.save, "finetuned")
    log(f"| fine-tuning {args.save} ({count_parameters(model):,} parameters, on {compute}) into {files.best}")

    with Run(args, compute, files, model, optimizer, corpus, resumed, group=group,
             words_before=checkpoint.words_seen(contents)) as run:
        if not resumed:
            run.start_averaging("from the first step of fine-tuning")
            run.keep_initial()
        for _ in run.epochs():
            run.train_epoch()
            run.validate()
            run.finished = run.stalled()
            if run.finished:
                log(f"| fine-tuning ends: {run.why_stalled()}")
            run.end_epoch()
        run.report_test()
    return run.status


if __name__ == "__main__":
    errors.run(main)
