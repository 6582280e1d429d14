"""A training run: its progress, its log, and how it ends. main.py and finetune.py are runs.

T window length, B columns, L column length.
"""
import math
import os
import sys
from contextlib import ExitStack

import torch
from tqdm import tqdm

import checkpoint
import engine
import record
import train_step
from board import Board
from corpora import columns
from errors import InputError
from graphs import Graphs
from interruption import Interruption, Stop, exclusive
from keeping import Keeper
from meter import Meter, peak_memory_mib, say
from model import count_parameters
from team import Team
from utils import get_batch

RULE, DOUBLE_RULE = "-" * 89, "=" * 89


class Run:
    """One run over `corpus` with the flags `args`; main.py shows in what order its methods are called.

    Used as `with run:`, which locks the run's files and turns an interruption into a saved state. schedule: a function
    of the epoch, with fractions, that gives what the learning rate is multiplied by, and Adam's momentum. team: the
    processes that train together; each has its share of the columns, and what is said of columns is of all of them.
    """

    def __init__(self, args, files, model, criterion, optimizer, corpus, resumed=None, schedule=None, team=None):
        self.args, self.files, self.resumed, self.schedule = args, files, resumed, schedule
        self.team = team or Team()
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.vocabulary = corpus.dictionary.idx2word
        if args.batch_size < self.team.size:
            raise InputError(f"--batch-size {args.batch_size} has fewer columns than there are processes "
                             f"({self.team.size}); use a larger one, or fewer processes")
        own = self.team.share(args.batch_size)
        self.train = columns("train.txt", corpus.train, args.batch_size, args)[:, own]                 # (L, own B)
        if self.team.size > 1 and not self.train.is_cpu:
            self.train = self.train.contiguous()                  # the other columns need not lie on this GPU
        self.valid = columns("valid.txt", corpus.valid, args.eval_batch_size, args)
        self.test = columns("test.txt", corpus.test, 1, args)
        graphs = str(args.device).startswith("cuda") and args.graphs and not criterion.splits
        self.step = train_step.TrainStep(model, criterion, optimizer, bptt=args.bptt, clip=args.clip,
                                     alpha=args.alpha, beta=args.beta, graphs=graphs,
                                     team=self.team if self.team.size > 1 else None,
                                     share=self.train.size(1) / args.batch_size)
        self.score = Graphs(engine.scorer(model, criterion), args.device) if graphs else None
        self.losses = []                                          # (batch, loss, tokens) still on the device
        self.skipped = self.skipped_in_a_row = 0                  # steps without a finite loss or gradient
        self.lengths = torch.Generator().manual_seed(args.seed)   # of the windows; dropout has torch's own generator
        self.history = []                                         # a dict for every epoch that has ended
        self.switch_epoch, self.switch_reason = None, None
        self.stall_epoch = 0                                      # from which on the non-monotone rule looks back
        self.finished = False                                     # nothing but the test is left
        self.keeper = Keeper(self)
        self.status = 0
        self.together = True                                      # what is done next, all processes of the team do
        self._begin_epoch()

    def _begin_epoch(self):
        self.row = self.batch = 0
        self.meter = Meter()
        self.hidden = self.model.init_hidden(self.train.size(1))

    # ---- an epoch, step by step

    def epochs(self):
        """Yield the number of each epoch still to run."""
        while not self.finished and len(self.history) < self.args.epochs:
            yield len(self.history) + 1

    def train_epoch(self):
        """Read what is left of the training text, window by window, and learn from it."""
        self.model.train()
        rows = len(self.train) - 1
        self.interval, line = Meter(), self.batch + self.args.log_interval
        with tqdm(total=rows, initial=self.row, leave=False, disable=self.team.rank > 0 or not sys.stderr.isatty(),
                  desc=f"epoch {len(self.history) + 1}",
                  bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}") as bar:
            while self.row < rows:
                length = engine.window_length(self.args.bptt, self.args.max_seq_len_delta, self.lengths,
                                              self.args.variable_bptt)
                data, targets = get_batch(self.train, self.row, self.args, length)
                if self.schedule:
                    self._follow_schedule(len(self.history) + self.row / rows)
                loss, self.hidden = self.step(data, targets, self.hidden)
                self.row += len(data)
                self.batch += 1
                self.losses.append((self.batch, loss, len(data) * self.args.batch_size))
                redrawn = bar.update(len(data))
                if loss.is_cpu or redrawn or self.batch == line or self.row >= rows:
                    self._fetch_losses()
                    self._stop_if_diverged()
                if redrawn:
                    bar.set_postfix_str(f"{engine.report(self.interval.loss())} | {self.interval.speed():.0f} tokens/s",
                                        False)
                if self.batch == line:
                    if self.interval.batches:
                        say(self._log_line(self.interval))
                    self.interval, line = Meter(), self.batch + self.args.log_interval
                self._pause()

    def _follow_schedule(self, epoch):
        factor, momentum = self.schedule(epoch)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = self.args.lr * factor, (momentum, group["betas"][1])

    def _fetch_losses(self):
        """Count the losses of the steps since the last time. It waits for the device, so it is not done every step."""
        fetched = torch.stack([loss for _, loss, _ in self.losses]).tolist() if self.losses else []
        for (batch, _, tokens), loss in zip(self.losses, fetched):
            if math.isnan(loss):
                self.skipped += 1
                self.skipped_in_a_row += 1
                say(f"| WARNING: batch {batch}: loss or gradient not finite, the step is skipped "
                    f"({self.skipped} so far)")
            else:
                self.skipped_in_a_row = 0
                self.meter.add(loss, tokens)
                self.interval.add(loss, tokens)
        self.losses.clear()

    def _stop_if_diverged(self):
        if self._diverged():
            raise Stop(f"{self.skipped_in_a_row} steps in a row gave no finite loss or gradient; "
                       f"lower --lr (now {self.args.lr:g}) or --clip (now {self.args.clip:g})", 1)

    def _diverged(self):
        return self.skipped_in_a_row >= self.args.max_bad_steps

    def _log_line(self, interval):
        return (f"| epoch {len(self.history) + 1:3d} | {self.batch:5d}/{len(self.train) // self.args.bptt:5d} batches "
                f"| lr {self.optimizer.param_groups[0]['lr']:05.5f} "
                f"| ms/batch {interval.seconds() * 1000 / interval.batches:5.2f} "
                f"| {engine.report(interval.loss())}")

    def validate(self):
        """Validation losses of the weights that are trained and, once there is one, of their average."""
        train_loss, speed = self.meter.loss(), self.meter.speed()
        raw = loss = self._evaluate()
        average = None
        if getattr(self.optimizer, "averaging", False):
            with self.optimizer.averaged():
                average = loss = self._evaluate()
        seconds = self.meter.seconds()
        self.history.append({
            "epoch": len(self.history) + 1, "lr": self.optimizer.param_groups[0]["lr"], "train_loss": train_loss,
            "valid_loss": loss, "valid_loss_raw": raw, "valid_loss_averaged": average,
            "best": loss <= self.keeper.best_loss, "switch_epoch": self.switch_epoch,
            "switch_reason": self.switch_reason, "seconds": seconds, "tokens_per_second": speed,
            "peak_memory_mib": peak_memory_mib(self.args.device)})
        say(RULE, f"| end of epoch {len(self.history):3d} | time: {seconds:5.2f}s | {engine.report(loss, 'valid ')}",
            RULE)

    def _evaluate(self):
        own = self.valid[:, self.team.share(self.valid.size(1))].contiguous()
        check = self.interruption.check if self.team.size == 1 else lambda: None    # a team stops between two steps
        found = (0.0, 0)
        if own.size(1):
            found = engine.total_loss(self.model, self.criterion, own, self.args.bptt, check, self.score)
        nats, tokens = self.team.total(*found)
        return nats / tokens

    def keep_initial(self):
        """Save the model that the run starts from as the best so far: what is fine-tuned is never worse."""
        loss = self._evaluate()
        say(f"| before the first epoch | {engine.report(loss, 'valid ')}")
        self.keeper.save_best(loss)

    def stalled(self):
        """Whether the validation losses, since the rate was last halved for this, meet the non-monotone rule."""
        return engine.has_stalled([epoch["valid_loss"] for epoch in self.history[self.stall_epoch:]], self.args.nonmono)

    def start_averaging(self, reason):
        """From the next step on, validation and the saved model use the average of the weights."""
        self.optimizer.start_averaging()
        self.switch_epoch, self.switch_reason = len(self.history), reason
        say(f"| averaging starts: {reason}")

    def halve_learning_rate(self):
        """The answer to a stalled validation loss that averaging takes the place of."""
        self.stall_epoch = len(self.history)
        self.divide_learning_rate(2)

    def divide_learning_rate(self, divisor):
        for group in self.optimizer.param_groups:
            group["lr"] /= divisor
        say(f"| learning rate divided by {divisor}: now {self.optimizer.param_groups[0]['lr']:g}")

    def end_epoch(self):
        """Save the model if it is the best so far, the epoch's line of JSON, and the state to continue from.

        Where epochs are short, model and state wait until saving takes less than a twentieth of the time.
        """
        due, = self.team.agree(self.keeper.since_saved() >= 20 * self.keeper.saving_seconds
                               or self.finished or len(self.history) >= self.args.epochs)
        if self.history[-1]["best"]:
            self.keeper.save_best(self.history[-1]["valid_loss"], due)
        self._begin_epoch()
        self.keeper.write_log(self.history[-1:])
        self.board.show(self.history[-1])
        if due:
            self.save_state()

    def report_test(self):
        """Test the best model, in one column from a zero state, and say how it did: the first process alone."""
        self.together = False
        if self.team.rank:
            return
        model, criterion = checkpoint.restore(self.keeper.best_contents(), self.files.best, self.args.device,
                                              self.args.precision)
        loss = engine.evaluate(model, criterion, self.test, self.args.bptt, self.interruption.check)
        say(DOUBLE_RULE, f"| End of training | {engine.report(loss, 'test ')}", DOUBLE_RULE)
        seconds = sum(epoch["seconds"] for epoch in self.history)
        found = {"valid": record.figures(self.keeper.best_loss, len(self.valid)),
                 "test": record.figures(loss, len(self.test))}
        record.write(self.files.result, self.args, count_parameters(model, criterion), epochs=self.history,
                     seconds=seconds, switch_epoch=self.switch_epoch, **found)
        record.summarise({"best valid": found["valid"], "test": found["test"]}, seconds,
                         f"epochs {len(self.history)}", model=self.files.best, log=self.files.log,
                         result=self.files.result)

    # ---- stopping

    def save_state(self):
        """Write all that continuing exactly needs -> whether it was written. What has diverged is not kept."""
        self._fetch_losses()
        if self._diverged():
            say("| WARNING: training has diverged; the state saved before is kept")
            return False
        return self.keeper.save_state()

    def __enter__(self):
        if os.path.isdir(self.args.save) or not os.path.basename(self.args.save):
            raise InputError(f"--save {self.args.save!r} is no file name; give one such as model.pt")
        with ExitStack() as stack:
            os.makedirs(os.path.dirname(self.files.lock) or ".", exist_ok=True)
            if not self.team.rank:
                stack.enter_context(exclusive(self.files.lock))
            self.keeper.begin()
            self.board = Board(None if self.team.rank else self.args.tensorboard, len(self.history))
            stack.callback(self.board.close)
            self.interruption = stack.enter_context(Interruption(self.args.max_minutes))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        # A state is put together by all processes: one that is alone with its trouble must not wait for the others.
        alone = self.team.size == 1
        if alone and kind is not None and issubclass(kind, torch.OutOfMemoryError):
            self.save_state()
        if kind is Stop:
            saved = (alone or self.together) and self.save_state()
            self.status = error.status
            self.keeper.say_where(error, saved, self.status)
        elif error is None and self.keeper.unsaved_best:
            if alone:
                self.save_state()
            if not self.keeper.write_best():                      # also where the state is not to be saved
                print(f"{self.files.best}: the best model could NOT be saved", file=sys.stderr)
                self.status = 1
        elif error is not None and os.path.exists(self.files.state):
            print(f"the last good state is in {self.files.state}; `--resume auto` continues from it", file=sys.stderr)
        self._stack.close()
        if error is None or kind is Stop:
            self.team.leave()
        return kind is Stop

    def _pause(self):
        """Between two windows: stop if any process was asked to, and save the state now and then."""
        due = self.keeper.since_saved() >= 60 * self.args.checkpoint_minutes
        asked, due = self.team.agree(self.interruption.asked(), due)
        self.interruption.stop(int(asked))
        if due:
            self.save_state()
