"""A tokenised corpus kept for the next run: a folder named for the content, and not trusted; and ids while they come.

V is the size of the vocabulary.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from runtime.paths import atomic_folder

SPLITS = ("train", "valid", "test")
FORMAT = 1  # another number, and what older code has stored is not found

# A cached array up to CHECKED bytes is checked whole, which takes a fraction of a second. Of a bigger one,
# SLICES slices of SLICE bytes are: to read it all would cost what mapping it saves, and since its files are
# synced before they get their name, what is left to miss is a failing disk. The length is always checked.
CHECKED, SLICES, SLICE = 256 * 2**20, 128, 2**20
LIMIT = 2**24      # tokens kept in memory: 64 MB of int32


def content_key(files, options):
    """A name for what the files hold (not for where they lie) and what is to be made of it."""
    parts = [FORMAT, options]
    for file in files:
        digest = hashlib.sha256()  # twice as fast as BLAKE2 on processors that have it built in
        with open(file, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
        parts.append(digest.hexdigest())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _samples(array):
    """All of an array, or, of a big one, slices from its first to its last element."""
    if array.nbytes <= CHECKED:
        return [array]
    width = SLICE // array.itemsize
    starts = np.linspace(0, len(array) - width, SLICES, dtype=np.int64)
    return [array[start : start + width] for start in starts]


def _manifest(key, text, arrays):
    """What tells a sound cache from a damaged one."""
    manifest = {"key": key, "words": [len(text), hashlib.sha256(text).hexdigest()]}
    for name, array in arrays.items():
        digest = hashlib.sha256()
        for sample in _samples(array):
            digest.update(sample)
        manifest[name] = [len(array), digest.hexdigest()]
    return manifest


def load(folder, key):
    """What `store` was given, its arrays mapped instead of read; None if it is not there or not as it was."""
    folder = os.path.join(folder, key)
    try:
        manifest = json.loads(Path(folder, "manifest.json").read_bytes())
        text = Path(folder, "words.txt").read_bytes()
        # open_memmap knows arrays only; np.load would take archives too, and pickles if told to.
        arrays = {
            name: np.lib.format.open_memmap(os.path.join(folder, f"{name}.npy"), mode="c")
            for name in (*SPLITS, "counts")
        }
        if (any(array.dtype != np.int64 or array.ndim != 1 for array in arrays.values())
                or manifest != _manifest(key, text, arrays)):
            return None
        words, counts = text.decode("utf-8", "surrogatepass").split("\n"), arrays.pop("counts")
        ids = [sample for split in arrays.values() for sample in _samples(split)]
        if len(counts) != len(words) or any(part.min() < 0 or part.max() >= len(words) for part in ids):
            return None
        return words, counts, list(arrays.values())
    except Exception:  # damage takes any form, and the texts are there to be read again
        return None


def store(folder, key, words, counts, splits):
    """Keep the words, their counts (V,) and the ids of the splits, (tokens,) int64 each; say so if it fails."""
    arrays = dict(zip(SPLITS, splits), counts=counts)
    text = "\n".join(words).encode("utf-8", "surrogatepass")  # no word has white space in it
    manifest = json.dumps(_manifest(key, text, arrays)).encode()
    named = os.path.join(folder, key)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with atomic_folder(named, replace=True) as new:     # damaged, or stored by somebody else: the same as ours
            Path(new, "words.txt").write_bytes(text)
            Path(new, "manifest.json").write_bytes(manifest)
            for name, array in arrays.items():
                np.save(os.path.join(new, f"{name}.npy"), array)
    except OSError as error:
        if not os.path.isdir(named):  # if it is there, somebody else was faster
            print(f"{folder}: corpus not cached ({error.strerror}); next time is slower", file=sys.stderr)


class Spool:
    """Token ids as they come, a block at a time: in memory while they are few, then in a file, mapped in the end.

    The file has no name, and goes when its array does.

    folder: where the file may be, None for the system's place for such files. What cannot be written stays in memory.
    """

    def __init__(self, folder):
        self.folder, self.file = folder, None
        self.written = self.waiting = 0                  # tokens in the file, and in `blocks`
        self.blocks, self.limit = [], LIMIT

    def add(self, block):
        """Take one more array of ids, (n,) of any integer type."""
        self.blocks.append(block)
        self.waiting += len(block)
        if self.waiting > self.limit:
            self._write()

    def _write(self):
        try:
            if self.file is None:
                if self.folder:
                    os.makedirs(self.folder, mode=0o700, exist_ok=True)
                self.file = tempfile.TemporaryFile(dir=self.folder, buffering=0)
            self.file.seek(8 * self.written)
            for block in self.blocks:
                rest = memoryview(block.astype(np.int64).tobytes())
                while rest:
                    rest = rest[self.file.write(rest):]
        except OSError:
            self.limit = float("inf")
        else:
            self.written += self.waiting
            self.blocks, self.waiting = [], 0

    def ids(self):
        """All that was added -> (tokens,) int64, mapped if there is a file; it may be written to."""
        if self.file is not None and self.limit == LIMIT:
            self._write()
        if not self.written:
            return np.concatenate(self.blocks, dtype=np.int64)
        try:
            stored = np.memmap(self.file, np.int64, "r+", shape=(self.written,))
        except OSError:                                  # a file system that maps no files
            self.file.seek(0)
            stored = np.fromfile(self.file, np.int64, self.written)
        return np.concatenate([stored, *self.blocks], dtype=np.int64) if self.waiting else stored
