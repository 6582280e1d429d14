"""Token ids as they come, a block at a time: in memory while they are few, then in a file, which is mapped in the end.

The file has no name, and goes when its array does.
"""
import os
import tempfile

import numpy as np

LIMIT = 2**24      # tokens kept in memory: 64 MB of int32


class Spool:
    """Collects blocks of ids.

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
            found = np.memmap(self.file, np.int64, "r+", shape=(self.written,))
        except OSError:                                  # a file system that maps no files
            self.file.seek(0)
            found = np.fromfile(self.file, np.int64, self.written)
        return np.concatenate([found, *self.blocks], dtype=np.int64) if self.waiting else found
