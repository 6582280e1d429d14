"""Fine-tune a trained model: averaged SGD from its first step (Merity et al. 2018, section 5).

Reads the checkpoint that --save names and keeps it. The fine-tuned model is a file of its own beside it:
PTB.pt becomes PTB.finetuned.pt. Flags that are not given are those the model was trained with.
"""
import checkpoint
import errors
import hardware
import options
import resume
from checkpoint import Files
from corpora import read_corpus
from meter import say
from model import count_parameters
from nt_asgd import NTASGD
from run import Run
from team import join


def make_parser():
    parser = options.Parser(__doc__)
    options.add_data(parser)
    options.add_architecture(parser)
    options.add_regularisation(parser)
    options.add_optimisation(parser, lr=30.0, lr_help="learning rate", max_seq_len_delta=10)
    options.add_recipe(options.add_graphs(options.add_running(parser)))
    options.add_bad_steps(options.add_stopping(parser))
    options.add_save(parser, "fine-tune the model in FILE, which stays as it is; the fine-tuned model goes to "
                             "NAME.finetuned.pt, its state and log beside it")
    return parser


def main(argv=None):
    args = options.parse(make_parser(), argv)
    team = join()
    contents = checkpoint.load(args.save)
    options.inherit(args, contents["settings"], args.save)
    resumed = resume.find(args, "finetuned")
    device = hardware.prepare(args)
    corpus = read_corpus(args, contents["vocabulary"])
    model, criterion = checkpoint.restore({**contents, "settings": vars(args)}, args.save, device, args.precision)
    optimizer = NTASGD([*model.parameters(), *criterion.parameters()], lr=args.lr, weight_decay=args.wdecay)
    team.part_ways(args.seed)
    files = Files(args.save, "finetuned")
    say(f"| fine-tuning {args.save} ({count_parameters(model, criterion):,} parameters, "
        f"on {device} in {args.precision}) into {files.best}")

    with Run(args, files, model, criterion, optimizer, corpus, resumed, team=team) as run:
        if not resumed:
            run.start_averaging("from the first step of fine-tuning")
            run.keep_initial()
        for _ in run.epochs():
            run.train_epoch()
            run.validate()
            run.finished = run.stalled()
            if run.finished:
                say(f"| fine-tuning ends: no better than {args.nonmono} epochs ago and before")
            run.end_epoch()
        run.report_test()
    return run.status


if __name__ == "__main__":
    errors.run(main)
