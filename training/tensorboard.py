"""A run's curves for TensorBoard, for those who ask for them; nothing of it is imported for others."""
import os

from runtime.errors import InputError

SHOWN = ("lr", "train_loss", "valid_loss", "valid_loss_raw", "valid_loss_averaged", "tokens_per_second",
         "peak_memory_mib")


class Board:
    """Writes a point of every curve per epoch into `folder`/`name`, a run's own; without a folder, nothing.

    Raises InputError where the package is missing or the folder cannot be written to.
    """

    def __init__(self, folder, name, epochs_before=0):
        self.writer = None
        if not folder:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
        try:
            self.writer = SummaryWriter(os.path.join(folder, name), purge_step=epochs_before + 1)
        except OSError as error:
            raise InputError(f"--tensorboard {folder}: {error.strerror or error}") from None

    def show(self, epoch):
        """One entry of a run's history."""
        if self.writer:
            for name in SHOWN:
                if epoch[name] is not None:
                    self.writer.add_scalar(name, epoch[name], epoch["epoch"])
            self.writer.flush()

    def close(self):
        if self.writer:
            self.writer.close()
