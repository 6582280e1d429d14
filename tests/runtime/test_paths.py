"""Files and folders that are there whole or not at all."""
import errno
import os
import stat

import pytest

from runtime.paths import atomic_folder, atomic_write


@pytest.fixture
def fsync_of_folders(monkeypatch):
    """Lets fsync fail with an errno for folders, as on CIFS, VirtualBox's and some FUSE file systems."""
    real, state = os.fsync, {"errno": None}

    def fsync(descriptor):
        if state["errno"] and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(state["errno"], os.strerror(state["errno"]))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return state


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_keeps_what_is_written(number, fsync_of_folders, tmp_path):
    fsync_of_folders["errno"] = number
    for text in "first", "second":
        with atomic_write(tmp_path / "a.txt") as file:
            file.write(text)
        assert (tmp_path / "a.txt").read_text() == text
        with atomic_folder(tmp_path / "folder", ["a.txt"], "a.txt") as folder, open(f"{folder}/a.txt", "w") as file:
            file.write(text)
        assert (tmp_path / "folder" / "a.txt").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_a_folder_that_cannot_be_synced_for_another_reason_is_told(fsync_of_folders, tmp_path):
    fsync_of_folders["errno"] = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), atomic_write(tmp_path / "a.txt") as file:
        file.write("text")
