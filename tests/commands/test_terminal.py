"""What a terminal of 80 columns shows of a training run."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from conftest import ROOT, SMALL

COLUMNS = 80


@pytest.fixture(scope="module")
def shown(toy, tmp_path_factory):
    """All that main.py writes to such a terminal, without the control characters that move the cursor up."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    words = [sys.executable, ROOT / "main.py", "--data", toy, *SMALL, "--nhid", 200, "--epochs", 3]
    process = subprocess.Popen(list(map(str, words)), cwd=tmp_path_factory.mktemp("terminal"), stdout=slave,
                               stderr=slave)
    os.close(slave)
    found = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:                                    # the process has ended, and nobody holds the other side
            break
        if not part:
            break
        found += part
    assert process.wait() == 0, found.decode()
    return found.decode().replace("\x1b[A", "")


def test_the_bar_fits_and_has_room(shown):
    bars = [line for line in re.split(r"[\r\n]", shown) if line.startswith("epoch ") and "%|" in line]
    assert any("ppl" in bar and "tokens/s" in bar for bar in bars)
    for bar in bars:
        assert len(bar) <= COLUMNS
        assert len(bar.split("|")[1]) >= 8                 # not shrunk to a cell by what stands beside it


def test_rules_do_not_wrap(shown):
    rules = re.findall(r"^[-=]{20,}$", shown.replace("\r", "\n"), re.MULTILINE)
    assert len(rules) >= 8 and {len(rule) for rule in rules} == {COLUMNS}


def test_the_counter_does_not_pass_its_total(shown):
    counts = re.findall(r"\| +(\d+)/ *(\d+) batches", shown)
    assert len(counts) > 10 and all(int(batch) <= int(total) for batch, total in counts)
