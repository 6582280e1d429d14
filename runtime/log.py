"""How a run logs: lines above the progress bar, and the three published figures of a loss."""
import math
import os
import shutil
import sys
from contextlib import contextmanager, redirect_stdout

from tqdm import tqdm


def rule(sign):
    """A line of 89 signs, as published; in a narrower terminal as many as it has room for."""
    return sign * min(89, shutil.get_terminal_size((89, 24)).columns if sys.stdout.isatty() else 89)


_outlives_its_log = False


@contextmanager
def surviving_a_lost_log():
    """Inside the block a log that cannot be written ends nothing.

    Where its reader goes away, such as `head`, nothing more is printed; where a disk is full, what finds no room.
    """
    global _outlives_its_log
    _outlives_its_log = True
    try:
        yield
    finally:
        _outlives_its_log = False
        try:
            sys.stdout.flush()
        except OSError:
            _print_nothing_more()


def log(*lines):
    """Print log lines, above a progress bar if there is one."""
    try:
        for line in lines:
            tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        if not _outlives_its_log:
            raise
        if isinstance(error, BrokenPipeError):
            _print_nothing_more()


def _print_nothing_more():
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())               # also for what is still in the stream's buffer
    os.close(nothing)


def warn(*lines):
    """Log what is to be known before it is too late; None is nothing to be known."""
    log(*(f"| WARNING: {line}" for line in lines if line))


_data = []               # what was standard output before the log went to stderr


@contextmanager
def log_on_stderr():
    """Inside the block the log goes to stderr: standard output is for data, which go to `data_stream()`."""
    _data.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _data.pop()


def data_stream():
    """Standard output, also inside `log_on_stderr`; it writes UTF-8, unless it is that of a notebook."""
    stream = _data[-1] if _data else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    return stream


def perplexity(loss):
    """exp of a loss in nats, infinity instead of an overflow."""
    return math.exp(loss) if loss < 700 else math.inf


def report(loss, split=""):
    """The three figures of every published log line, from a mean loss in nats; `split` as in "valid "."""
    return f"{split}loss {loss:5.2f} | {split}ppl {perplexity(loss):8.2f} | {split}bpc {loss / math.log(2):8.3f}"


def report_tokens(loss, split=""):
    """The same in lines of our own, where bits are called what they are: of tokens, which may be words."""
    return (f"{split}loss {loss:5.2f} | {split}ppl {perplexity(loss):8.2f} | {split}bits per token "
            f"{loss / math.log(2):.3f}")


def counted(number, things):
    """"1 line", "2 lines", "12,345 tokens of the text": `things` is what more than one of them is called."""
    first, *rest = things.split(" ")
    return " ".join([f"{number:,}", first.removesuffix("s") if number == 1 else first, *rest])


def duration(seconds):
    """Seconds as one reads them: "12 s", "3.4 minutes", "1.25 hours"."""
    return (f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes" if seconds < 5400 else
            f"{seconds / 3600:.2f} hours")
