"""A long pass over a text in one column, kept in a file when it is interrupted, to go on from there.

N tokens, E width of a feature.
"""
import os
import time
from contextlib import contextmanager

import torch
from tqdm import tqdm

import checkpoint
import engine
import resume
from corpus_cache import content_key
from errors import InputError
from interruption import Interruption, Stop
from meter import say

PARTS = ("features", "targets", "vocab")


class LongPass:
    """Used as `with LongPass(path, args) as reading:`, `path` being the model's file and `stage` naming its own.

    Inside, a signal or `--max-minutes` ends the pass with what was read saved; `status` is then what the script
    should exit with. When the block ends as it should, the file has served.
    """

    def __init__(self, path, args, stage="pointer"):
        self.file, self.args = checkpoint.Files(path, stage).state, args
        self.key = content_key([path], ["long pass", args.precision])    # of the model's very weights
        self.splits = {}                                 # name -> lists of PARTS with an item per window, and hidden
        self.status = 0

    def __enter__(self):
        if self.args.resume not in (None, "auto"):
            self.file = self.args.resume
        if self.args.resume and (self.args.resume != "auto" or os.path.exists(self.file)):
            state = checkpoint.read(self.file)
            if state.get("key") != self.key:
                raise InputError(f"{self.file} is of another model; leave --resume out to start over")
            self.splits = state.get("splits")
            say(f"| continuing from {self.file}")
        self.interruption = Interruption(self.args.max_minutes).__enter__()
        self.saved = time.monotonic()
        return self

    def __exit__(self, kind, error, trace):
        self.interruption.__exit__()
        if kind is Stop:
            self._save()
            say(f"| {error}", f"| to continue: {resume.command()}")
            self.status = error.status
        elif kind is None and os.path.exists(self.file):
            os.unlink(self.file)
        return kind is Stop

    def stream(self, split, model, criterion, column):
        """Run the model over `column` (N + 1, 1) -> features (N, E), targets (N,), their log-probabilities (N,)."""
        seen = self._seen(split, model, column)
        row = sum(map(len, seen["targets"]))
        weight, bias = model.decoder.weight, model.decoder.bias
        with engine.evaluating(model), tqdm(total=len(column) - 1, initial=row, disable=None, leave=False) as bar:
            for features, targets, hidden in engine.windows(model, column, self.args.bptt, row, seen["hidden"]):
                logprobs = criterion.target_logprob(weight, bias, features, targets)
                for name, values in zip(PARTS, (features, targets, logprobs)):
                    seen[name].append(values)
                seen["hidden"] = hidden
                bar.update(len(targets))
                self._pause()
            return [torch.cat(seen[name]) for name in PARTS]

    def _pause(self):
        self.interruption.check()
        if time.monotonic() - self.saved >= 60 * self.args.checkpoint_minutes:
            self._save()

    def _save(self):
        self.saved = time.monotonic()
        try:
            checkpoint.save(self.file, {"key": self.key, "splits": self.splits})
        except OSError as error:
            say(f"| WARNING: {self.file} could not be written ({error.strerror or error}); reading goes on")

    def _seen(self, split, model, column):
        """What was read of `column` already, on its device; InputError unless it is sound and of this very text."""
        with self._distrusting():
            if split not in self.splits:
                self.splits[split] = {**{name: [] for name in PARTS}, "hidden": None}
            seen = self.splits[split]
            rows = sum(map(len, seen["targets"]))
            if rows:
                wanted = (column.new_empty(rows, model.decoder.in_features, dtype=torch.float32), column[1:rows + 1, 0],
                          column.new_empty(rows, dtype=torch.float32))
                for name, like in zip(PARTS, wanted):
                    checkpoint.check_tensor(torch.cat(seen[name]).cpu(), like.cpu(), name)
                    seen[name] = [part.to(column.device) for part in seen[name]]
                if not torch.equal(torch.cat(seen["targets"]), wanted[1]):
                    raise ValueError("another text")
                fresh = model.init_hidden(1)
                for found, zeros in zip(engine.flat(seen["hidden"]), engine.flat(fresh), strict=True):
                    checkpoint.check_tensor(found.cpu(), zeros.cpu(), "hidden")
                    zeros.copy_(found)
                seen["hidden"] = fresh
        return seen

    @contextmanager
    def _distrusting(self):
        """Whatever is wrong with what the file held is an InputError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            raise InputError(f"{self.file} is damaged or of another text; leave --resume out to start over") from None
