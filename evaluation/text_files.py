"""Files that a text is read from, and that what was found about it goes to."""
import os
from contextlib import contextmanager

from runtime.errors import InputError
from runtime.log import data_stream
from runtime.paths import atomic_write, check_output


@contextmanager
def writing(path):
    """A text file that appears whole or not at all; `-` is standard output, also where that stands for stderr now.

    Links are followed, and a device or a pipe is written to, not replaced.
    """
    if path == "-":
        file = data_stream()
        yield file
        file.flush()
        return
    try:
        with (open(path, "w", encoding="utf-8", errors="surrogateescape") if _is_special(path) else
              atomic_write(path)) as file:
            yield file
    except OSError as error:
        error.filename = error.filename or path
        raise


def _is_special(path):
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_outputs(outputs, inputs):
    """Say now, not after the work, that one of `outputs` cannot be written, or stands in for another file."""
    taken = {os.path.realpath(path) for path in inputs if path not in (None, "-")}
    for path in outputs:
        if path != "-" and not _is_special(path):
            check_output(path)
        name = path if path == "-" else os.path.realpath(path)
        if name in taken:
            what = "standard output" if path == "-" else path
            raise InputError(f"{what} is wanted for two things; give every output a file of its own")
        if path != "-" and _is_special(path):
            continue                                                   # /dev/null holds any number of things
        taken.add(name)
        if path != "-":
            try:
                with open(f"{name}.partial", "w"):
                    pass
                os.unlink(f"{name}.partial")
            except OSError as error:
                raise InputError(f"{path} cannot be written ({error.strerror})") from None
