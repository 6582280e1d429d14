"""What a training run shows: a bar while it reads, a line now and then and at the end of an epoch, the test's figures.
"""
import sys

from tqdm import tqdm

import checkpoint
from evaluation.loss import evaluate
from model import count_parameters
from runtime import record
from runtime.log import log, perplexity, report, rule


def bar_of(progress, done, total, shown):
    """A bar for an epoch, of which `done` of `total` is read; shown: on a terminal."""
    return tqdm(total=total, initial=done, leave=False, disable=not (shown and sys.stderr.isatty()),
                desc=f"{progress.unit} {progress.number}",
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}")


def show_beside(bar, interval):
    """Put the figures of a Meter beside a bar."""
    bar.set_postfix_str(f"ppl {perplexity(interval.loss()):.2f}, {interval.speed():.0f} tokens/s", False)


def log_interval(progress, batches, lr):
    """A line of the batches since the last one; batches: about how many an epoch has."""
    interval = progress.interval
    if interval.batches:
        log(f"| {progress.unit} {progress.number:3d} | {progress.batch:5d}/{max(progress.batch, batches):5d} batches "
            f"| lr {lr:05.5f} | ms/batch {interval.seconds() * 1000 / interval.batches:5.2f} "
            f"| {report(interval.loss())}")


def log_epoch(progress):
    """The lines at the end of an epoch."""
    epoch = progress.history[-1]
    log(rule("-"), f"| end of {progress.unit} {len(progress.history):3d} | time: {epoch['seconds']:5.2f}s "
        f"| {report(epoch['valid_loss'], 'valid ')}", rule("-"))


def report_test(run):
    """Test the best model with batch size 1 from a zero state, log how it did and write the result: rank 0 alone."""
    run.together = False
    if run.group.rank:
        return
    progress, texts, files = run.progress, run.texts, run.files
    model = checkpoint.restore(run.checkpoints.best_contents(), files.best, run.compute)
    loss = evaluate(model, texts.test, run.config.bptt, run.interruption.check)
    log(rule("="), f"| End of training | {report(loss, 'test ')}", rule("="))
    seconds = sum(epoch["seconds"] for epoch in progress.history)
    figures = {"valid": record.figures(run.checkpoints.best_loss, len(texts.valid), texts.sizes.get("valid")),
               "test": record.figures(loss, len(texts.test), texts.sizes.get("test"))}
    result = record.write(files.result, run.args, count_parameters(model), epochs=progress.history, seconds=seconds,
                          switch_epoch=progress.switch_epoch, **figures)
    record.summarise({"best valid": figures["valid"], "test": figures["test"]}, seconds,
                     f"{progress.unit}s {len(progress.history)}", model=files.best, log=files.log, result=result)
