"""A large file as pieces that are small enough to travel, and back, bit for bit.

    python results/gpu/pieces.py cut FILE FOLDER      writes FILE's pieces to FOLDER: NAME.00-of-06, NAME.01-of-06, …
    python results/gpu/pieces.py join FOLDER TO       writes to the folder TO every file all of whose pieces are there
"""
import os
import re
import sys
import zlib
from pathlib import Path

import numpy

MOST = 15 << 20         # bytes in a piece
NUMBERED = re.compile(r"(.+)\.(\d+)-of-(\d+)")


def compress(contents):
    """bytes -> bytes: the first bytes of all fp32 numbers together, then the second ones, … Those with the exponents
    become smaller; in the order in which they lie in memory hardly anything would."""
    whole = len(contents) // 4 * 4
    planes = numpy.frombuffer(contents, numpy.uint8, whole).reshape(-1, 4).T                         # (4, numbers)
    return zlib.compress(planes.tobytes() + contents[whole:], 1)


def restore(compressed):
    """What `compress` was given. zlib.error, by its checksum, if anything is missing or has changed."""
    contents = zlib.decompress(compressed)
    whole = len(contents) // 4 * 4
    return numpy.frombuffer(contents, numpy.uint8, whole).reshape(4, -1).T.tobytes() + contents[whole:]


def cut(path, folder):
    """Write the pieces of a file -> their paths, in order."""
    contents = compress(Path(path).read_bytes())
    starts, paths = range(0, len(contents), MOST), []
    for number, start in enumerate(starts):
        paths.append(Path(folder) / f"{Path(path).name}.{number:02}-of-{len(starts):02}")
        paths[-1].write_bytes(contents[start:start + MOST])
    return paths


def join(folder, to):
    """Write every file all of whose pieces are there -> lines that say what was done and what is missing."""
    pieces = {}
    for path in sorted(Path(folder).iterdir()):
        if match := NUMBERED.fullmatch(path.name):
            pieces.setdefault((match[1], int(match[3])), []).append(path)
    lines = []
    for (name, total), paths in pieces.items():
        if len(paths) < total:
            lines.append(f"{name}: {len(paths)} of {total} pieces")
            continue
        partial, target = Path(to) / f"{name}.partial", Path(to) / name
        try:
            partial.write_bytes(restore(b"".join(path.read_bytes() for path in paths)))
        except zlib.error as error:
            lines.append(f"{name}: damaged: {error}")
            continue
        os.replace(partial, target)
        lines.append(f"{name}: whole, in {to}")
    return lines


def main(words):
    if len(words) != 3 or words[0] not in ("cut", "join"):
        sys.exit("usage: pieces.py cut FILE FOLDER | join FOLDER TO")
    try:
        Path(words[2]).mkdir(parents=True, exist_ok=True)
        print(*(cut if words[0] == "cut" else join)(*words[1:]), sep="\n")
    except OSError as error:
        sys.exit(f"pieces.py: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
