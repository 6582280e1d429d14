"""Lines of the log."""
import pytest

from runtime.log import duration


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (200, "3.3 minutes"), (7200, "2.00 hours")])
def test_durations(seconds, said):
    assert duration(seconds) == said
