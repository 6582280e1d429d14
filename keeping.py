"""What a run saves, and how it goes on from that: its best model, its state, a line of JSON per epoch."""
import copy
import json
import math
import os
import shutil
import sys
import time
from contextlib import nullcontext

import checkpoint
import options
import record
import resume
from errors import InputError
from meter import say
from model import count_parameters, is_finite


class Keeper:
    """Keeps what `run` (run.py) comes to. Processes of a team put a state together; the first alone writes."""

    def __init__(self, run):
        self.run = run
        self.best_loss, self.unsaved_best = math.inf, None      # a best model that is still to be written
        self.saved, self.saving_seconds = time.monotonic(), 0.0

    def begin(self):
        """Go on from the state given, or start afresh; either way, leave what another run saved under our names."""
        run, files = self.run, self.run.files
        source, state = run.resumed or (None, None)
        own = [os.path.realpath(name) for name in (files.state, files.previous)]
        if not run.team.rank and (source is None or os.path.realpath(source) not in own):
            number = files.set_aside()
            if number:
                say(f"| {files.best} was there already: the earlier run's files now have {number} in their names")
        if source is None:
            return
        resume.put_back(run, state, source)
        if run.team.rank:
            return
        if os.path.realpath(source) == own[1] and os.path.exists(files.state):
            os.replace(files.state, f"{files.state}.damaged")  # not to be kept as a state to fall back on
        best = os.path.join(os.path.dirname(source), os.path.basename(state["progress"]["best"]))
        if os.path.realpath(best) != os.path.realpath(files.best) and os.path.exists(best):
            shutil.copyfile(best, files.best)
        try:
            self.best_loss = float(checkpoint.load(files.best)["losses"]["valid"])
        except (InputError, KeyError, TypeError):
            self.best_loss = math.inf  # gone or damaged: the next epoch's model is better than none
        record.remove(files.result)
        self.write_log(run.history, "w")
        say(f"| continuing from {source}: epoch {len(run.history) + 1}, batch {run.batch + 1}")

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
            if not (now and self._write(self.run.files.best, contents)):
                self.unsaved_best = copy.deepcopy(contents)

    def save_state(self):
        """Write all that continuing exactly needs -> whether it was written. Weights that are not finite are not."""
        if not is_finite((self.run.model, self.run.criterion)):
            say("| WARNING: the weights are not finite; the state saved before is kept")
            return False
        began = time.monotonic()
        captured = resume.capture(self.run)                          # of all processes
        self.write_best()
        written = self._write(self.run.files.state, {**self._contents(), **captured}, self.run.files.previous)
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
        if run.team.rank:
            return
        about = record.about(run.args, count_parameters(run.model, run.criterion))
        try:
            with open(run.files.log, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(record.finite({**epoch, **about})) + "\n" for epoch in epochs)
        except OSError as error:
            say(f"| WARNING: {run.files.log} could not be written ({error.strerror}); training goes on")

    def say_where(self, error, saved, status):
        """Last words of a run that was stopped: why, where its state is, and how it is continued."""
        state = self.run.files.state
        where = (f"everything is saved in {state}" if saved else
                 f"the last good state is in {state}" if os.path.exists(state) else "no state is saved")
        say(f"| {error}; {where}", f"| to continue: {resume.command()}")
        if status == 1:
            print(f"{os.path.basename(sys.argv[0])}: error: {error}; {where}", file=sys.stderr)

    def _contents(self):
        run = self.run
        return {"model": run.model.state_dict(), "criterion": run.criterion.state_dict(),
                "settings": options.settings(run.args), "vocabulary": run.vocabulary,
                "losses": {"valid": self.best_loss, "history": run.history}}

    def _write(self, path, contents, previous=None):
        """Save, or say why not: a full disk must not end a run that may find room again later."""
        if self.run.team.rank:
            return True
        try:
            checkpoint.save(path, contents, previous)
        except OSError as error:
            say(f"| WARNING: {path} could not be written ({error.strerror or error}); "
                "training goes on, earlier files are intact, saving will be tried again")
            return False
        return True
