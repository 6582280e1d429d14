"""Ways to compute the same, timed once and remembered."""
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from runtime import fastest


class Clock:
    """In the place of the module `time`: on a busy machine a real one shows other work besides."""
    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


CLOCK = Clock()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AWD_LSTM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fastest, "_known", {})
    monkeypatch.setattr(fastest, "time", CLOCK)
    return tmp_path / "cache" / "fastest"


class Way:
    """A function that takes some milliseconds, and counts its calls."""

    def __init__(self, milliseconds):
        self.seconds, self.calls = milliseconds / 1000, 0

    def __call__(self):
        self.calls += 1
        CLOCK.sleep(self.seconds)


def ways(a=1, b=8):
    return {"a": Way(a), "b": Way(b)}


def test_times_are_measured_once_and_then_read(cache, monkeypatch):
    first = ways()
    times = fastest.milliseconds("which?", first)
    assert times == pytest.approx({"a": 1, "b": 8})
    assert all(way.calls >= 4 for way in first.values())
    for forget in (False, True):               # within the process, and in the next one
        if forget:
            monkeypatch.setattr(fastest, "_known", {})
        later = ways()
        assert fastest.milliseconds("which?", later) == times
        assert not any(way.calls for way in later.values())
    other = ways(2)
    assert fastest.milliseconds("another?", other)["a"] == pytest.approx(2) and other["b"].calls


@pytest.mark.parametrize(("times", "way"), [
    (None, "a"), ({"a": 1.0, "b": 1.0}, "a"), ({"a": 1.0, "b": 0.95}, "a"), ({"a": 1.0, "b": 0.8}, "b"),
    ({"b": 0.8, "a": 1.0}, "b"), ({"b": 0.5, "a": 1.0, "c": 0.4}, "c")])
def test_another_way_than_the_first_must_be_clearly_faster(times, way):
    assert fastest.choice(times, "a") == way


def test_a_busy_moment_does_not_decide(cache):
    """The first calls of the faster way meet other work on the machine."""
    calls = []

    def fast():
        calls.append(None)
        CLOCK.sleep(0.015 if len(calls) < 6 else 0.0005)

    times = fastest.milliseconds("which?", {"fast": fast, "slow": Way(5)})
    assert times == pytest.approx({"fast": 0.5, "slow": 5}) and len(calls) <= 21


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"milliseconds": {"a": 1}}',
                                     *(f'{{"milliseconds": {{"a": 1, "b": {bad}}}}}' for bad in ('"x"', -2, "NaN"))])
def test_a_damaged_file_is_measured_again(cache, content, monkeypatch):
    fastest.milliseconds("which?", ways())
    file, = cache.iterdir()
    file.write_text(content)
    monkeypatch.setattr(fastest, "_known", {})
    again = ways()
    times = fastest.milliseconds("which?", again)
    assert again["a"].calls and json.loads(file.read_text())["milliseconds"] == times


def test_of_two_processes_that_measure_together_both_take_the_first_ones_times(cache, monkeypatch):
    earlier = {"a": 3.0, "b": 4.0}

    def measured_meanwhile(ways, seconds):
        with monkeypatch.context() as other:
            other.setattr(fastest, "_measure", lambda ways, seconds: earlier)
            other.setattr(fastest, "_known", {})
            fastest.milliseconds("which?", ways)
        return {"a": 2.0, "b": 1.0}

    monkeypatch.setattr(fastest, "_measure", measured_meanwhile)
    assert fastest.milliseconds("which?", ways()) == earlier
    assert len(list(cache.iterdir())) == 1


def test_where_nothing_can_be_written_down(cache, monkeypatch):
    cache.parent.write_text("a file, where the folder should be")
    assert fastest.milliseconds("which?", ways(), must_be_kept=True) is None
    times = fastest.milliseconds("which?", ways())
    assert times["b"] > times["a"]


def test_a_machine_is_told_by_processor_threads_and_instructions():
    def told(**env):
        program = "from runtime import fastest; print(fastest.machine())"
        return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={**os.environ, **env}, check=True,
                              capture_output=True, text=True).stdout

    plain = told()
    assert fastest.processor() in plain
    assert told() == plain
    assert told(ONEDNN_MAX_CPU_ISA="AVX2") != plain and told(OMP_NUM_THREADS="3") != plain
