"""Files and folders that are there whole or not at all."""
import errno
import os
import stat

import pytest

from runtime import paths
from runtime.errors import InputError
from runtime.paths import atomic_copy, atomic_folder, atomic_write, check_output


@pytest.mark.parametrize("writing", [atomic_write, lambda name: atomic_folder(name, replace=True)])
def test_an_empty_name_does_not_stand_for_the_present_folder(writing, tmp_path, monkeypatch):
    """As of a variable of the shell that is not set: the folder that one is in would be replaced."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(InputError, match="is empty"), writing(""):
        pass
    assert os.listdir(tmp_path) == ["precious"] and os.listdir(tmp_path.parent).count(tmp_path.name) == 1


def test_a_name_with_no_room_for_the_file_that_is_renamed_to_it_is_refused(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - len(".partial")
    check_output(tmp_path / ("a" * longest))
    with pytest.raises(InputError, match="too long"):
        check_output(tmp_path / ("a" * (longest + 1)))
    with pytest.raises(InputError, match="too long"), atomic_folder(tmp_path / ("ž" * 127)):
        pytest.fail("it is to be told before the folder is filled")


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
        with atomic_folder(tmp_path / "folder", replace=True) as folder, open(f"{folder}/a.txt", "w") as file:
            file.write(text)
        assert (tmp_path / "folder" / "a.txt").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()])
@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_that_cannot_be_renamed_leaves_the_earlier_one(replace, error, tmp_path, monkeypatch):
    """Without `replace`, one that is not empty is in the way by itself."""
    real = os.rename
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("mine")

    def rename(source, target):
        if os.path.basename(source) == "new":
            raise error
        real(source, target)

    if replace:
        monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(type(error) if replace else OSError), atomic_folder(tmp_path / "folder", replace) as folder:
        (tmp_path / folder / "a.txt").write_text("new")
    assert os.listdir(tmp_path) == ["folder"] and (tmp_path / "folder" / "a.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_synced_for_another_reason_is_told(fsync_of_folders, tmp_path):
    fsync_of_folders["errno"] = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), atomic_write(tmp_path / "a.txt") as file:
        file.write("text")


def test_a_copy_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch):
    source, target = tmp_path / "new", tmp_path / "kept"
    source.write_bytes(bytes(range(256)))
    target.write_bytes(b"earlier")

    def fail_half_way(original, copy):
        copy.write(original.read(100))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(paths.shutil, "copyfileobj", fail_half_way)
        atomic_copy(source, target)
    assert target.read_bytes() == b"earlier" and len(os.listdir(tmp_path)) == 2
    atomic_copy(source, target)
    assert target.read_bytes() == source.read_bytes()
