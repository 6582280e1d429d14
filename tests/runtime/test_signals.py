"""Who may run, and how a run is asked to stop."""
import errno
import fcntl
import os
import signal

import pytest

from runtime import signals
from runtime.errors import InputError
from runtime.signals import Interruption, Stop, exclusive


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_ends_no_run(number, monkeypatch, tmp_path, capsys):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path / "a.lock"):
        assert (tmp_path / "a.lock").read_text() == f"{os.getpid()}\n"
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1 and os.strerror(number) in said and "a.lock" in said
    assert not (tmp_path / "a.lock").exists()


def test_a_lock_that_is_held_is_refused(tmp_path):
    with exclusive(tmp_path / "a.lock"):
        with pytest.raises(InputError, match=f"process {os.getpid()} is running"), exclusive(tmp_path / "a.lock"):
            pass
        assert (tmp_path / "a.lock").exists()


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_a_stop(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Stop, match=f"interrupted by {number.name}") as stop:
            interruption.check()
    assert stop.value.status == 128 + number and signal.getsignal(number) == before


def test_under_nohup_a_lost_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            interruption.check()
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.asked() == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_locks(tmp_path):
    path = str(tmp_path / "a.lock")
    (tmp_path / "a.lock").write_text("999999999\n")  # of a process long dead
    with signals.exclusive(path):
        assert (tmp_path / "a.lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(InputError, match=f"process {os.getpid()} "), signals.exclusive(path):
            pass
    assert not os.path.exists(path)
