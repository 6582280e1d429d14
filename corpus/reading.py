"""A file → text: UTF-8 without a leading BOM, every line ended by "\\n", also where the file has CRLF or CR."""

import codecs
import io
import json
import os
import re
from contextlib import contextmanager

from runtime.errors import InputError

BLOCK = 4 * 2**20  # bytes of text in hand at a time
LONGEST_LINE = 2**28  # characters; a line must fit into memory several times
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # first bytes of


def short(word):
    return repr(word if len(word) <= 60 else word[:60] + "…")


@contextmanager
def naming(file):
    """Errors from inside say which file they are about."""
    try:
        yield
    except OSError as error:
        advice = {IsADirectoryError: "; give the name of a file", PermissionError: "; check its permissions",
                  NotADirectoryError: f"; {os.path.dirname(str(error.filename))} is no folder"}.get(type(error), "")
        raise InputError(f"{error.filename or file}: cannot be read ({error.strerror}){advice}") from error
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(f"{file}: ") else f"{file}: {error}") from None


def files_in(paths):
    """The files that are named, and those in folders that are, hidden ones left out, in the order of their names.

    `-`, standard input, stays. Raises InputError where there is nothing.
    """
    files = []
    for path in paths:
        if path != "-" and not os.path.exists(path):
            raise InputError(f"{path}: no such file or folder")
        below = [] if os.path.isdir(path) else [path]
        for folder, subfolders, names in os.walk(path):            # of a folder alone
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            below += [os.path.join(folder, name) for name in sorted(names)
                      if not name.startswith(".") and os.path.isfile(os.path.join(folder, name))]
        if not below:
            raise InputError(f"{path}: there are no files")
        files += below
    return files


def _advice(start):
    """What to do with a file that is no text, by its first bytes."""
    for mark, program in COMPRESSED.items():
        if start.startswith(mark):
            return f"it is compressed by {program}; decompress it first"
    return ("it is a zip archive, as models are; give a text" if start.startswith(b"PK\3\4") else
            "convert it to UTF-8 text")


def blocks(file, size):
    """Yield the text of a file, a path or a descriptor, as it comes of `size` bytes each; at the end, of what is left.

    Raises InputError, with the byte's offset, where it is not text.
    """
    # Not line by line: a text may be one line of 100 MB.
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()  # without a leading BOM
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)  # CRLF and CR become "\n"
    last, read, start = "\n", 0, b""
    with open(file, "rb") as stream:
        while True:
            block = stream.read(size)
            start = start or block[:6]
            if b"\0" in block:
                raise InputError(f"byte {read + block.index(0)} is NUL; {_advice(start)}")
            read += len(block)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:  # the bytes it holds end where we have read to
                offset = read - len(error.object) + error.start
                raise InputError(f"byte {offset} is not UTF-8; {_advice(start)}") from None
            last = text[-1:] or last
            if not block and last != "\n":
                text += "\n"  # the last line ends, too
            yield text
            if not block:
                return


def lines(file, name=None):
    """Yield the lines of a text without their ends, "\\n" alone being one. name: what errors call the file."""
    parts, length = [], 0  # of a line whose end is not yet there
    with naming(file if name is None else name):
        for text in blocks(file, BLOCK):
            first, *rest = text.split("\n")
            parts.append(first)
            length += len(first)
            if length > LONGEST_LINE:
                raise InputError(f"a line of more than {LONGEST_LINE:,} characters; break it into lines")
            if rest:
                yield "".join(parts)
                yield from rest[:-1]
                parts, length = rest[-1:], len(rest[-1])


def whole_text(file, name):
    """The text of a path or descriptor -> str. name: what errors call the file."""
    with naming(name):
        return "".join(blocks(file, BLOCK))


def from_json(text):
    """The value that JSON says. ValueError or RecursionError where it is none, or a string in it is not text."""
    value = json.loads(text)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair stands for no character
    return value


def size_of(text_lines):
    """How long some lines are, their ends included -> {"words", "bytes"}.

    A word is what stands between white space, and the end of a line one more; bytes are those of UTF-8.
    """
    size = {"words": 0, "bytes": 0}
    for line in text_lines:
        size["words"] += len(line.split()) + 1
        size["bytes"] += len(line.encode()) + 1
    return size
