"""Where kept files lie, and how a file is written so that it is there whole or not at all."""
import errno
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress

from runtime.errors import InputError


def default_cache():
    """Folder for what can be made again: $AWD_LSTM_CACHE, $XDG_CACHE_HOME/awd-lstm or ~/.cache/awd-lstm.

    Of a user who has no home, as some have in containers, it is in the present folder.
    """
    home = os.path.expanduser("~")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("" if home == "~" else home, ".cache")
    return os.environ.get("AWD_LSTM_CACHE") or os.path.join(caches, "awd-lstm")


def check_output(path):
    """Raise InputError where `atomic_write` has no use for `path`.

    There is something that is not a regular file, whose place an output would take, or the name is too long.
    """
    if not path:
        raise InputError("the name of a file to write is empty; give one")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; give the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is not a regular file, but a device or a pipe; give the name of a file")
    try:
        os.lstat(f"{os.path.realpath(path)}.partial")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise too_long(path) from None


def too_long(path):
    return InputError(f"{path}: the name is too long; give a shorter one")


def part_of_name(text):
    """Any text as a part of a file's name: at most 100 bytes of it, for file systems take names of 255."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text)
    return cut_name(name, 100)


def cut_name(name, most):
    """At most so many bytes of it."""
    return name.encode()[:most].decode(errors="ignore")


@contextmanager
def atomic_write(path, mode="w", previous=None):
    """A file, open for writing, that takes the name `path` when the block ends without an error.

    At any moment, also through a crash, the old file or the new one is whole under that name: the new one is written
    beside it, synced and renamed. A link stays, its target is replaced. previous: a name under which the old file is
    kept. Raises OSError where the file cannot be written; then the old one is untouched. InputError for a path at which
    there is something that is no file, such as a device: it would be replaced.
    """
    check_output(path)
    target = os.path.realpath(path)
    partial = f"{target}.partial"
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape"}
        with open(partial, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous and os.path.exists(target):
            os.replace(target, previous)
        os.replace(partial, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(partial)      # a full disk needs the room
        if isinstance(error, OSError) and error.filename in (None, partial):
            error.filename = path
        raise
    _sync_folder(os.path.dirname(target))


def atomic_copy(source, target):
    """Copy a file as `atomic_write` writes one."""
    with open(source, "rb") as original, atomic_write(target, "wb") as copy:
        shutil.copyfileobj(original, copy)


@contextmanager
def atomic_folder(path, replace=False):
    """A new folder, to be filled with files, that takes the name `path` when the block ends without an error.

    It is filled in a hidden one beside it, another for each process, synced and renamed. Without `replace`, OSError
    where there is anything at `path` but an empty folder; with it, what is there goes. InputError for an empty name,
    which would stand for the folder that the process is in.
    """
    if not path:
        raise InputError("the name of the folder to write is empty; give one")
    target = os.path.realpath(path)
    parent, name = os.path.split(target)
    os.makedirs(parent, exist_ok=True)
    try:
        hidden = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise too_long(path) from None
        raise
    new, old = os.path.join(hidden, "new"), os.path.join(hidden, "old")
    try:
        os.mkdir(new)
        yield new
        for file_name in os.listdir(new):
            with open(os.path.join(new, file_name), "rb+") as file:
                os.fsync(file.fileno())
        _sync_folder(new)
        try:
            if replace and os.path.lexists(target):
                os.rename(target, old)
            os.rename(new, target)
        finally:                                        # also where a signal has come between the two
            if os.path.lexists(old) and not os.path.lexists(target):
                os.rename(old, target)
        _sync_folder(parent)
    except OSError as error:
        error.filename = error.filename or path         # of a full disk it says no file
        raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _sync_folder(path):
    """Make a rename durable, where the file system can: CIFS and some of FUSE's refuse it for folders."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(folder)
