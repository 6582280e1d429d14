"""Where a search is kept: an SQLite file that several processes, also of several machines, share.

Every decision is one transaction, in which no other process reads or writes: none is taken twice, and a crash leaves it
taken or not. Who works on a trial is not in the file but in locks (see `claim`), which the system drops when their
holder dies, however it dies.
"""
import json
import math
import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, fields

from runtime.errors import InputError
from runtime.record import finite
from tuning.halving import Trial

SCHEMA = ("CREATE TABLE IF NOT EXISTS search (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
          "CREATE TABLE IF NOT EXISTS trials (number INTEGER PRIMARY KEY, settings TEXT NOT NULL, rung INTEGER NOT "
          "NULL, state TEXT NOT NULL, losses TEXT NOT NULL, seconds REAL NOT NULL, killed TEXT NOT NULL, "
          "reason TEXT NOT NULL)")
COLUMNS = tuple(field.name for field in fields(Trial))
JSON = {"settings", "losses", "killed"}


class Storage:
    """The search in the file `path`, made if it is not there. Its methods are called inside `with transaction():`."""

    def __init__(self, path):
        self.path = path
        with self.transaction():
            for statement in SCHEMA:
                self._run(statement)

    @contextmanager
    def transaction(self):
        """Inside the block this process alone reads and writes; an error in it takes back what was written.

        Raises InputError where the file cannot be used.
        """
        try:
            with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as self._file:
                self._run("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._run("ROLLBACK")
                    raise
                self._run("COMMIT")
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be used: {error}") from None

    def _run(self, statement, values=()):
        return self._file.execute(statement, values)

    def get(self, name):
        """What was put under `name`, or None."""
        row = self._run("SELECT value FROM search WHERE name = ?", (name,)).fetchone()
        return row and self._read(json.loads, row[0])

    def put(self, name, value):
        self._run("INSERT OR REPLACE INTO search VALUES (?, ?)", (name, json.dumps(value)))

    def trials(self):
        """All trials, by number."""
        rows = self._run(f"SELECT {', '.join(COLUMNS)} FROM trials ORDER BY number").fetchall()
        return [self._read(_trial, row) for row in rows]

    def save(self, trial):
        """Write a trial, new or changed."""
        values = [json.dumps(finite(value)) if name in JSON else value for name, value in asdict(trial).items()]
        self._run(f"INSERT OR REPLACE INTO trials ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
                  values)

    def _read(self, function, value):
        try:
            return function(value)
        except (TypeError, ValueError, KeyError):
            raise InputError(f"{self.path} is damaged, or not a search of this program") from None


def _trial(row):
    trial = Trial(**{name: json.loads(value) if name in JSON else value for name, value in zip(COLUMNS, row)})
    trial.losses = [math.inf if loss is None else float(loss) for loss in trial.losses]
    return trial


def claim(path, wait=False):
    """The log `path`, opened for appending and locked -> file, or None where another holds the lock.

    Who holds it works on the trial of that log. A process that it is handed on to as output holds it, too: the trial
    stays claimed until that has ended. wait: for the lock. Raises InputError where the system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        raise InputError("tune.py needs the file locks of Linux or macOS") from None
    file = open(path, "ab")
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if not wait:
                file.close()
                return None
            time.sleep(0.1)
