"""A run's curves for TensorBoard, for those who ask for them; nothing of it is imported for others."""
import os

from runtime.errors import InputError

SHOWN = ("lr", "train_loss", "valid_loss", "valid_loss_raw", "valid_loss_averaged", "tokens_per_second",
         "peak_memory_mib")


def open_board(folder, name, epochs_before=0):
    """What writes a run's curves into `folder`/`name`, a run's own -> SummaryWriter.

    InputError where the package is missing or the folder cannot be written to.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    try:
        return SummaryWriter(os.path.join(folder, name), purge_step=epochs_before + 1)
    except OSError as error:
        raise InputError(f"--tensorboard {folder}: {error.strerror or error}") from None


def show(board, epoch):
    """A point of every curve: one entry of a run's history."""
    for name in SHOWN:
        if epoch[name] is not None:
            board.add_scalar(name, epoch[name], epoch["epoch"])
    board.flush()
