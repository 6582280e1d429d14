"""A search: workers take up trials until none is left, each decision in the shared storage."""
import math
import os
import shutil
import signal
import time
from types import SimpleNamespace

import checkpoint
from checkpoint import Files
from runtime.log import log, perplexity, warn
from runtime.paths import atomic_write
from runtime.signals import Interruption, Stop
from tuning import halving, workers
from tuning.halving import BAD, PAUSED, RUNNING, Trial
from tuning.report import shown
from tuning.storage import Storage, claim

PATIENCE = 3             # so often may a trial's process be killed before its next epoch


class Names:
    """What a search called `--save NAME.pt` writes, besides the best trial as a run of that name."""

    def __init__(self, save):
        self.best = Files(save)
        self.folder = f"{self.best.stem}.search"
        self.storage = os.path.join(self.folder, "search.sqlite")
        self.table, self.picture = f"{self.best.stem}.trials.tsv", f"{self.best.stem}.trials.png"

    def trial(self, number):
        """The files of a trial's run."""
        return Files(os.path.join(self.folder, f"trial-{number:04}.pt"))

    def log(self, number):
        """What a trial's main.py has printed."""
        return f"{self.trial(number).stem}.log"


class Search:
    """space: Dimensions. draw: of `sampling.SAMPLERS`. fixed, flags: as of `workers.command`. limit: how many trials.

    first: settings of the first trial, which are not drawn.
    `show(read)` is called whenever something has changed; `read()` gives the trials as they are then.
    """

    def __init__(self, names, space, draw, rungs, reduction, limit, seed, fixed, flags, first=(),
                 show=lambda read: None):
        self.names, self.space, self.draw, self.rungs, self.reduction = names, space, draw, rungs, reduction
        self.limit, self.seed, self.fixed, self.flags, self.first, self.show = limit, seed, fixed, flags, first, show
        self.storage = Storage(names.storage)
        self.busy = {}                                # worker -> what it is at: trial, process, log

    def trials(self):
        with self.storage.transaction():
            return self.storage.trials()

    # ---- trials

    def run(self, environments, max_minutes=None):
        """Until no trial is left to run, here or by another process -> the Stop that ended it before, or None.

        environments: of each worker.
        """
        with Interruption(max_minutes, "stopping the trials; press Ctrl-C again to give up") as interruption:
            try:
                while True:
                    interruption.check()
                    self._collect()
                    waiting = self._start([worker for worker in range(len(environments)) if worker not in self.busy],
                                          environments)
                    if not (self.busy or waiting):
                        return None
                    self._wait(interruption, 2 if len(self.busy) < len(environments) else 3600)
            except Stop as stop:
                return stop
            finally:
                self._stop()

    def _wait(self, interruption, seconds):
        """Until a trial has ended, at most so long."""
        until = time.monotonic() + seconds
        while (time.monotonic() < until and not interruption.asked()
               and all(at.process.poll() is None for at in self.busy.values())):
            time.sleep(0.05)

    def _start(self, idle, environments):
        """Give every idle worker a trial -> whether there are trials that others work on."""
        for worker in idle:
            with self.storage.transaction():
                trial, file = self._next()
                if trial is None:
                    return any(trial.state == RUNNING for trial in self.storage.trials())
                self.storage.save(trial)
            words = workers.command([*self.fixed, "--no-test"], self.flags, trial.settings, self.rungs[trial.rung],
                                    self.names.trial(trial.number).best)
            self.busy[worker] = SimpleNamespace(number=trial.number, log=file,
                                                process=workers.start(words, file, environments[worker]))
            self.show(self.trials)
        return True

    def _next(self):
        """What to do next -> trial, RUNNING, and its log, claimed; or None, None.

        First what a process that has died left undone, then promotions, then new trials.
        """
        trials = self.storage.trials()
        own = {at.number for at in self.busy.values()}
        for trial in trials:
            file = trial.state == RUNNING and trial.number not in own and claim(self.names.log(trial.number))
            if file:
                return trial, file
        trial = halving.next_promotion(trials, self.rungs, self.reduction, len(trials) >= self.limit)
        if trial is not None:
            trial.rung, trial.state, trial.killed = trial.rung + 1, RUNNING, []
        elif len(trials) < self.limit:
            trial = Trial(len(trials), self.draw(self.space, trials, self.rungs, self.seed))
            trial.settings.update(() if trials else self.first)
        else:
            return None, None
        return trial, claim(self.names.log(trial.number), wait=True)

    def _collect(self):
        """Write down how the trials of this process that have ended did."""
        for worker, at in list(self.busy.items()):
            status = at.process.poll()
            if status is None:
                continue
            with self.storage.transaction():
                trial = self.storage.trials()[at.number]
                self._judge(trial, status)
                self.storage.save(trial)
            at.log.close()                              # only now may another take it up
            del self.busy[worker]
            log(*self._report(trial, status))
            self.show(self.trials)

    def _judge(self, trial, status):
        losses, seconds = workers.epochs_done(self.names.trial(trial.number).log)
        epochs = self.rungs[trial.rung]
        if status == 0 and len(losses) >= epochs:
            trial.losses, trial.seconds, trial.state = losses[:epochs], seconds, PAUSED
            if trial.loss() == math.inf:
                trial.state, trial.reason = BAD, "no epoch had a finite validation loss"
        elif status < 0 or status > 128:                # asked to stop, or killed: it goes on
            if status > 128 or -status in Interruption.SIGNALS:
                return
            trial.killed.append(len(losses))
            if trial.killed[-PATIENCE:] == [len(losses)] * PATIENCE:
                trial.state = BAD
                trial.reason = f"killed {PATIENCE} times in epoch {len(losses) + 1}, by {signal.Signals(-status).name}"
        else:
            trial.state, trial.reason = BAD, workers.complaint(self.names.log(trial.number))

    def _report(self, trial, status):
        epochs = f"{self.rungs[trial.rung]} epochs" if self.rungs[trial.rung] > 1 else "1 epoch"
        where = f"| trial {trial.number:3d} | {epochs:>9}"
        settings, loss = shown(trial.settings), trial.loss()
        if trial.state == PAUSED:
            return [f"{where} | valid loss {loss:6.3f} | valid ppl {perplexity(loss):8.2f} | {settings}"]
        if trial.state == BAD:
            return [f"{where} | bad: {trial.reason} | {settings}"]
        return [f"{where} | its process ended with status {status}: it will be continued"]

    def _stop(self):
        """Ask the trials of this process to save and end, and wait for that."""
        for at in self.busy.values():
            at.process.terminate()
        for at in self.busy.values():
            at.process.wait()
        self._collect()

    # ---- the best

    def leave_best(self):
        """Put the best trial so far under `--save` as a run of its own, tested by the command that makes it -> Trial.

        What was there before keeps a numbered name. None where no trial has reached a rung.
        """
        files = self.names.best
        with claim(os.path.join(self.names.folder, "best.log"), wait=True) as file:       # one process at a time
            with self.storage.transaction():
                best, left = halving.best(self.storage.trials()), self.storage.get("best")
            if best is None:
                return None
            source = self.names.trial(best.number)
            epochs = len(checkpoint.read(source.state)["losses"]["history"])
            if left == [best.number, epochs] and os.path.exists(files.best):
                return best
            files.set_aside()
            for old, new in (source.state, files.state), (source.best, files.best), (source.log, files.log):
                with open(old, "rb") as original, atomic_write(new, "wb") as copy:
                    shutil.copyfileobj(original, copy)
            words = workers.command(self.fixed, self.flags, best.settings, epochs, files.best)
            status = workers.start(words, file).wait()
            if status:
                warn(f"{files.best} could not be tested: {workers.complaint(file.name)}")
                return best
            with self.storage.transaction():
                self.storage.put("best", [best.number, epochs])
        return best
