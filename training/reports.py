"""What a training run shows: a bar while it reads, a line now and then and at the end of an epoch, the test's figures.
"""
import sys

import torch
from tqdm import tqdm

import checkpoint
from evaluation.loss import evaluate
from model import count_parameters
from runtime import record
from runtime.log import log, perplexity, report, rule


class Display:
    """What is shown while an epoch is read: a line every `log_interval` batches, and on a terminal a bar if `has_bar`.
    """

    def __init__(self, progress, reader, log_interval, has_bar):
        self.progress, self.log_interval, config = progress, log_interval, progress.config
        self.batches = config.turn_steps or reader.rows // config.bptt               # about how many an epoch has
        self.next_line = progress.batch + log_interval
        done, total = progress.position(reader)
        self.bar = tqdm(total=total, initial=done, leave=False, disable=not (has_bar and sys.stderr.isatty()),
                        desc=f"{progress.unit} {progress.number}",
                        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}")
        progress.begin_interval()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def go_to(self, done):
        """Let the bar be where the epoch is -> whether there are figures to `show`."""
        self.redrawn = self.bar.update(done - self.bar.n)
        return self.redrawn or self.progress.batch == self.next_line

    def show(self, lr):
        """Put the figures since the last line beside the bar, and log them where it is time."""
        progress, interval = self.progress, self.progress.interval
        if self.redrawn:
            self.bar.set_postfix_str(f"ppl {perplexity(interval.loss()):.2f}, {interval.speed():.0f} tokens/s", False)
        if progress.batch != self.next_line:
            return
        if interval.batches:
            log(f"| {progress.unit} {progress.number:3d} | {progress.batch:5d}/{max(progress.batch, self.batches):5d} "
                f"batches | lr {lr:05.5f} | ms/batch {interval.seconds() * 1000 / interval.batches:5.2f} "
                f"| {report(interval.loss())}")
        progress.begin_interval()
        self.next_line += self.log_interval


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
    with torch.random.fork_rng(devices=[]):             # a state that is saved from here on draws what follows training
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
