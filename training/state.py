"""What a run saves and how it continues exactly: its best model, its state, a line of JSON per epoch; and the model as
it was after so many words, where that is asked for.

A state holds the weights, the optimizer with its averages, every random number generator, the position in the text
with the hidden state, and the sums and losses so far: with them an interrupted run ends, bit for bit on a CPU, like one
never interrupted.
"""
import copy
import json
import math
import os
import shutil
import sys
import time
from contextlib import nullcontext

import checkpoint
from model import count_parameters, is_finite
from runtime import options, program, record
from runtime.errors import InputError
from runtime.log import log
from runtime.processes import resume_command
from runtime.run_files import Files


def find_state(args, flags, stage=""):
    """What `--resume` asks to continue from -> (path, contents), or None for a fresh run.

    `auto` is the state under `--save`, if there is one. A model's file stands for the state beside it, a damaged
    state for the one saved before it. flags: the script's; the state's settings are checked for those that are kept.
    """
    if args.resume is None:
        return None
    files = Files(args.save, stage) if args.resume in ("auto", args.save) else Files(args.resume)
    candidates = [files.state, files.previous]
    if args.resume.endswith(".state.pt"):
        candidates = [args.resume, args.resume[:-len("state.pt")] + "state.previous.pt"]
    found = [path for path in candidates if os.path.exists(path)]
    if not found and args.resume == "auto":
        return None
    contents = path = None
    for path in found or [args.resume]:
        try:
            contents = checkpoint.load(path, flags)
            break
        except InputError as error:
            if path == (found or [args.resume])[-1]:
                raise
            print(f"{error}; trying the state before it", file=sys.stderr)
    if "progress" not in contents:
        raise InputError(f"{path} holds a model but not the state of a run; finetune.py trains it further")
    checkpoint.check_shapes(contents, path)
    return path, contents


def continued(args, resumed, flags):
    """The flags with those that were not typed taken from the state -> Arguments; resumed: as of `find_state`."""
    return options.inherit(args, resumed[1]["settings"], resumed[0], flags) if resumed else args


