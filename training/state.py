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
import sys
import time
from contextlib import contextmanager

import torch

import checkpoint
from runtime import record
from runtime.errors import InputError
from runtime.log import log
from runtime.paths import atomic_copy, atomic_write
from runtime.run_files import Files, check_state_is_there


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
    existing = [path for path in candidates if os.path.exists(path)]
    if not existing and args.resume == "auto":
        return None
    path, *before = existing or [args.resume]
    check_state_is_there(path)
    try:
        contents = checkpoint.load(path, flags)
    except InputError as error:
        if not before:
            raise
        print(f"{error}; trying the state before it", file=sys.stderr)
        path, = before
        contents = checkpoint.load(path, flags)
    if "progress" not in contents:
        raise InputError(f"{path} holds a model but not the state of a run; finetune.py trains it further")
    checkpoint.check_shapes(contents, path)
    return path, contents


@contextmanager
def continuing(source):
    """Inside the block a run takes over the state that was read from `source`: what fails there is damage of the file.
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{source} is damaged: its training state cannot be used ({type(error).__name__})") from None


def generator_states(group, lengths):
    """All random number generators: torch's own of every process of `group`, and `lengths`, which draws windows'."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    first, *others = group.all_gather({"cpu": torch.get_rng_state(), "cuda": cuda})
    return {**first, "others": others, "lengths": lengths.get_state()}


def load_generators(states, group, lengths, seed):
    """Set them to what `generator_states` gave; a process that was not there then draws numbers of its own, by `seed`
    and rank."""
    lengths.set_state(states["lengths"])
    ranks = [states, *states.get("others", [])]
    if group.rank >= len(ranks):
        group.seed_rank(seed)
        return
    torch.set_rng_state(ranks[group.rank]["cpu"])
    if ranks[group.rank]["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(ranks[group.rank]["cuda"][0])


def beside(source, best):
    """The best model of the run whose state is in the file `source`. best: its name when the state was saved: both may
    have a number since, and another run that name."""
    for end in (".state.pt", ".state.previous.pt"):
        if source.endswith(end):
            return source.removesuffix(end) + (".pt" if best.endswith(".pt") else "")
    return os.path.join(os.path.dirname(source), os.path.basename(best))


class CheckpointManager:
    """Writes a run's best model, state and log into `files`. Of several processes only `rank` 0 writes.

    best_loss: of the best model so far. unsaved_best: contents of a best model that is still to be written.
    """

    def __init__(self, files, rank=0):
        self.files, self.rank = files, rank
        self.best_loss, self.unsaved_best = math.inf, None
        self.saved, self.saving_seconds = time.monotonic(), 0.0
        self.in_the_way = True                                  # another run's files may have the names of ours

    def state_dict(self):
        """What a state says of the files of its run."""
        return {"best": self.files.best, "stage": self.files.stage}

    def check_state_dict(self, state, where):
        """InputError, starting with `where`, where `state_dict` of another script gave this; TypeError if nothing did.
        """
        if state["stage"] != self.files.stage:
            owner = "finetune.py" if state["stage"] else "main.py"
            raise InputError(f"{where} is one of {owner}; continue it with that")
        if not isinstance(state["best"], str):
            raise TypeError("the best model has no name")

    def continue_from(self, source, best):
        """Make the files those of the run whose state `source` was read. best: the name of its best model.

        What another run saved under our names stays as it is until the first file of this run is about to be written.
        """
        files, ours = self.files, [os.path.realpath(name) for name in (self.files.state, self.files.previous)]
        self.in_the_way = os.path.realpath(source) not in ours
        if self.rank:
            return
        if os.path.realpath(source) == ours[1] and os.path.exists(files.state):
            os.replace(files.state, f"{files.state}.damaged")  # not to be kept as a state to fall back on
        best = beside(source, best)
        self._set_aside()
        if os.path.realpath(best) != os.path.realpath(files.best) and os.path.exists(best):
            atomic_copy(best, files.best)
        try:
            self.best_loss = float(checkpoint.load(files.best)["losses"]["valid"])
        except (InputError, KeyError, TypeError):
            self.best_loss = math.inf  # gone or damaged: the next epoch's model is better than none

    def _set_aside(self):
        """Rename another run's files, before the first of ours is written."""
        if self.in_the_way and not self.rank:
            number = self.files.set_aside()
            if number:
                log(f"| {self.files.best} was there already: the earlier run's files now have {number} in their names")
        self.in_the_way = False

    def since_saved(self):
        """Seconds since the state was last saved, or the run began."""
        return time.monotonic() - self.saved

    def saving_is_cheap(self):
        """Whether saving the state now would take less than a twentieth of the time since it was last saved."""
        return self.since_saved() >= 20 * self.saving_seconds

    def save_best(self, contents, loss, now=True):
        """Write a model, `contents` as of `checkpoint.contents_of`, as the best so far, and remember its loss.

        What is not written now, or cannot be, is kept and written with the next state.
        """
        self.best_loss, self.unsaved_best = loss, None
        if not (now and self.save_model(self.files.best, contents)):
            self.unsaved_best = copy.deepcopy({**contents, "digest": checkpoint.digest(contents)})

    def save_model(self, path, contents):
        """Write a model with its digest -> whether it was written."""
        return self._write(path, {**contents, "digest": checkpoint.digest(contents)})

    def save_at_words(self, contents, words):
        """Write a model as the one after so many words."""
        path = self.files.at_words(words)
        if self.save_model(path, contents):
            log(f"| after {checkpoint.words_seen(contents):,} words: {path}")

    def save_state(self, contents):
        """Write all that continuing exactly needs, a dict as of `checkpoint.load` -> whether it was written."""
        began = time.monotonic()
        self.write_best()
        written = self._write(self.files.state, contents, self.files.previous)
        self.saved = time.monotonic()
        self.saving_seconds = self.saved - began
        return written

    def write_best(self):
        """Write the best model if it still has to be -> whether it is there."""
        if self.unsaved_best and self._write(self.files.best, self.unsaved_best):
            self.unsaved_best = None
        return not self.unsaved_best

    def best_contents(self):
        """The best model as a checkpoint. Raises InputError if there is none."""
        if self.best_loss == math.inf:
            raise InputError("there is no model to test: no epoch has ended with a finite validation loss")
        return self.unsaved_best or checkpoint.load(self.files.best)

    def write_log(self, epochs, about, mode="a"):
        """One line of JSON per epoch, each with `about`, all that one needs to know to make use of it."""
        if self.rank:
            return
        self._set_aside()
        try:
            whole = mode == "w"                                     # in the place of one that is there
            with atomic_write(self.files.log) if whole else open(self.files.log, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(record.finite({**epoch, **about})) + "\n" for epoch in epochs)
        except OSError as error:
            log(f"| WARNING: {self.files.log} could not be written ({error.strerror}); training goes on")

    def _write(self, path, contents, previous=None):
        """Save, or log why not: a full disk must not end a run that may find room again later."""
        if self.rank:
            return True
        self._set_aside()
        try:
            checkpoint.save(path, contents, previous)
        except OSError as error:
            log(f"| WARNING: {path} could not be written ({error.strerror or error}); "
                "training goes on, earlier files are intact, saving will be tried again")
            return False
        return True
