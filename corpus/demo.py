"""A corpus every Python carries: the English of its own documentation, as train.txt, valid.txt and test.txt.

There are two kinds of document: a topic of the language reference (pydoc_data), and a module of the standard
library, whose docstrings and comments are read without importing it. Somewhat less than half a million
tokens; another version of Python gives another text. Needs the standard library only.
"""

import ast
import hashlib
import os
import platform
import re
import shutil
import sysconfig
import warnings
from collections import Counter
from contextlib import suppress
from importlib.util import decode_source
from pathlib import Path

from runtime.errors import InputError
from runtime.paths import atomic_folder, default_cache

RECIPE = 1  # part of the name of the kept folder: another number, and it is made anew
FEWEST, MOST = 100_000, 600_000  # tokens
RAREST = 3  # a word seen less often becomes <unk>
HELD_OUT = 0.05  # of the tokens, for each of validation and test
NOT_READ = {"__pycache__", "dist-packages", "idle_test", "idlelib", "lib-dynload", "lib2to3", "pydoc_data",
            "site-packages", "test", "tests", "turtledemo"}  # fmt: skip

TOKEN = re.compile(r"(?P<number>\d\w*(?:[.,]\d\w*)*)|\w+(?:'[a-z]+)?|\.\.\.|--|[^\w\s]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z_])")
PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+•]|\d+[.)]|@\w+)\s)")  # an item of a list begins one, too
MARKUP = str.maketrans({"’": "'", "‘": "'", **dict.fromkeys('`*"“”|')})
NOT_ENGLISH = re.compile(r">>>|::=|^\s*\.\. |[-=~^+#]{4}", re.MULTILINE)  # doctest, grammar, directive, table
COMMENT = re.compile(r"(?:^[ \t]*#.*\n)+", re.MULTILINE)  # with the lines that follow
COMMENT_SIGN = re.compile(r"^[ \t]*#+(?:[ \t]|[-=~*#+ \t]+$)?", re.MULTILINE)  # or a line drawn in it
ENGLISH = {"a", "an", "and", "are", "as", "be", "by", "can", "for", "if", "in", "is", "it", "not", "of", "on",
           "or", "that", "the", "this", "to", "when", "with"}  # fmt: skip


# ---- documents -> English


def sentences(text):
    """Yield each paragraph of English in `text`, a list of sentences, which are lists of tokens; no code."""
    for paragraph in PARAGRAPH_END.split(text):
        if NOT_ENGLISH.search(paragraph):
            continue
        plain = " ".join(paragraph.translate(MARKUP).replace("()", "").split()).strip("-+• ")
        in_tokens = [tokens for tokens in map(tokenise, SENTENCE_END.split(plain)) if tokens]
        tokens = [token for sentence in in_tokens for token in sentence]
        # Code has more signs than words; and English does not go far without its small words.
        if sum(map(str.isalpha, tokens)) > 0.6 * len(tokens) and sum(t in ENGLISH for t in tokens) >= 2:
            yield in_tokens


def tokenise(sentence):
    return ["N" if match["number"] else match[0].lower() for match in TOKEN.finditer(sentence)]


def docstrings(node):
    """Yield the docstrings of a module or class or function and of what is defined in it, from the top."""
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from docstrings(child)


def comments(source):
    for block in COMMENT.findall(source):
        yield COMMENT_SIGN.sub("", block)


def documents():
    """Yield (name, text), in any order."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some packagers leave it out
        topics = {}
    yield from ((f"topics/{name}", text) for name, text in topics.items())
    root = sysconfig.get_paths()["stdlib"]
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in NOT_READ]
        for file in (os.path.join(folder, name) for name in files if name.endswith(".py")):
            try:
                source = decode_source(Path(file).read_bytes())
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the compiler's, about code that is not ours
                    paragraphs = [*docstrings(ast.parse(source)), *comments(source)]
            except (OSError, SyntaxError, ValueError, RecursionError):
                continue
            yield os.path.relpath(file, root).replace(os.sep, "/"), "\n\n".join(paragraphs)


# ---- English -> three texts


def unique_lines(named_texts):
    """{name: sentences}, where a paragraph that several documents share stands in the first of them only."""
    seen, lines = set(), {}
    for name, text in sorted(named_texts):
        for paragraph in sentences(text):
            key = " ".join(map(" ".join, paragraph))
            if key not in seen:
                seen.add(key)
                lines.setdefault(name, []).extend(paragraph)
    return lines


def split(lines):
    """{"train" | "valid" | "test": names}: whole documents, dealt and ordered by nothing but their names."""
    sizes = {name: sum(map(len, document)) for name, document in lines.items()}  # tokens
    share = HELD_OUT * min(sum(sizes.values()), MOST)
    room = {"valid": share, "test": share, "train": MOST - 2 * share}
    parts = {"train": [], "valid": [], "test": []}
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        fits = [part for part in room if sizes[name] <= room[part]]
        if fits:
            parts[fits[0]].append(name)
            room[fits[0]] -= sizes[name]
    return parts


def compose():
    """{split: text}: a sentence a line, in lower case, numbers as N, rare words as <unk>."""
    lines = unique_lines(documents())
    parts = {part: [line for name in names for line in lines[name]] for part, names in split(lines).items()}
    count = Counter(token for part in parts.values() for line in part for token in line)
    if count.total() < FEWEST:
        raise InputError(
            f"only {count.total():,} words of documentation in {sysconfig.get_paths()['stdlib']}: this "
            "Python came without its sources; use another one, or run ./getdata.sh penn"
        )
    words = {token: token if n >= RAREST else "<unk>" for token, n in count.items()}
    return {part: "".join(" ".join(words[t] for t in line) + "\n" for line in part_lines)
            for part, part_lines in parts.items()}  # fmt: skip


# ---- three texts -> a folder


def _holds(folder, texts):
    """Whether the folder has these texts, {file name: bytes}."""
    with suppress(OSError):
        return all(Path(folder, name).read_bytes() == text for name, text in texts.items())
    return False


def build(folder):
    """Write the corpus to `folder`, which must be new, empty or hold it already. Returns the folder."""
    folder = os.path.abspath(folder)
    texts = {f"{part}.txt": text.encode() for part, text in compose().items()}
    try:
        with atomic_folder(folder) as new:
            for name, text in texts.items():
                Path(new, name).write_bytes(text)
    except OSError as error:
        if not _holds(folder, texts):
            raise InputError(
                f"{folder}: cannot be made ({error.strerror}); name a new folder in a place you can write "
                "(for --data demo, AWD_LSTM_CACHE does)"
            ) from error
    return folder


def path(cache_folder=None):
    """The folder of this Python's demo corpus, built at the first call (`--data demo`)."""
    folder = os.path.join(cache_folder or default_cache(), f"demo-{platform.python_version()}-r{RECIPE}")
    was_there = os.path.isdir(folder)  # asked first: a folder that another process has just built is whole
    if all(os.path.isfile(os.path.join(folder, f"{part}.txt")) for part in ("train", "valid", "test")):
        return folder
    if was_there:  # and not whole: somebody tidied up in it
        shutil.rmtree(folder, ignore_errors=True)
    return build(folder)
