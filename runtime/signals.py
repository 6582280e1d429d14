"""How a run is asked to stop: Ctrl-C, SIGTERM, a lost terminal, a scheduler's SIGUSR1 or SIGUSR2, its own time limit.
And who may run at all."""
import math
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress

from runtime.errors import InputError
from runtime.log import warn


class Stop(Exception):
    """Training ends before its time, with everything saved: why, and the exit status."""

    def __init__(self, reason, status):
        super().__init__(reason)
        self.status = status


class Interruption:
    """`with Interruption(max_minutes) as interruption:` turns a signal into a Stop at the next `check()`.

    The first one is acknowledged at once; a second ends the process. Files are written atomically: nothing is damaged
    by it. A lost terminal that the process ignores, as under nohup, stays ignored. acknowledge: the line for it.
    """

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
                    if hasattr(signal, name))
    TIME_IS_UP = 1000      # in the place of a signal's number

    def __init__(self, max_minutes=None, acknowledge="stopping; press Ctrl-C again to give up"):
        self.received, self.acknowledge = None, acknowledge
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.max_minutes = max_minutes

    def __enter__(self):
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS
                        if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        self.received = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if number == signal.SIGINT:
            with suppress(OSError):        # as a write of its own: what is being printed may be in the way
                os.write(sys.stderr.fileno(), f"\n| {self.acknowledge}\n".encode())

    def asked(self):
        """0, or the number of the signal that has come, or TIME_IS_UP."""
        if self.received is not None:
            return self.received
        return self.TIME_IS_UP if self.deadline is not None and time.monotonic() >= self.deadline else 0

    def check(self):
        """Raise Stop if a signal has come or the time is up."""
        self.stop(self.asked())

    def stop(self, asked):
        """Raise the Stop that was `asked` for, if any. Status: 128 + signal as in a shell, 0 for the limit."""
        if asked == self.TIME_IS_UP:
            raise Stop(f"stopped after {self.max_minutes:g} minute{'s' * (self.max_minutes != 1)}", 0)
        if asked:
            raise Stop(f"interrupted by {signal.Signals(asked).name}", 128 + asked)


@contextmanager
def exclusive(path, wait=0):
    """Hold the lock file `path`. Raises InputError, with the holder's process id, if another process holds it.

    wait: for so many seconds at most, until it is free.

    The system drops the lock when its holder dies, however it dies: a file left behind locks nobody out. The package
    filelock does the same, but does not say who holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows: no lock there
        yield
        return
    deadline = time.monotonic() + wait
    while True:
        file = open(path, "ab+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if wait < math.inf else 0))
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).decode(errors="replace").strip() or "unknown"
            file.close()
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise InputError(f"{path}: process {holder} is running with the same --save; "
                             "wait for it, stop it, or choose another name") from None
        except OSError as error:          # some of NFS's, Lustre's and FUSE's have no locks
            warn(f"{path}: this file system has no locks ({error.strerror}); start no second run with the same --save")
        try:
            if os.fstat(file.fileno()).st_ino == os.stat(path).st_ino:
                break
        except FileNotFoundError:
            pass
        file.close()  # its last holder removed it between our two calls: lock the new one
    try:
        file.truncate(0)
        try:
            file.write(f"{os.getpid()}\n".encode())
        except OSError as error:                        # of a full disk, which says no file
            error.filename = path
            raise
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        file.close()
