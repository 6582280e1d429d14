"""The files of a run, by the name that --save gives it."""
import os
import re
from glob import escape, glob

from runtime.errors import InputError


def check_state_is_there(path):
    if not os.path.exists(path):
        raise InputError(f"{path}: there is no such state to continue; --resume auto takes the one that is there, or "
                         "starts")


class Files:
    """Names of what a run called `--save NAME.pt` writes; `stage` is "" for main.py, "finetuned" for finetune.py."""

    def __init__(self, save, stage=""):
        stem = save[:-3] if save.endswith(".pt") else save
        self.stem, self.stage = stem, stage
        self.base = base = f"{stem}.{stage}" if stage else stem
        self.name = os.path.basename(base)
        self.best = f"{base}.pt" if stage else save   # the best model so far
        self.state = f"{base}.state.pt"               # where training stands, to continue from
        self.previous = f"{base}.state.previous.pt"   # the state before that, in case the newest is damaged
        self.log = f"{base}.jsonl"                    # one line of JSON per epoch
        self.result = f"{base}.result.json"           # what came out in the end
        self.lock = f"{base}.lock"

    def kept(self):
        """All of them, the states first: renamed in this order, no state is ever left without the rest of its run."""
        return [self.state, self.previous, self.best, self.log, self.result]

    def at_words(self, words):
        """The model as it was after so many words, in whole thousands: NAME.500K.pt, NAME.10M.pt."""
        return f"{self.base}.{words // 10**6}M.pt" if words % 10**6 == 0 else f"{self.base}.{words // 10**3}K.pt"

    def all_at_words(self):
        """Those of any number of words that are there."""
        return [name for name in glob(f"{escape(self.base)}.*.pt")
                if re.fullmatch(r"\.\d+[KM]\.pt", name[len(self.base):])]

    def set_aside(self):
        """Give what an earlier run left under these names numbered names -> the number, or None if nothing was there.

        What was fine-tuned from the earlier model goes with it.
        """
        stages = [self, *([] if self.stage else [Files(self.best, "finetuned")])]
        old = [name for files in stages for name in (*files.kept(), *files.all_at_words()) if os.path.lexists(name)]
        if not old:
            return None
        number = 1
        while any(os.path.lexists(self._numbered(name, number)) for name in old):
            number += 1
        for name in old:
            os.rename(name, self._numbered(name, number))
        return number

    def _numbered(self, name, number):
        return f"{self.stem}.{number}{name[len(self.stem):]}"
