"""Bad input ends in one clear line, not in a traceback. Every script imports this first: see `prepare_process`."""
import os
import signal
import sys

from runtime import program

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what, where, and what to do, in one line."""


class LostProcess(InputError):
    """Another process of the run has died: each of the others says so."""


def prepare_process():
    """What must be so before torch is imported, in a script of this project.

    Ctrl-C while modules are imported ends in silence. Closed standard streams are opened on nothing, or the next file
    would become one of them. What the encoding of a terminal does not have, such as that of a path, ends nothing.
    """
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):     # what an ASCII terminal cannot show is shown as \\u017e
        if hasattr(stream, "reconfigure") and (stream.errors == "strict" or
                                               not stream.encoding.lower().startswith("utf")):
            stream.reconfigure(errors="backslashreplace")


def _is_script_of_this_project():
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return file is not None and os.path.dirname(os.path.abspath(file)) == root


if _is_script_of_this_project():
    prepare_process()


def run(main):
    """Run a script's `main`; end the process with one line on stderr and status 1 for what the user can correct."""
    script = program.name()
    signal.signal(signal.SIGINT, _interrupt)
    if "LOCAL_RANK" not in os.environ:       # torchrun ends processes that may wait for others where no handler runs
        for number in ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:           # not under nohup
                signal.signal(number, _end)
    try:
        sys.exit(main())
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0" and not isinstance(error, LostProcess):
            sys.exit(1)                  # of several processes one says what all of them have found
        sys.exit(f"{script}: error: {' '.join(str(error).split())}")
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has gone: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"{script}: error: {error.filename or 'the system'}: {error.strerror or error}")
    except UnicodeEncodeError as error:      # of a name that is given to what takes UTF-8 alone, as databases do
        if not any("\ud800" <= character <= "\udfff" for character in error.object):
            raise
        sys.exit(f"{script}: error: the name {error.object[:100]!r} is not UTF-8; give another one")
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError:
        sys.exit(f"{script}: error: out of memory; a smaller batch size, model or corpus needs less")
    except RuntimeError as error:  # torch has no classes of its own for these in all its versions
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            sys.exit(f"{script}: error: out of memory; try a smaller --batch-size, --bptt or model")
        if "CUDA error" in str(error):
            sys.exit(f"{script}: error: the GPU failed: {str(error).splitlines()[0]}")
        raise


def _end(number, frame):
    """A signal that would end the process at once unwinds it: what it has begun to write is taken away."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def _interrupt(number, frame):
    """The first Ctrl-C unwinds; a second one ends the process at once, and in silence."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt
