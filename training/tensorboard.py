"""A run's curves for TensorBoard, for those who ask for them; nothing of it is imported for others."""
import os
import threading
from contextlib import contextmanager

from runtime.errors import InputError
from runtime.log import warn

SHOWN = ("lr", "train_loss", "valid_loss", "valid_loss_raw", "valid_loss_averaged", "tokens_per_second",
         "peak_memory_mib")


class Board:
    """A run's curves in `folder`/`name`, a run's own. A folder that cannot be written to any more ends no run.

    InputError where the package is missing or the folder cannot be written to from the start.
    """

    def __init__(self, folder, name, epochs_before=0):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
        self.folder = folder
        threading.excepthook = _without_writers
        try:
            self.writer = SummaryWriter(os.path.join(folder, name), purge_step=epochs_before + 1)
        except OSError as error:
            raise InputError(f"--tensorboard {folder}: {error.strerror or error}") from None

    def show(self, epoch):
        """A point of every curve: one entry of a run's history."""
        with self._as_long_as_it_can_be_written():
            for name in SHOWN:
                if self.writer and epoch[name] is not None:
                    self.writer.add_scalar(name, epoch[name], epoch["epoch"])
            if self.writer:
                self.writer.flush()

    def close(self):
        with self._as_long_as_it_can_be_written():
            if self.writer:
                self.writer.close()

    @contextmanager
    def _as_long_as_it_can_be_written(self):
        try:
            yield
        except OSError as error:
            self.writer = None
            warn(f"--tensorboard {self.folder}: {error.strerror or error}; the curves end here, training goes on")


def _without_writers(args):
    """As `threading.excepthook`: an error of the thread that writes curves is raised once more, in `Board`."""
    if not type(args.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(args)
