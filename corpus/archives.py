"""Make data/NAME/{train,valid,test}.txt of a folder, a file or an archive: the mechanism behind getdata.sh.

Nothing is ever unpacked: the bytes of the wanted members, and of regular files only, are streamed to the
three fixed names, so an archive has no say in where anything is written. A corpus is verified
before it has its name. Needs the standard library only.
"""

import hashlib
import os
import posixpath
import signal
import stat
import sys
import tarfile
import zipfile
import zlib
from collections import defaultdict, namedtuple
from contextlib import ExitStack
from functools import partial

from corpus import demo
from runtime.errors import InputError
from runtime.paths import atomic_folder

PARTS = "train", "valid", "test"
LIMIT = 2 << 30  # bytes in one member; the largest wanted one is 0.5 GB, a zip bomb is endless
CHUNK = 1 << 20  # bytes

# Under which names the sources hold the parts, best first; "{}" stands for the part.
NAMES = {
    "penn": ("ptb.{}.txt", "{}.txt"),
    "wikitext-2": ("wiki.{}.tokens", "{}.txt"),
    "wikitext-103": ("wiki.{}.tokens", "{}.txt"),
}
ARCHIVES = {  # looked for in a folder given with --from, so that one folder of downloads serves for all
    "penn": "simple-examples.tgz",
    "wikitext-2": "wikitext-2-v1.zip",
    "wikitext-103": "wikitext-103-v1.zip",
    "enwik8": "enwik8.zip",
}
DIGESTS = {  # of train, valid, test; only SHA-1 is published for the texts of wikitext-103
    "penn": (
        "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    ),
    "pennchar": (
        "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9",
        "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8",
        "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe",
    ),
    "wikitext-2": (
        "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    ),
    "wikitext-103": (
        "b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
        "c326ac59dc587676d58c422eb8a03e119582f92b",
        "8a5befc548865cec54ed4273cf87dbbad60d1e47",
    ),
}
ENWIK8_DIGEST = "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"  # of its 100,000,000 bytes
HASHES = {32: "md5", 40: "sha1", 64: "sha256"}  # by the length of the hexadecimal digest


# Checksums


def matches(path, expected):
    """Whether the file's digest is `expected`, whose length tells the hash."""
    digest = hashlib.new(HASHES[len(expected)])
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest() == expected


def enwik8_digest(folder):
    """SHA-256 of the bytes that the decimal numbers in `folder` stand for; `split_bytes` undone."""
    digest = hashlib.sha256()
    for part in PARTS:
        with open(os.path.join(folder, f"{part}.txt"), "rb") as file:
            for line in file:
                digest.update(bytes(map(int, line.split())) + (b"\n" if line.endswith(b"\n") else b""))
    return digest.hexdigest()


def verify(name, folder):
    """Raise InputError unless `folder` holds the known texts of the corpus `name` (None: any three texts)."""
    for part in PARTS:
        if not os.path.isfile(os.path.join(folder, f"{part}.txt")):
            raise InputError(f"{part}.txt is missing")
    if name == "enwik8":
        try:
            same = enwik8_digest(folder) == ENWIK8_DIGEST
        except ValueError:  # not decimal numbers below 256
            same = False
        if not same:
            raise InputError("these are not the numbers of the known 100,000,000 bytes")
    for part, expected in zip(PARTS, DIGESTS.get(name, ())):
        if not matches(os.path.join(folder, f"{part}.txt"), expected):
            raise InputError(f"{part}.txt is not the known text (wrong {HASHES[len(expected)]})")


# Sources: each yields the regular files it holds

Entry = namedtuple("Entry", "folder name size open")  # `open()` gives a binary file


def file_entry(path, name):
    return Entry(os.path.dirname(path), name, os.path.getsize(path), partial(open, path, "rb"))


def folder_entries(path):
    for name in sorted(os.listdir(path)):
        if os.path.isfile(file := os.path.join(path, name)):
            yield file_entry(file, name)


def tar_entries(archive):
    for member in archive:
        if member.isreg():
            folder, name = posixpath.split(member.name)
            yield Entry(folder, name, member.size, partial(archive.extractfile, member))


def zip_entries(archive):
    for member in archive.infolist():
        kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the zip was not made on Unix
        if not member.is_dir() and kind in (0, stat.S_IFREG):
            folder, name = posixpath.split(member.filename)
            yield Entry(folder, name, member.file_size, partial(archive.open, member))


def find_entries(path, name, stack):
    """Every regular file in `path`: an archive, enwik8 alone, or a folder with texts, NAME/ or archive."""
    if os.path.isdir(path):
        yield from folder_entries(path)
        if os.path.isdir(os.path.join(path, name)):
            yield from folder_entries(os.path.join(path, name))
        archive = os.path.join(path, ARCHIVES[name])
        if os.path.isfile(archive):
            yield from find_entries(archive, name, stack)
    elif not os.path.isfile(path):
        raise InputError(f"{path}: there is no such file or folder")
    elif tarfile.is_tarfile(path):
        yield from tar_entries(stack.enter_context(tarfile.TarFile.open(path)))
    elif zipfile.is_zipfile(path):
        yield from zip_entries(stack.enter_context(zipfile.ZipFile(path)))
    elif name == "enwik8":
        yield file_entry(path, "enwik8")
    else:
        raise InputError(f"{path}: not a folder, nor a tar or zip archive in one piece")


def find_candidates(entries, name):
    """Lists of the entries that could make up the corpus `name`: all, in one folder, named in one way."""
    groups = defaultdict(dict)
    for entry in entries:
        groups[entry.folder].setdefault(entry.name, entry)
    spellings = [["enwik8"]] if name == "enwik8" else [[s.format(part) for part in PARTS] for s in NAMES[name]]
    for names in spellings:
        for group in groups.values():
            if all(n in group for n in names):
                yield [group[n] for n in names]


# Texts


def copy(entry, path):
    """Write the entry's bytes to `path`, LIMIT at most."""
    if entry.size > LIMIT:
        raise InputError(f"{entry.name} declares {entry.size} bytes, more than the {LIMIT} allowed")
    left = LIMIT
    with entry.open() as source, open(path, "wb") as target:
        while block := source.read(CHUNK):
            left -= len(block)
            if left < 0:
                raise InputError(f"{entry.name} is longer than the {LIMIT} bytes allowed")
            target.write(block)


def split_bytes(source, size, folder):
    """Write the `size` bytes of the file `source` as decimal numbers: first 90 %, then 5 % and 5 %.

    The form of the published preparation: numbers separated by spaces, except that a newline byte stays a
    newline. The reader makes an `<eos>` of it, so there are as many symbols as bytes (and one more for a part
    that breaks off within a line). Constant memory.
    """
    spelling = [b"\n" if byte == 10 else b"%d" % byte for byte in range(256)]
    held_out = size * 5 // 100
    for part, left in zip(PARTS, (size - 2 * held_out, held_out, held_out)):
        separator = b""
        with open(os.path.join(folder, f"{part}.txt"), "wb") as target:
            while left:
                block = source.read(min(left, CHUNK))
                if not block:
                    raise InputError(f"enwik8 ends {left} bytes early within {part}")
                left -= len(block)
                target.write(separator + b" ".join([spelling[byte] for byte in block]))
                separator = b" "


def spell(source, target):
    """Rewrite a text in characters: " a bc \\n" becomes "a _ b c \\n ", every symbol followed by a space.

    This is how the published ptb.char files come out of the ptb files: no `_` at either end of a line,
    `<unk>` spelled out, and a space after each newline too, so that they end in a blank line (one `<eos>`
    more than ptb has lines).
    """
    encoding = {"encoding": "utf-8", "newline": "\n"}
    with open(source, **encoding) as lines, open(target, "w", **encoding) as out:
        for line in lines:
            out.writelines(character + " " for character in "_".join(line.split()) + "\n")


# Commands


def make(name, source, folder, verified):
    """Fill `folder` with the corpus `name`: the first in `source` that verifies, or just the first."""
    known = name if verified else None
    if name == "pennchar":
        for part in PARTS:
            spell(os.path.join(source, f"{part}.txt"), os.path.join(folder, f"{part}.txt"))
        return verify(known, folder)
    file_names = [pattern.format("{train,valid,test}") for pattern in NAMES.get(name, ("file named enwik8",))]
    failure = InputError(f"{source}: holds no {' or '.join(file_names)}")
    with ExitStack() as stack:
        for candidate in find_candidates(find_entries(source, name, stack), name):
            if name == "enwik8":
                raw = os.path.join(folder, "enwik8")
                copy(candidate[0], raw)
                with open(raw, "rb") as file:
                    split_bytes(file, os.path.getsize(raw), folder)
                os.remove(raw)
            else:
                for part, entry in zip(PARTS, candidate):
                    copy(entry, os.path.join(folder, f"{part}.txt"))
            try:
                return verify(known, folder)
            except InputError as error:
                failure = InputError(f"{source}: not the known {name}: {error}; see --no-verify in --help")
    raise failure


def build(name, source, target, verified=True):
    """Make the corpus in a folder that takes the name `target` when it is verified; on an error leave nothing."""
    if name == "demo":  # which needs no source
        return demo.build(target)
    try:
        with atomic_folder(target) as draft:
            make(name, source, draft, verified)
    except (EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{source}: broken or encrypted archive ({error})") from error


def check(name, folder, verified=True):
    """Whether the corpus is there; InputError if something else is."""
    if not os.path.lexists(folder) or (os.path.isdir(folder) and not os.listdir(folder)):
        return False
    try:
        verify(name if verified else None, folder)
    except InputError as error:
        advice = "move it away" + (", or keep it with --no-verify" if verified else "")
        raise InputError(f"{folder} is there, but is not {name}: {error}; {advice}") from None
    return True


def main():
    """Exit status: 0 done or true, 1 an error said in one line, 3 false."""
    command, *words = [word for word in sys.argv[1:] if word != "--no-verify"] or [""]
    verified = "--no-verify" not in sys.argv
    if len(words) != {"digest": 2, "check": 2, "build": 3}.get(command):
        sys.exit("usage: digest FILE EXPECTED, check NAME FOLDER or build NAME SOURCE TARGET; --no-verify")
    for number in (signal.SIGINT, signal.SIGTERM):  # so that a build that is stopped cleans up, and quietly
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        if command == "build":
            build(*words, verified)
            return 0
        return 0 if (check(*words, verified) if command == "check" else matches(*words)) else 3
    except (InputError, OSError, UnicodeError) as error:
        sys.exit(f"getdata.sh: {' '.join(str(error).split())}")


if __name__ == "__main__":
    sys.exit(main())
