"""A training run: its progress, its log, and how it ends. main.py and finetune.py are runs.

T window length, B batch size, L stream length.
"""
import os
import sys
from contextlib import ExitStack
from operator import index

import torch
from tqdm import tqdm

import checkpoint
from corpus.tokenizers import Vocabulary
from corpus.word_counts import count_words
from data import batchify_split, words_per_token
from evaluation.loss import evaluate, total_loss, window_loss
from evaluation.stalling import has_no_new_best, has_stalled
from model import count_parameters
from runtime import record
from runtime.devices import peak_memory_mib
from runtime.errors import InputError
from runtime.log import log, perplexity, report, rule, surviving_broken_pipe
from runtime.meter import Meter
from runtime.paths import check_output
from runtime.processes import ProcessGroup
from runtime.signals import Interruption, Stop, exclusive
from training import optimizers
from training.compose import compose, compose_loss
from training.losses import Losses
from training.reader import TextReader
from training.self_check import checked_recording
from training.state import CheckpointManager
from training.step import TrainStep
from training.tensorboard import Board
from training.windows import window_length
from utils import flat_hidden


class Run:
    """One run over `corpus` with the flags `args`, all resolved; main.py shows in what order its methods are called.

    A run is a sequence of epochs, or with --turn-steps of turns of so many steps, which take their place everywhere but
    in the text: that is read on from turn to turn.

    Used as `with run:`, which locks the run's files and turns an interruption into a saved state. resumed: as of
    `state.find_state`. schedule: a function of the epoch, with fractions, that gives what the learning rate is
    multiplied by, and Adam's beta1. group: the processes that train together, each on its share of the batch.
    words_before: how many words the model has read in earlier runs, None if that is not known.
    """

    def __init__(self, args, compute, files, model, optimizer, corpus, resumed=None, schedule=None, group=None,
                 words_before=0):
        self.args, self.compute, self.files, self.resumed, self.schedule = args, compute, files, resumed, schedule
        self.group, self.words_before = group or ProcessGroup(), words_before
        self.model, self.optimizer = model, optimizer
        words = corpus.dictionary.idx2word
        self.vocabulary = Vocabulary(words, corpus.tokenizer, count_words(corpus.train, words, corpus.tokenizer))
        self.sizes = corpus.sizes
        self.words_per_token = words_per_token(corpus)
        if args.batch_size < self.group.size:
            raise InputError(f"--batch-size {args.batch_size} is less than the number of processes "
                             f"({self.group.size}); use a larger one, or fewer processes")
        if args.partial_shuffle and args.read_on:
            raise InputError("--partial-shuffle begins each stream elsewhere in every epoch, --read-on in none; leave "
                             "one of them out")
        if "nonmono" in args.given and args.patience:
            raise InputError("--patience takes the place of --nonmono; leave one of them out")
        self.unit = "turn" if args.turn_steps else "epoch"
        own = self.group.share(args.batch_size)
        self.train = batchify_split("train", corpus, args.batch_size, args, "--batch-size")[:, own]    # (L, own B)
        if self.group.size > 1 and not self.train.is_cpu:
            self.train = self.train.contiguous()                  # the other streams need not lie on this GPU
        self.reader = TextReader(self.train, model.init_hidden, args.batch_size, own, args.seed, args.partial_shuffle,
                                 args.read_on)
        self.valid = batchify_split("valid", corpus, args.eval_batch_size, args, "--eval-batch-size", fewer=True)
        self.test = batchify_split("test", corpus, 1, args)
        self.step = TrainStep(model, optimizer, bptt=args.bptt, clip=args.clip, alpha=args.alpha, beta=args.beta,
                              state_drop=args.state_drop, **optimizers.decays(args),
                              share=self.train.size(1) / args.batch_size)
        self.recording = None
        if compute.device.type == "cuda" and args.graphs and model.can_be_graphed:
            self.recording = checked_recording(compute.device)
        self.step = compose(self.step, self.group, self.recording)
        self.window_loss = compose_loss(window_loss(model), compute.device, self.recording)
        self.losses = Losses(args.max_bad_steps)
        self.lengths = torch.Generator().manual_seed(args.seed)   # of the windows; dropout has torch's own generator
        self.history = []                                         # a dict for every epoch, or turn, that has ended
        self.switch_epoch, self.switch_reason = None, None
        self.stall_epoch = 0                                      # after which the rate was last divided for a stall
        self.finished = False                                     # nothing but the test is left
        self.checkpoints = CheckpointManager(self)
        self.status = 0
        self.together = True                                      # what is done next, all processes do
        self._begin_epoch()

    def _begin_epoch(self):
        self.batch = 0
        self.meter, self.interval = Meter(), Meter()

    def _position(self):
        """How far this epoch has come, and how long it is: in tokens of a stream, or of a turn in steps."""
        return (self.batch, self.args.turn_steps) if self.args.turn_steps else (self.reader.row, self.reader.length)

    # ---- an epoch, step by step

    def epochs(self):
        """Yield the number of each epoch still to run."""
        while not self.finished and len(self.history) < self.args.epochs:
            yield len(self.history) + 1

    def train_epoch(self):
        """Read what is left of the training text, or of a turn, window by window, and learn from it."""
        self.model.train()
        done, total = self._position()
        self.interval, line = Meter(), self.batch + self.args.log_interval
        with tqdm(total=total, initial=done, leave=False, disable=self.group.rank > 0 or not sys.stderr.isatty(),
                  desc=f"{self.unit} {len(self.history) + 1}",
                  bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}") as bar:
            while done < total:
                length = window_length(self.args.bptt, self.args.max_seq_len_delta, self.lengths,
                                       self.args.variable_bptt)
                data, targets = self.reader.read(length, self.args)
                if self.schedule:
                    self._follow_schedule(len(self.history) + done / total)
                loss, self.reader.hidden = self.step(data, targets, self.reader.hidden)
                self.batch += 1
                self.losses.add(self.batch, loss, len(data) * self.args.batch_size)
                before, (done, _) = done, self._position()
                redrawn = bar.update(done - before)
                if loss.is_cpu or redrawn or self.batch == line or done >= total:
                    self.losses.fetch(self.meter, self.interval)
                    if self.losses.diverged:
                        raise Stop(f"{self.losses.skipped_in_a_row} steps in a row gave no finite loss or gradient; "
                                   f"lower --lr (now {self.args.lr:g}) or --clip (now {self.args.clip:g})", 1)
                if redrawn:
                    found = f"ppl {perplexity(self.interval.loss()):.2f}, {self.interval.speed():.0f} tokens/s"
                    bar.set_postfix_str(found, False)
                if self.batch == line:
                    if self.interval.batches:
                        log(self._log_line(self.interval))
                    self.interval, line = Meter(), self.batch + self.args.log_interval
                self.checkpoints.save_at_words()
                self._pause()

    def _follow_schedule(self, epoch):
        factor, momentum = self.schedule(epoch)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = self.args.lr * factor, (momentum, group["betas"][1])

    def words_of_epoch(self):
        """Words between white space that this epoch has read so far."""
        waiting = sum(tokens for _, _, tokens in self.losses.waiting)
        return round((self.meter.tokens + waiting) * self.words_per_token)

    def _log_line(self, interval):
        about = self.args.turn_steps or len(self.train) // self.args.bptt      # of an epoch: windows vary in length
        batches = max(self.batch, about)
        return (f"| {self.unit} {len(self.history) + 1:3d} | {self.batch:5d}/{batches:5d} batches "
                f"| lr {self.optimizer.param_groups[0]['lr']:05.5f} "
                f"| ms/batch {interval.seconds() * 1000 / interval.batches:5.2f} "
                f"| {report(interval.loss())}")

    def validate(self):
        """Validation losses of the weights that are trained and, once there is one, of their average."""
        train_loss, tokens, speed = self.meter.loss(), self.meter.tokens, self.meter.speed()
        raw = loss = self._evaluate()
        average = None
        if getattr(self.optimizer, "averaging", False):
            with self.optimizer.averaged():
                average = loss = self._evaluate()
        seconds = self.meter.seconds()
        self.history.append({
            "epoch": len(self.history) + 1, "lr": self.optimizer.param_groups[0]["lr"], "train_loss": train_loss,
            "valid_loss": loss, "valid_loss_raw": raw, "valid_loss_averaged": average,
            "best": loss <= self.checkpoints.best_loss, "switch_epoch": self.switch_epoch,
            "switch_reason": self.switch_reason, "seconds": seconds, "tokens": tokens,
            "words": round(tokens * self.words_per_token), "tokens_per_second": speed,
            "peak_memory_mib": peak_memory_mib(self.compute.device)})
        log(rule("-"), f"| end of {self.unit} {len(self.history):3d} | time: {seconds:5.2f}s "
            f"| {report(loss, 'valid ')}", rule("-"))

    def _evaluate(self):
        own = self.valid[:, self.group.share(self.valid.size(1))].contiguous()
        check = self.interruption.check if self.group.size == 1 else lambda: None    # several stop between two steps
        found = (0.0, 0)
        if own.size(1):
            found = total_loss(self.model, own, self.args.bptt, check, self.window_loss)
        nats, tokens = self.group.all_reduce_sum(*found)
        return nats / tokens

    def keep_initial(self):
        """Save the model that the run starts from as the best so far: what is fine-tuned is never worse."""
        loss = self._evaluate()
        log(f"| before the first {self.unit} | {report(loss, 'valid ')}")
        self.checkpoints.save_best(loss)

    def stalled(self, at_latest=None):
        """Whether the validation losses have stalled since the rate was last divided for this. at_latest: the epoch
        after which they count as stalled if they never were."""
        if at_latest == len(self.history) and not self.stall_epoch:
            return True
        losses = [epoch["valid_loss"] for epoch in self.history]
        if self.args.patience:
            return has_no_new_best(losses, self.args.patience, self.stall_epoch)
        return has_stalled(losses[self.stall_epoch:], self.args.nonmono)

    def why_stalled(self):
        if self.args.patience:
            return f"no new best for {self.args.patience} {self.unit}s"
        return f"no better than {self.args.nonmono} {self.unit}s ago and before"

    def start_averaging(self, reason):
        """From the next step on, validation and the saved model use the average of the weights."""
        self.optimizer.start_averaging()
        self.switch_epoch, self.switch_reason = len(self.history), reason
        log(f"| averaging starts: {reason}")

    def divide_learning_rate(self, divisor):
        for group in self.optimizer.param_groups:
            group["lr"] /= divisor
        log(f"| learning rate divided by {divisor:g}: now {self.optimizer.param_groups[0]['lr']:g}")

    def end_epoch(self):
        """Save the model if it is the best so far, the epoch's line of JSON, and the state to continue from.

        Where epochs are short, model and state wait until saving takes less than a twentieth of the time.
        """
        due, = self.group.all_reduce_max(self.checkpoints.since_saved() >= 20 * self.checkpoints.saving_seconds
                               or self.finished or len(self.history) >= self.args.epochs)
        if self.history[-1]["best"]:
            self.checkpoints.save_best(self.history[-1]["valid_loss"], due)
        if not self.args.turn_steps:
            self.reader.next_pass()
        self._begin_epoch()
        self.checkpoints.write_log(self.history[-1:])
        self.board.show(self.history[-1])
        if due:
            self.save_state()

    def report_test(self):
        """Test the best model with batch size 1 from a zero state, and log how it did: rank 0 alone."""
        self.together = False
        if self.group.rank:
            return
        model = checkpoint.restore(self.checkpoints.best_contents(), self.files.best, self.compute)
        loss = evaluate(model, self.test, self.args.bptt, self.interruption.check)
        log(rule("="), f"| End of training | {report(loss, 'test ')}", rule("="))
        seconds = sum(epoch["seconds"] for epoch in self.history)
        found = {"valid": record.figures(self.checkpoints.best_loss, len(self.valid), self.sizes.get("valid")),
                 "test": record.figures(loss, len(self.test), self.sizes.get("test"))}
        result = record.write(self.files.result, self.args, count_parameters(model), epochs=self.history,
                              seconds=seconds, switch_epoch=self.switch_epoch, **found)
        record.summarise({"best valid": found["valid"], "test": found["test"]}, seconds,
                         f"{self.unit}s {len(self.history)}", model=self.files.best, log=self.files.log,
                         result=result)

    # ---- what it saves, and continues from

    def state_dict(self):
        """Besides the weights, all that decides how the run goes on: a dict for a checkpoint."""
        cuda = [torch.cuda.get_rng_state()] if self.compute.device.type == "cuda" else []
        first, *others = self.group.all_gather({"cpu": torch.get_rng_state(), "cuda": cuda})
        parts = self.group.all_gather([h.cpu() for h in flat_hidden(self.reader.hidden)])
        return {"optimizer": self.optimizer.state_dict(), "hidden": [torch.cat(own, dim=1) for own in zip(*parts)],
                "generators": {**first, "others": others, "lengths": self.lengths.get_state()},
                "progress": {**self.reader.state_dict(), "batch": self.batch,
                             "meter": self.meter.state_dict(), "skipped": self.losses.skipped,
                             "finished": self.finished, "best": self.files.best, "stage": self.files.stage,
                             "switch_epoch": self.switch_epoch, "switch_reason": self.switch_reason,
                             "stall_epoch": self.stall_epoch}}

    def load_state_dict(self, state, where):
        """Continue from a checkpoint that `state_dict` is part of. InputError, starting with `where`, if it is one of
        another text, batch size or optimizer; any other error if it is damaged."""
        progress, generators = state["progress"], state["generators"]
        if progress["stage"] != self.files.stage:
            owner = "finetune.py" if progress["stage"] else "main.py"
            raise InputError(f"{where} is one of {owner}; continue it with that")
        try:
            self.reader.load_state_dict(progress, len(state["losses"]["history"]))
        except ValueError as error:
            raise InputError(f"{where} {error}: use the --data and --batch-size it was trained with") from None
        optimizers.load_state_dict(self.optimizer, state["optimizer"], where)
        checkpoint.load_weights(self.model, state, f"{where}: model")
        for group in self.optimizer.param_groups:
            if "weight_decay" in group:
                group["weight_decay"] = optimizers.own_decay(vars(self.args))
            if "lr" in self.args.given and self.args.lr != state["settings"]["lr"]:
                group["lr"] = self.args.lr
        own = self.group.share(self.args.batch_size)
        for found, wanted in zip(flat_hidden(state["hidden"]), flat_hidden(self.reader.hidden), strict=True):
            like = wanted.new_empty(wanted.size(0), self.args.batch_size, *wanted.shape[2:], device="cpu")
            checkpoint.check_tensor(found, like, f"{where}: hidden")
            wanted.copy_(found[:, own])
        self.history = [_plain_epoch(epoch) for epoch in state["losses"]["history"]]
        self.batch, self.losses.skipped = index(progress["batch"]), index(progress["skipped"])
        self.meter.load_state_dict(progress["meter"])
        self.stall_epoch = index(progress.get("stall_epoch", 0))
        self.switch_epoch, self.switch_reason = progress["switch_epoch"], progress["switch_reason"]
        if not isinstance(progress["best"], str) or not _is_plain({**progress, "meter": None}):
            raise TypeError("not a state of progress")
        self.finished = bool(progress["finished"])
        self.lengths.set_state(generators["lengths"])
        ranks = [generators, *generators.get("others", [])]
        if self.group.rank >= len(ranks):        # there were fewer processes: this one draws numbers of its own
            torch.manual_seed(self.args.seed + 1_000_003 * self.group.rank + len(self.history))
            return
        torch.set_rng_state(ranks[self.group.rank]["cpu"])
        if ranks[self.group.rank]["cuda"] and self.compute.device.type == "cuda":
            torch.cuda.set_rng_state(ranks[self.group.rank]["cuda"][0])

    # ---- stopping

    def save_state(self):
        """Write all that continuing exactly needs -> whether it was written. What has diverged is not kept."""
        self.losses.fetch(self.meter, self.interval)
        if self.losses.diverged:
            log("| WARNING: training has diverged: this state is not saved")
            return False
        return self.checkpoints.save_state()

    def __enter__(self):
        if os.path.isdir(self.args.save) or not os.path.basename(self.args.save):
            raise InputError(f"--save {self.args.save!r} is no file name; give one such as model.pt")
        for path in (*self.files.kept(), self.files.lock):
            check_output(path)
        with ExitStack() as stack:
            os.makedirs(os.path.dirname(self.files.lock) or ".", exist_ok=True)
            stack.enter_context(surviving_broken_pipe())
            if not self.group.rank:
                stack.enter_context(exclusive(self.files.lock))
            self.checkpoints.begin(self.resumed)
            name = os.path.basename(self.files.log).removesuffix(".jsonl")
            self.board = Board(None if self.group.rank else self.args.tensorboard, name,
                               len(self.history))
            stack.callback(self.board.close)
            self.interruption = stack.enter_context(
                Interruption(self.args.max_minutes, "saving; press Ctrl-C again to give up"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        # A state is put together by all processes: one that fails alone must not wait for the others.
        alone = self.group.size == 1
        if alone and kind is not None and issubclass(kind, torch.OutOfMemoryError):
            self.save_state()
        if kind is Stop:
            saved = (alone or self.together) and self.save_state()
            self.status = error.status
            self.checkpoints.log_where(error, saved, self.status)
        elif error is None and self.checkpoints.unsaved_best:
            if alone:
                self.save_state()
            if not self.checkpoints.write_best():                      # also where the state is not to be saved
                print(f"{self.files.best}: the best model could NOT be saved", file=sys.stderr)
                self.status = 1
        elif error is not None and os.path.exists(self.files.state):
            print(f"the last good state is in {self.files.state}; `--resume auto` continues from it", file=sys.stderr)
        self._stack.close()
        if self.recording:
            self.recording.drop()        # NCCL's communicators wait for graphs that hold their collectives
        if error is None or kind is Stop:
            self.group.leave()
        return kind is Stop

    def _pause(self):
        """Between two windows: stop if any process was asked to, and save the state now and then."""
        due = self.checkpoints.since_saved() >= 60 * self.args.checkpoint_minutes
        asked, due = self.group.all_reduce_max(self.interruption.asked(), due)
        self.interruption.stop(int(asked))
        if due:
            self.save_state()


def _plain_epoch(epoch):
    """An epoch's entry of the history: numbers and words under names, the validation loss among them."""
    if not _is_plain(epoch):
        raise TypeError("not a line of a history")
    return {**epoch, "valid_loss": float(epoch["valid_loss"])}


def _is_plain(entries):
    return all(isinstance(name, str) and isinstance(value, (int, float, str, type(None)))
               for name, value in entries.items())