class CheckpointManager:
    """Saves the best model and the state of `run`. All processes put a state together; rank 0 alone writes."""

    def __init__(self, run):
        self.run = run
        self.best_loss, self.unsaved_best = math.inf, None      # a best model that is still to be written
        self.saved, self.saving_seconds = time.monotonic(), 0.0
        self.in_the_way = False                                 # another run's files have the names of ours
        self.marks = []                                         # of --save-at-words that are still to come

    def begin(self, resumed):
        """Continue from the state given, or start afresh. What another run saved under our names stays as it is until
        the first file of this run is about to be written."""
        run, files = self.run, self.run.files
        source, state = resumed or (None, None)
        own = [os.path.realpath(name) for name in (files.state, files.previous)]
        self.in_the_way = source is None or os.path.realpath(source) not in own
        if source is not None:
            self._load_into_run(state, source)
        self.marks = self._marks_ahead()
        if source is None or run.group.rank:
            return
        if os.path.realpath(source) == own[1] and os.path.exists(files.state):
            os.replace(files.state, f"{files.state}.damaged")  # not to be kept as a state to fall back on
        best = os.path.join(os.path.dirname(source), os.path.basename(state["progress"]["best"]))
        self._set_aside()
        if os.path.realpath(best) != os.path.realpath(files.best) and os.path.exists(best):
            shutil.copyfile(best, files.best)
        try:
            self.best_loss = float(checkpoint.load(files.best)["losses"]["valid"])
        except (InputError, KeyError, TypeError):
            self.best_loss = math.inf  # gone or damaged: the next epoch's model is better than none
        record.remove(files.result)
        self.write_log(run.history, "w")
        log(f"| continuing from {source}: {run.unit} {len(run.history) + 1}, batch {run.batch + 1}")

    def _marks_ahead(self):
        marks, words = self.run.args.save_at_words, self.words_read()
        if marks and words is None:
            raise InputError("--save-at-words: how many words the model has read before is not known; an earlier "
                             "version trained it, or another program. Leave the flag out")
        return sorted({mark for mark in marks or () if mark > words})

    def _load_into_run(self, state, path):
        try:
            self.run.load_state_dict(state, f"{path}: the training state")
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
            raise InputError(f"{path} is damaged: its training state cannot be used ({type(error).__name__})") from None

    def _set_aside(self):
        """Rename another run's files, before the first of ours is written."""
        if self.in_the_way and not self.run.group.rank:
            number = self.run.files.set_aside()
            if number:
                log(f"| {self.run.files.best} was there already: the earlier run's files now have {number} in their "
                    "names")
        self.in_the_way = False

    def since_saved(self):
        """Seconds since the state was last saved, or the run began."""
        return time.monotonic() - self.saved

    def save_best(self, loss, now=True):
        """Write the model as it is evaluated, with the average in place once there is one, and remember its loss.

        What is not written now, or cannot be, is kept and written with the next state.
        """
        self.best_loss, self.unsaved_best = loss, None
        with getattr(self.run.optimizer, "averaged", nullcontext)():
            contents = self._contents()
            contents["digest"] = checkpoint.digest(contents)
            if not (now and self._write(self.run.files.best, contents)):
                self.unsaved_best = copy.deepcopy(contents)

    def save_at_words(self):
        """Write the model as it is evaluated, if it has read as many words as --save-at-words asks for next."""
        while self.marks and self.words_read() >= self.marks[0]:
            with getattr(self.run.optimizer, "averaged", nullcontext)():
                contents = self._contents(valid=None, words_of_epoch=self.run.words_of_epoch())
                contents["digest"] = checkpoint.digest(contents)
                path = self.run.files.at_words(self.marks.pop(0))
                if self._write(path, contents):
                    log(f"| after {checkpoint.words_seen(contents):,} words: {path}")

    def words_read(self):
        """By the model, in all epochs and this one, None where that is not known."""
        return checkpoint.words_seen({"losses": {**self._losses(), "words_of_epoch": self.run.words_of_epoch()}})

    def save_state(self):
        """Write all that continuing exactly needs -> whether it was written. Weights that are not finite are not."""
        if not is_finite(self.run.model):
            log("| WARNING: the weights are not finite: this state is not saved")
            return False
        began = time.monotonic()
        state = self.run.state_dict()                                # of all processes
        self.write_best()
        written = self._write(self.run.files.state, {**self._contents(), **state}, self.run.files.previous)
        self.saved = time.monotonic()
        self.saving_seconds = self.saved - began
        return written

    def write_best(self):
        """Write the best model if it still has to be -> whether it is there."""
        if self.unsaved_best and self._write(self.run.files.best, self.unsaved_best):
            self.unsaved_best = None
        return not self.unsaved_best

    def best_contents(self):
        """The best model as a checkpoint. Raises InputError if there is none."""
        if self.best_loss == math.inf:
            raise InputError("there is no model to test: no epoch has ended with a finite validation loss")
        return self.unsaved_best or checkpoint.load(self.run.files.best)

    def write_log(self, epochs, mode="a"):
        """One line of JSON per epoch, each with all that one needs to know to make use of it."""
        run = self.run
        if run.group.rank:
            return
        self._set_aside()
        about = record.about(run.args, count_parameters(run.model))
        try:
            with open(run.files.log, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(record.finite({**epoch, **about})) + "\n" for epoch in epochs)
        except OSError as error:
            log(f"| WARNING: {run.files.log} could not be written ({error.strerror}); training goes on")

    def log_where(self, error, saved, status):
        """The last lines of a run that was stopped: why, where its state is, and how it is continued."""
        state = self.run.files.state
        where = (f"everything is saved in {state}" if saved else
                 f"the last good state is in {state}" if os.path.exists(state) else "no state is saved")
        if self.run.losses.diverged:               # the same command would diverge again
            rate = f"{self.run.optimizer.param_groups[0]['lr'] / 4:g}"
            command = resume_command("--lr", rate, resume=os.path.exists(state))
            log(f"| {error}; {where}", f"| with a lower rate: {command}")
        else:
            log(f"| {error}; {where}", f"| to continue: {resume_command()}")
        if status == 1:
            print(f"{program.name()}: error: {error}; {where}", file=sys.stderr)

    def _losses(self):
        return {"valid": self.best_loss, "words_before": self.run.words_before, "history": self.run.history}

    def _contents(self, **losses):
        run = self.run
        return checkpoint.contents_of(run.model, run.args.settings(), run.vocabulary, {**self._losses(), **losses})

    def _write(self, path, contents, previous=None):
        """Save, or log why not: a full disk must not end a run that may find room again later."""
        if self.run.group.rank:
            return True
        self._set_aside()
        try:
            checkpoint.save(path, contents, previous)
        except OSError as error:
            log(f"| WARNING: {path} could not be written ({error.strerror or error}); "
                "training goes on, earlier files are intact, saving will be tried again")
            return False
        return True
