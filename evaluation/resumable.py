"""A long pass over a text as one stream, kept in a file when it is interrupted, to go on from there.

N tokens, E width of a feature.
"""
import os
import time
from contextlib import contextmanager

import torch
from tqdm import tqdm

import checkpoint
from corpus.cache import content_key
from evaluation.loss import evaluating, windows
from runtime.errors import InputError
from runtime.log import log, warn
from runtime.processes import resume_command
from runtime.run_files import Files, check_state_is_there
from runtime.signals import Interruption, Stop
from utils import flat_hidden

PARTS = ("features", "targets", "vocab")


class ResumablePass:
    """Used as `with ResumablePass(path, args) as reading:`, `path` being the model's file and `stage` naming its own.

    Inside, a signal or `--max-minutes` ends the pass with what was read saved; `status` is then what the script
    should exit with. When the block ends without an error, the file is removed.
    """
    parts = PARTS                                        # what a text's entry has an item per window of

    def __init__(self, path, args, stage="pointer"):
        self.file, self.args, self.stage = Files(path, stage).state, args, stage
        self.key = content_key([path], ["long pass", args.precision])    # of the model's very weights
        self.splits = {}                                 # name -> lists of PARTS with an item per window, and hidden
        self.status = 0

    def __enter__(self):
        if self.args.resume not in (None, "auto"):
            self.file = self.args.resume
        if self.args.resume not in (None, "auto"):
            check_state_is_there(self.file)
        if self.args.resume and os.path.exists(self.file):
            state = checkpoint.read(self.file)
            if state.get("key") != self.key:
                raise InputError(f"{self.file} is of another model; leave --resume out to start over")
            if state.get("stage", self.stage) != self.stage:      # states of earlier versions do not say it
                raise InputError(f"{self.file} is of another script or text, or of other models of an ensemble; leave "
                                 "--resume out to start over")
            self.splits = state.get("splits")
            log(f"| continuing from {self.file}")
        elif os.path.exists(self.file):
            warn(f"{self.file} is what an interrupted pass has read so far; this run takes its place (--resume auto "
                 "continues it)")
        self.interruption = Interruption(self.args.max_minutes).__enter__()
        self.saved = time.monotonic()
        return self

    def __exit__(self, kind, error, trace):
        self.interruption.__exit__()
        if kind is Stop:
            if self._save("the script ends without it") or os.path.exists(self.file):
                log(f"| {error}", f"| to continue: {resume_command()}")
            else:
                log(f"| {error}; nothing of it is saved")
            self.status = error.status
        elif kind is None and os.path.exists(self.file):
            os.unlink(self.file)
        return kind is Stop

    def inside(self, other):
        """Read as a part of another pass: stopped with it, and kept in its file -> self."""
        self.file, self.splits, self.interruption, self._pause = (other.file, other.splits, other.interruption,
                                                                  other._pause)
        return self

    def read(self, split, model, stream):
        """Run the model over `stream` (N + 1, 1) -> features (N, E), targets (N,), their log-probabilities (N,)."""
        seen = self._seen(split, model, stream)
        row = sum(map(len, seen["targets"]))
        with evaluating(model), tqdm(total=len(stream) - 1, initial=row, disable=None, leave=False) as bar:
            for features, targets, hidden in windows(model, stream, self.args.bptt, row, seen["hidden"]):
                logprobs = model.target_logprob(features, targets)
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

    def _save(self, otherwise="reading goes on"):
        """Write what was read so far -> whether it was written; `otherwise`: what is then."""
        self.saved = time.monotonic()
        with self._untrusted():
            for seen in self.splits.values():     # a file of few arrays is read and written faster than one of many
                if isinstance(seen, dict) and seen.get("targets"):
                    seen.update({part: [torch.cat(seen[part])] for part in self.parts if seen.get(part)})
        try:
            checkpoint.save(self.file, {"key": self.key, "stage": self.stage, "splits": self.splits})
        except OSError as error:
            log(f"| WARNING: {self.file} could not be written ({error.strerror or error}); {otherwise}")
            return False
        return True

    def _seen(self, split, model, stream):
        """What was read of `stream` already, on its device; InputError unless it is sound and of this very text."""
        with self._untrusted():
            if split not in self.splits:
                self.splits[split] = {**{name: [] for name in PARTS}, "hidden": None}
            seen = self.splits[split]
            first, rows = stream[0, 0].item(), sum(map(len, seen["targets"]))
            if seen.setdefault("first", first) != first:              # which is no target, but was read
                raise ValueError("another text")
            if rows:
                expected = (stream.new_empty(rows, model.nhidlast, dtype=torch.float32), stream[1:rows + 1, 0],
                            stream.new_empty(rows, dtype=torch.float32))
                for name, like in zip(PARTS, expected):
                    checkpoint.check_tensor(torch.cat(seen[name]).cpu(), like.cpu(), name)
                    seen[name] = [part.to(stream.device) for part in seen[name]]
                if not torch.equal(torch.cat(seen["targets"]), expected[1]):
                    raise ValueError("another text")
                fresh = model.init_hidden(1)
                for saved, zeros in zip(flat_hidden(seen["hidden"]), flat_hidden(fresh), strict=True):
                    checkpoint.check_tensor(saved.cpu(), zeros.cpu(), "hidden")
                    zeros.copy_(saved)
                seen["hidden"] = fresh
        return seen

    @contextmanager
    def _untrusted(self):
        """Whatever is wrong with what the file held is an InputError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            raise InputError(f"{self.file} is damaged or of another text; leave --resume out to start over") from None
