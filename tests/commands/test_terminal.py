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


def shown_by(script, *words, cwd):
    """All that a script writes to such a terminal, without the control characters that move the cursor up."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(list(map(str, [sys.executable, ROOT / script, *words])), cwd=cwd, stdout=slave,
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


@pytest.fixture(scope="module")
def shown(toy, tmp_path_factory):
    """What main.py shows."""
    return shown_by("main.py", "--data", toy, *SMALL, "--nhid", 200, "--epochs", 3,
                    cwd=tmp_path_factory.mktemp("terminal"))


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


def test_evaluation_shows_how_far_it_is(trained, tmp_path):
    said = shown_by("evaluate.py", "--checkpoint", trained / "toy.pt", "--mc-samples", 3, cwd=tmp_path)
    assert re.search(r"\d+%\|.*tokens", said)


def test_generated_text_is_not_interrupted(trained, tmp_path):
    """By lines that say how far it is, where both are shown; a prompt, and as many words."""
    text = shown_by("generate.py", "--checkpoint", trained / "toy.pt", "--words", 40, "--log-interval", 10, "--outf",
                    "-", "--prompt", "w1", cwd=tmp_path).replace("\r", "")
    assert len(re.search(r"^w1 (.*?)^\| summary", text, re.MULTILINE | re.DOTALL)[1].split()) == 40
    assert "generated 10/40" not in text
