"""A training run: epochs that are trained, validated and saved, and the test. main.py and finetune.py are runs.

T window length, B batch size, L stream length.
"""
from contextlib import nullcontext

import torch

import checkpoint
from model import count_parameters, is_finite
from runtime import record
from runtime.devices import peak_memory_mib
from runtime.errors import InputError
from runtime.log import log, report
from runtime.processes import ProcessGroup
from runtime.signals import Stop
from training import optimizers, reports, settings
from training.compose import compose
from training.progress import Progress
from training.reader import TextReader
from training.self_check import recording_for
from training.state import CheckpointManager, generator_states, load_generators
from training.step import TrainStep
from training.tensorboard import Board
from training.texts import Texts
from training.validation import Validation
from training.windows import window_length

CLOSE = 0.99       # share of the words of --save-at-words that is enough at the end: held-out text is not read


class Run:
    """One run over `corpus` with the flags `args`, all resolved; main.py shows in what order its methods are called.

    A run is a sequence of epochs, or with --turn-steps of turns of so many steps, which take their place everywhere but
    in the text: that is read on from turn to turn. Its methods are called inside `stopping.running(run)`.

    resumed: as of `state.find_state`. schedule: a function of the epoch, with fractions, that gives what the learning
    rate is multiplied by, and Adam's beta1. group: the processes that train together, each on its share of the batch.
    words_before: how many words the model has read in earlier runs, None if that is not known.
    """

    def __init__(self, args, compute, files, model, optimizer, corpus, resumed=None, schedule=None, group=None,
                 words_before=0):
        self.args, self.compute, self.files, self.resumed, self.schedule = args, compute, files, resumed, schedule
        self.config = config = settings.TrainingConfig.of(vars(args))
        self.group = group or ProcessGroup()
        settings.check(args, self.group.size)
        self.model, self.optimizer = model, optimizer
        self.texts = texts = Texts.cut(corpus, config, args, self.group)
        self.reader = TextReader(texts.train, model.init_hidden, config.batch_size, texts.share, args.seed,
                                 config.partial_shuffle, config.read_on)
        self.recording = recording_for(model, compute.device, args.graphs)
        step = TrainStep(model, optimizer, bptt=config.bptt, clip=config.clip, alpha=model.config.alpha,
                         beta=model.config.beta, state_drop=config.state_drop, **optimizers.decays(model.config),
                         share=texts.train.size(1) / config.batch_size)
        self.step = compose(step, self.group, self.recording)
        self.validation = Validation(model, texts.valid, config.bptt, self.group, compute.device, self.recording)
        self.lengths = torch.Generator().manual_seed(args.seed)   # of the windows; dropout has torch's own generator
        self.progress = Progress(config, words_before, texts.words_per_token)
        self.checkpoints = CheckpointManager(files, self.group.rank)
        self.status, self.together = 0, True                      # together: what is done next, all processes do

    def begin(self):
        """Go where the run is continued from, if it is, and open the board of curves."""
        if self.resumed:
            source, state = self.resumed
            try:
                self.load_state_dict(state, f"{source}: the training state")
            except InputError:
                raise
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
                raise InputError(f"{source} is damaged: its training state cannot be used ({type(error).__name__})"
                                 ) from None
        self.progress.look_for_marks()
        if self.resumed:
            self.checkpoints.continue_from(source, state["progress"]["best"])
            self.checkpoints.write_log(self.progress.history, self._about(), "w")
            if not self.group.rank:
                log(f"| continuing from {source}: {self.progress.unit} {self.progress.number}, batch "
                    f"{self.progress.batch + 1}")
        self.board = Board(None if self.group.rank else self.config.tensorboard, self.files.name,
                           len(self.progress.history))

    # ---- an epoch

    def epochs(self):
        """Yield the number of each epoch still to run."""
        while not self.progress.ended:
            yield self.progress.number

    def train_epoch(self):
        """Read what is left of the training text, or of a turn, window by window, and learn from it."""
        config, progress, reader = self.config, self.progress, self.reader
        self.model.train()
        progress.begin_interval()
        done, total = self._position()
        line = progress.batch + self.args.log_interval
        with reports.bar_of(progress, done, total, shown=not self.group.rank) as bar:
            while done < total:
                length = window_length(config.bptt, config.max_seq_len_delta, self.lengths, config.variable_bptt)
                data, targets = reader.read(length)
                if self.schedule:
                    self._follow_schedule(progress.number - 1 + done / total)
                loss, reader.hidden = self.step(data, targets, reader.hidden)
                progress.batch += 1
                progress.losses.add(progress.batch, loss, len(data) * config.batch_size)
                before, (done, _) = done, self._position()
                redrawn = bar.update(done - before)
                if loss.is_cpu or redrawn or progress.batch == line or done >= total:
                    progress.fetch_losses()
                    self._stop_if_diverged()
                if redrawn:
                    reports.show_beside(bar, progress.interval)
                if progress.batch == line:
                    reports.log_interval(progress, config.turn_steps or reader.rows // config.bptt, self.rate)
                    progress.begin_interval()
                    line += self.args.log_interval
                self._save_at_words()
                self._pause()

    def _position(self):
        """How far this epoch has come, and how long it is: in tokens of a stream, or of a turn in steps."""
        return ((self.progress.batch, self.config.turn_steps) if self.config.turn_steps else
                (self.reader.row, self.reader.length))

    def _follow_schedule(self, epoch):
        factor, momentum = self.schedule(epoch)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = self.config.lr * factor, (momentum, group["betas"][1])

    def _stop_if_diverged(self):
        losses = self.progress.losses
        if losses.diverged:
            raise Stop(f"{losses.skipped_in_a_row} steps in a row gave no finite loss or gradient; lower --lr (now "
                       f"{self.config.lr:g}) or --clip (now {self.config.clip:g})", 1)

    @property
    def rate(self):
        """The learning rate as it is now."""
        return self.optimizer.param_groups[0]["lr"]

    def validate(self):
        """Validation losses of the weights that are trained and, once there is one, of their average."""
        progress = self.progress
        train_loss, tokens, speed = progress.meter.loss(), progress.meter.tokens, progress.meter.speed()
        words = progress.words_of_epoch()
        raw, average = self.validation.losses(self.optimizer, self.interruption.check)
        loss = raw if average is None else average
        progress.history.append({
            "epoch": progress.number, "lr": self.rate, "train_loss": train_loss,
            "valid_loss": loss, "valid_loss_raw": raw, "valid_loss_averaged": average,
            "best": loss <= self.checkpoints.best_loss, "switch_epoch": progress.switch_epoch,
            "switch_reason": progress.switch_reason, "seconds": progress.meter.seconds(), "tokens": tokens,
            "words": words, "tokens_per_second": speed,
            "peak_memory_mib": peak_memory_mib(self.compute.device)})
        reports.log_epoch(progress)

    def keep_initial(self):
        """Save the model that the run starts from as the best so far: what is fine-tuned is never worse."""
        loss = self.validation.loss(self.interruption.check)
        log(f"| before the first {self.progress.unit} | {report(loss, 'valid ')}")
        self._save_best(loss)

    def start_averaging(self, reason):
        """From the next step on, validation and the saved model use the average of the weights."""
        self.optimizer.start_averaging()
        self.progress.answer_by_averaging(reason)
        log(f"| averaging starts: {reason}")

    def divide_learning_rate(self, divisor):
        for group in self.optimizer.param_groups:
            group["lr"] /= divisor
        log(f"| learning rate divided by {divisor:g}: now {self.rate:g}")

    def end_epoch(self):
        """Save the model if it is the best so far, the epoch's line of JSON, and the state to continue from.

        Where epochs are short, model and state wait until saving takes less than a twentieth of the time.
        """
        epoch = self.progress.history[-1]
        due, = self.group.all_reduce_max(self.checkpoints.saving_is_cheap() or self.progress.ended)
        if epoch["best"]:
            self._save_best(epoch["valid_loss"], due)
        if not self.config.turn_steps:
            self.reader.next_pass()
        self.progress.begin_epoch()
        if self.progress.ended:
            self._save_at_words(CLOSE)
        self.checkpoints.write_log([epoch], self._about())
        self.board.show(epoch)
        if due:
            self.save_state()

    # ---- what it saves, and continues from

    def _about(self):
        return record.about(self.args, count_parameters(self.model))

    def _contents(self, valid, **more):
        """The model as a checkpoint. valid: its validation loss, or None."""
        losses = {"valid": valid, **self.progress.of_model(), **more}
        return checkpoint.contents_of(self.model, self.args.settings(), self.texts.vocabulary, losses)

    def _save_at_words(self, share=1.0):
        """Save the model as it is evaluated, if it has read this share of the next words of --save-at-words."""
        for mark in self.progress.marks_reached(share):
            with getattr(self.optimizer, "averaged", nullcontext)():
                contents = self._contents(None, words_of_epoch=self.progress.words_of_epoch())
                if self.checkpoints.save_model(self.files.at_words(mark), contents):
                    log(f"| after {checkpoint.words_seen(contents):,} words: {self.files.at_words(mark)}")

    def _save_best(self, loss, now=True):
        """Save the model as it is evaluated, with the average in place once there is one."""
        with getattr(self.optimizer, "averaged", nullcontext)():
            self.checkpoints.save_best(self._contents(loss), loss, now)

    def save_state(self):
        """Write all that continuing exactly needs -> whether it was written. What has diverged is not kept."""
        self.progress.fetch_losses()
        if self.progress.losses.diverged:
            log("| WARNING: training has diverged: this state is not saved")
            return False
        if not is_finite(self.model):
            log("| WARNING: the weights are not finite: this state is not saved")
            return False
        return self.checkpoints.save_state({**self._contents(self.checkpoints.best_loss), **self.state_dict()})

    def state_dict(self):
        """Besides the weights, all that decides how the run goes on: a dict for a checkpoint."""
        return {"optimizer": self.optimizer.state_dict(), "hidden": self.reader.hidden_of_all(self.group),
                "generators": generator_states(self.group, self.lengths),
                "progress": {**self.reader.state_dict(), **self.progress.state_dict(), "best": self.files.best,
                             "stage": self.files.stage}}

    def load_state_dict(self, state, where):
        """Continue from a checkpoint that `state_dict` is part of. InputError, starting with `where`, if it is one of
        another text, batch size or optimizer; any other error if it is damaged."""
        args, progress, history = self.args, state["progress"], state["losses"]["history"]
        if progress["stage"] != self.files.stage:
            owner = "finetune.py" if progress["stage"] else "main.py"
            raise InputError(f"{where} is one of {owner}; continue it with that")
        try:
            self.reader.load_state_dict(progress, len(history))
        except ValueError as error:
            raise InputError(f"{where} {error}: use the --data and --batch-size it was trained with") from None
        optimizers.load_state_dict(self.optimizer, state["optimizer"], where)
        checkpoint.load_weights(self.model, state, f"{where}: model")
        rate = args.lr if "lr" in args.given and args.lr != state["settings"]["lr"] else None
        optimizers.take_flags(self.optimizer, args, rate)
        self.reader.load_hidden(state["hidden"], where)
        self.progress.load_state_dict(progress, history)
        if not isinstance(progress["best"], str):
            raise TypeError("the best model has no name")
        load_generators(state["generators"], self.group, self.lengths,
                        args.seed + 1_000_003 * self.group.rank + len(history))

    def _pause(self):
        """Between two windows: stop if any process was asked to, and save the state now and then."""
        due = self.checkpoints.since_saved() >= 60 * self.args.checkpoint_minutes
        asked, due = self.group.all_reduce_max(self.interruption.asked(), due)
        self.interruption.stop(int(asked))
        if due:
            self.save_state()
