"""runtime/record.py: what a result says of the program that made it."""
from runtime import record


def test_a_copy_without_its_repository_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "__file__", str(tmp_path / "runtime" / "record.py"))
    assert record.commit() is None
    monkeypatch.setenv("AWD_LSTM_COMMIT", "0123abc")
    assert record.commit() == "0123abc"
    monkeypatch.undo()
    monkeypatch.setenv("AWD_LSTM_COMMIT", "0123abc")
    assert record.commit() != "0123abc"                            # this repository can tell
