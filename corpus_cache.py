"""A tokenised corpus kept for the next run: a folder named for the content, and not trusted.

V is the size of the vocabulary.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile

import numpy as np

SPLITS = ("train", "valid", "test")
FORMAT = 1  # another number, and what older code has stored is not found

# A cached array up to CHECKED bytes is checked whole, which takes a fraction of a second. Of a bigger one,
# SLICES slices of SLICE bytes are: to read it all would cost what mapping it saves, and since its files are
# synced before they get their name, what is left to miss is a failing disk. The length is always checked.
CHECKED, SLICES, SLICE = 256 * 2**20, 128, 2**20


def default_cache():
    """For what can be made again: $AWD_LSTM_CACHE, $XDG_CACHE_HOME/awd-lstm or ~/.cache/awd-lstm."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("AWD_LSTM_CACHE") or os.path.join(caches, "awd-lstm")


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
        with open(os.path.join(folder, "manifest.json"), "rb") as stream:
            manifest = json.load(stream)
        with open(os.path.join(folder, "words.txt"), "rb") as stream:
            text = stream.read()
        # open_memmap knows arrays only; np.load would take archives too, and pickles if told to.
        arrays = {
            name: np.lib.format.open_memmap(os.path.join(folder, f"{name}.npy"), mode="c")
            for name in (*SPLITS, "counts")
        }
        if any(array.dtype != np.int64 or array.ndim != 1 for array in arrays.values()):
            return None
        if manifest != _manifest(key, text, arrays):
            return None
        words, counts = text.decode("utf-8", "surrogatepass").split("\n"), arrays.pop("counts")
        ids = [sample for split in arrays.values() for sample in _samples(split)]
        if len(counts) != len(words) or any(part.min() < 0 or part.max() >= len(words) for part in ids):
            return None
        return words, counts, list(arrays.values())
    except Exception:  # damage takes any form, and the texts are there to be read again
        return None


def store(folder, key, words, counts, splits):
    """Keep the words, their counts (V,) and the ids of the splits, (tokens,) int64 each; say so if it fails.

    They are built in a folder of our own, which then gets its name in one step: nobody sees half of it.
    """
    arrays = dict(zip(SPLITS, splits), counts=counts)
    text = "\n".join(words).encode("utf-8", "surrogatepass")  # no word has white space in it
    manifest = json.dumps(_manifest(key, text, arrays)).encode()
    named, building = os.path.join(folder, key), None
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        building = tempfile.mkdtemp(prefix="building-", dir=folder)
        new = os.path.join(building, "new")
        os.mkdir(new)
        for name, content in {"words.txt": text, "manifest.json": manifest, **arrays}.items():
            with open(os.path.join(new, f"{name}.npy" if name in arrays else name), "wb") as stream:
                np.save(stream, content) if name in arrays else stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        if os.path.lexists(named):  # damaged, or stored by somebody else just now, which is the same as ours
            os.rename(named, os.path.join(building, "old"))
        os.rename(new, named)
    except OSError as error:
        if not os.path.isdir(named):  # if it is there, somebody else was faster
            print(f"{folder}: corpus not cached ({error.strerror}); next time is slower", file=sys.stderr)
    finally:
        if building:
            shutil.rmtree(building, ignore_errors=True)
