"""A training run: epochs that are trained, validated and saved, and the test. main.py and finetune.py are runs.

T window length, B batch size, L stream length.
"""
import torch

import checkpoint
from evaluation.loss import total_loss, window_loss
from model import count_parameters, is_finite
from runtime import record
from runtime.devices import peak_memory_mib
from runtime.log import log, report, warn
from runtime.processes import ProcessGroup
from training import optimizers, reports, schedules, settings, tensorboard
from training.compose import compose, compose_loss
from training.progress import Progress
from training.reader import TextReader
from training.self_check import recording_for
from training.state import CheckpointManager, continuing, generator_states, load_generators
from training.step import TrainStep
from training.texts import Texts
from training.windows import window_length


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
        self.own_valid = texts.valid[:, self.group.share(texts.valid.size(1))].contiguous()
        self.window_loss = compose_loss(window_loss(model), compute.device, self.recording)
        self.lengths = torch.Generator().manual_seed(args.seed)   # of the windows; dropout has torch's own generator
        self.progress = Progress(config, words_before, texts.words_per_token)
        self.checkpoints = CheckpointManager(files, self.group.rank)
        self.status, self.together = 0, True                      # together: what is done next, all processes do

    def begin(self):
        """Go where the run is continued from, if it is, and open the board of curves."""
        if self.resumed:
            source, state = self.resumed
            with continuing(source):
                self.load_state_dict(state, f"{source}: the training state")
        self.progress.look_for_marks()
        folder = None if self.group.rank else self.config.tensorboard       # before a file of the run is touched
        self.board = folder and tensorboard.Board(folder, self.files.name, len(self.progress.history))
        if self.resumed:
            self.checkpoints.continue_from(source, state["progress"]["best"])
            self.checkpoints.write_log(self.progress.history, self._about(), "w")
            if not (self.progress.ended or self.group.rank):
                record.remove(self.files.result)
            log(f"| continuing from {source}: " + ("its training has ended" if self.progress.ended else
                f"{self.progress.unit} {self.progress.number}, batch {self.progress.batch + 1}"))

    # ---- an epoch

    def epochs(self):
        """Yield the number of each epoch still to run."""
        while not self.progress.ended:
            yield self.progress.number

    def train_epoch(self):
        """Read what is left of the training text, or of a turn, window by window, and learn from it."""
        config, progress, reader = self.config, self.progress, self.reader
        self.model.train()
        done, total = progress.position(reader)
        with reports.Display(progress, reader, self.args.log_interval, has_bar=not self.group.rank) as display:
            while done < total:
                length = window_length(config.bptt, config.max_seq_len_delta, self.lengths, config.variable_bptt)
                data, targets = reader.read(length)
                if self.schedule:
                    schedules.follow(self.schedule, progress.number - 1 + done / total, config.lr, self.optimizer)
                loss, reader.hidden = self.step(data, targets, reader.hidden)
                progress.add_batch(loss, len(data) * config.batch_size)
                done, _ = progress.position(reader)
                due = display.go_to(done)
                if loss.is_cpu or due or done >= total:
                    progress.fetch_losses()
                    progress.stop_if_diverged()
                if due:
                    display.show(self.rate)
                self._save_at_words()
                self._pause()

    @property
    def rate(self):
        """The learning rate as it is now."""
        return self.optimizer.param_groups[0]["lr"]

    def validate(self):
        """Validation losses of the weights that are trained and, once there is one, of their average."""
        speed = self.progress.meter.speed()                       # of training alone
        raw, average = self._validation_loss(), None
        if getattr(self.optimizer, "averaging", False):
            with self.optimizer.averaged():
                average = self._validation_loss()
        self.progress.add_epoch(raw, average, self.checkpoints.best_loss, lr=self.rate, tokens_per_second=speed,
                                peak_memory_mib=peak_memory_mib(self.compute.device))
        reports.log_epoch(self.progress)

    def _validation_loss(self):
        """Mean loss in nats of the weights as they are; of several processes each reads a part of the streams."""
        check = self.interruption.check if self.group.size == 1 else lambda: None       # several stop between two steps
        nats, tokens = 0.0, 0
        if self.own_valid.size(1):
            nats, tokens = total_loss(self.model, self.own_valid, self.config.bptt, check, self.window_loss)
        nats, tokens = self.group.all_reduce_sum(nats, tokens)
        return nats / tokens

    def keep_initial(self):
        """Save the model that the run starts from as the best so far: what is fine-tuned is never worse."""
        loss = self._validation_loss()
        log(f"| before the first {self.progress.unit} | {report(loss, 'valid ')}")
        self._save_best(loss)

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
        self._save_at_words()
        self.checkpoints.write_log([epoch], self._about())
        if self.board:
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

    def _save_at_words(self):
        """Save the model as it is evaluated, if it has read the next words of --save-at-words."""
        for mark in self.progress.marks_reached():
            with optimizers.evaluated_weights(self.optimizer):
                contents = self._contents(None, words_of_epoch=self.progress.words_of_epoch())
                self.checkpoints.save_at_words(contents, mark)

    def _save_best(self, loss, now=True):
        """Save the model as it is evaluated as the best so far."""
        with optimizers.evaluated_weights(self.optimizer):
            self.checkpoints.save_best(self._contents(loss), loss, now)

    def save_state(self):
        """Write all that continuing exactly needs -> whether it was written. What has diverged is not kept."""
        self.progress.fetch_losses()
        if self.progress.diverged or not is_finite(self.model):
            reason = "training has diverged" if self.progress.diverged else "the weights are not finite"
            warn(f"{reason}: this state is not saved")
            return False
        return self.checkpoints.save_state({**self._contents(self.checkpoints.best_loss), **self.state_dict()})

    def state_dict(self):
        """Besides the weights, all that decides how the run goes on: a dict for a checkpoint."""
        return {"optimizer": self.optimizer.state_dict(), "hidden": self.reader.hidden_of_all(self.group),
                "generators": generator_states(self.group, self.lengths),
                "progress": {**self.reader.state_dict(), **self.progress.state_dict(), **self.checkpoints.state_dict()}}

    def load_state_dict(self, state, where):
        """Continue from a checkpoint that `state_dict` is part of. InputError, starting with `where`, if it is one of
        another text, batch size or optimizer; any other error if it is damaged."""
        progress, history = state["progress"], state["losses"]["history"]
        self.checkpoints.check_state_dict(progress, where)
        self.reader.load_state_dict(progress, len(history), where)
        optimizers.load_state_dict(self.optimizer, state["optimizer"], where)
        checkpoint.load_weights(self.model, state, f"{where}: model")
        optimizers.take_flags(self.optimizer, self.args, state["settings"]["lr"])
        self.reader.load_hidden(state["hidden"], where)
        self.progress.load_state_dict(progress, history)
        load_generators(state["generators"], self.group, self.lengths, self.args.seed + len(history))

    def _pause(self):
        """Between two windows: stop if any process was asked to, and save the state now and then."""
        due = self.checkpoints.since_saved() >= 60 * self.args.checkpoint_minutes
        asked, due = self.group.all_reduce_max(self.interruption.asked(), due)
        self.interruption.stop(int(asked))
        if due:
            self.save_state()
