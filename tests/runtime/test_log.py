"""Lines of the log."""
import pytest

from runtime.log import counted, duration


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (200, "3.3 minutes"), (7200, "2.00 hours")])
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_counts():
    assert [counted(1, "lines"), counted(0, "lines"), counted(12345, "words of the text"),
            counted(1, "words of the text")] == ["1 line", "0 lines", "12,345 words of the text", "1 word of the text"]
