"""data.py and corpus_cache.py against a plain loop over the text files."""

import bz2
import gzip
import json
import lzma
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import SMALL

import data
from corpus import cache as corpus_cache
from corpus import reading
from data import SPLITS, Corpus, Dictionary
from runtime.errors import InputError

REAL = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
SIMPLE = {"train": "the cat sat\non the mat\n", "valid": "the dog\n", "test": "a cat on a dog\n"}
AWKWARD = {
    "CRLF": b"a b\r\nc\r\n\r\nd",
    "lone CR": b"a\rb c\r\rd\r",
    "mixed ends": b"a\r\n\rb\n\r\nc\r",
    "BOM": b"\xef\xbb\xbfa b\na\n",
    "BOM inside": "a \ufeffb\n\ufeffa\n".encode(),
    "separators": "a\u2028b\x85c\u2029d\x1ce\x0cf\x0bg\u00a0h\u3000i\n".encode(),
    "empty lines": b"\n\na\n\n\nb\n\n",
    "white lines": b"  \n\t a  b\t\n \n",
    "one newline": b"\n",
    "no final newline": b"a b\nc d",
    "final space": b"a b\nc d ",
    "wide characters": "\u00e4\u00f6 \u732b \U0001f600x\n\U0001f600\u00e4 y\u732b".encode(),
    "special words": b"<eos> <unk> a <eos>\n<unk>\n",
}


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for split, text in {**SIMPLE, **texts}.items():
        (folder / f"{split}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def read_naively(folder):
    """{split: words} by the plainest of loops."""
    words = {}
    for split in SPLITS:
        with open(folder / f"{split}.txt", encoding="utf-8-sig") as lines:
            words[split] = [word for line in lines for word in [*line.split(), "<eos>"]]
    return words


def number_naively(words):
    """(dictionary, {split: ids}), in order of appearance."""
    dictionary = Dictionary()
    return dictionary, {split: [dictionary.add_word(word) for word in words[split]] for split in SPLITS}


def ids(corpus):
    for split in SPLITS:
        assert getattr(corpus, split).dtype == torch.int64
    return {split: getattr(corpus, split).tolist() for split in SPLITS}


def everything(corpus):
    d = corpus.dictionary
    return ids(corpus), d.idx2word, d.word2idx, d.counter, d.total, len(d)


def refusal(function, *args, **kwargs):
    """The message of the InputError that must come."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_dictionary_counts_occurrences():
    dictionary = Dictionary()
    assert [dictionary.add_word(word) for word in "babcb"] == [0, 1, 0, 2, 0]
    assert dictionary.idx2word == ["b", "a", "c"] and dictionary.word2idx == {"b": 0, "a": 1, "c": 2}
    assert dictionary.counter == Counter({0: 3, 1: 1, 2: 1})
    assert dictionary.total == 5 and len(dictionary) == 3


@pytest.mark.parametrize("block", [1, 2, 3, 7, data.BLOCK])
@pytest.mark.parametrize("name", AWKWARD)
def test_ids_are_those_of_a_loop_over_the_lines(tmp_path, monkeypatch, name, block):
    monkeypatch.setattr(data, "BLOCK", block)
    folder = write(tmp_path / "corpus", train=AWKWARD[name], test=AWKWARD[name] + b" z")
    d, expected = number_naively(read_naively(folder))
    corpus = Corpus(folder, cache=None, line_ends="both")
    assert everything(corpus) == (expected, d.idx2word, d.word2idx, d.counter, d.total, len(d))


def test_ids_of_random_texts(tmp_path, monkeypatch):
    rng = random.Random(0)
    letters, spaces = ["a", "b", "\u00e9", "\u732b", "\U0001f600"], [" ", " ", "\t", "\u2028", "\x85", "\x1f"]
    alphabet = [*letters, *spaces, "\n", "\r", "\r\n"]
    for _ in range(150):
        monkeypatch.setattr(data, "BLOCK", rng.randint(1, 12))
        texts = {split: "".join(rng.choices(alphabet, k=rng.randint(1, 60))) for split in SPLITS}
        folder = write(tmp_path / "corpus", **texts)
        dictionary, expected = number_naively(read_naively(folder))
        corpus = Corpus(folder, cache=None)
        assert ids(corpus) == expected and corpus.dictionary.idx2word == dictionary.idx2word, texts


def test_a_text_of_one_long_line(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 1000)
    words = [f"w{i % 97}" for i in range(20_000)]
    corpus = Corpus(write(tmp_path / "corpus", train=" ".join(words)), cache=None)
    found = [corpus.dictionary.idx2word[i] for i in corpus.train]
    assert found == [*words, "<eos>"]


# ---- vocabularies


def test_training_vocabulary_reads_other_words_as_unk(tmp_path):
    corpus = Corpus(write(tmp_path / "corpus"), vocab="train", cache=None)
    assert corpus.dictionary.idx2word == ["the", "cat", "sat", "<eos>", "on", "mat", "<unk>"]
    assert ids(corpus) == {"train": [0, 1, 2, 3, 4, 0, 5, 3], "valid": [0, 6, 3], "test": [6, 1, 4, 6, 6, 3]}
    assert corpus.dictionary.counter == Counter([0, 1, 2, 3, 4, 0, 5, 3])  # held-out text is not looked at


def test_training_vocabulary_keeps_an_unk_of_its_own(tmp_path):
    corpus = Corpus(write(tmp_path / "corpus", train="a <unk> b\n"), vocab="train", cache=None)
    assert corpus.dictionary.idx2word == ["a", "<unk>", "b", "<eos>"]
    assert corpus.valid.tolist() == [1, 1, 3]


@pytest.mark.parametrize("vocab", ["all", "train"])
def test_by_frequency(tmp_path, vocab):
    folder = write(tmp_path / "corpus", train="e d c\nd c c b\n", valid="z z z z z z\n", test="b a\n")
    plain, sorted_ = (Corpus(folder, vocab, cache=None, by_frequency=flag) for flag in (False, True))
    expected = {
        "all": ["z", "<eos>", "c", "d", "b", "e", "a"],  # 6, 4, 3, then 2 2 and 1 1 in order of appearance
        "train": ["c", "d", "<eos>", "e", "b", "<unk>"],  # 3, then 2 2 and 1 1, then none
    }
    assert sorted_.dictionary.idx2word == expected[vocab]
    for split in SPLITS:
        words = [[c.dictionary.idx2word[i] for i in getattr(c, split)] for c in (plain, sorted_)]
        assert words[0] == words[1]
    for word, i in plain.dictionary.word2idx.items():
        assert sorted_.dictionary.counter[sorted_.dictionary.word2idx[word]] == plain.dictionary.counter[i]


def test_by_frequency_keeps_the_order_of_appearance_in_ties(tmp_path):
    words = random.Random(0).choices([f"w{i}" for i in range(300)], k=1000)
    folder = write(tmp_path / "corpus", train="\n".join(words))
    dictionary, _ = number_naively(read_naively(folder))
    order = sorted(range(len(dictionary)), key=lambda i: -dictionary.counter[i])
    corpus = Corpus(folder, cache=None, by_frequency=True)
    assert corpus.dictionary.idx2word == [dictionary.idx2word[i] for i in order]


@pytest.mark.parametrize("cached", [False, True])
def test_from_vocabulary(tmp_path, cached):
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache" if cached else None
    vocabulary = ["<unk>", "dog", "never", "on", "<eos>", "cat", "the", "sat", "mat", "a"]
    for _ in range(2):  # the second time from the cache
        corpus = Corpus.from_vocabulary(folder, vocabulary, cache=cache)
        assert corpus.dictionary.idx2word == vocabulary
        assert corpus.train.tolist() == [6, 5, 7, 4, 3, 6, 8, 4]
        assert corpus.valid.tolist() == [6, 1, 4] and corpus.test.tolist() == [9, 5, 3, 9, 1, 4]
        assert corpus.dictionary.counter[6] == 3 and corpus.dictionary.counter[2] == 0
    fewer = [word for word in vocabulary if word not in ("dog", "a")]
    message = refusal(Corpus.from_vocabulary, folder, fewer, cache=cache)
    assert str(folder / "valid.txt") in message and "'dog'" in message
    corpus = Corpus.from_vocabulary(folder, fewer, unknown="unk", cache=cache)
    assert corpus.valid.tolist() == [5, 0, 3] and corpus.test.tolist() == [0, 4, 2, 0, 0, 3]
    message = refusal(Corpus.from_vocabulary, folder, fewer[1:], unknown="unk", cache=cache)
    assert str(folder / "valid.txt") in message and "'dog'" in message and "<unk>" in message


@pytest.mark.parametrize("vocabulary", [["a", "a"], ["a b"], [""], ["a\n"], [1]])
def test_what_is_no_vocabulary(tmp_path, vocabulary):
    assert "vocabulary" in refusal(Corpus.from_vocabulary, write(tmp_path / "corpus"), vocabulary)


def test_wrong_options(tmp_path):
    folder = write(tmp_path / "corpus")
    assert "'some'" in refusal(Corpus, folder, vocab="some")
    assert "'some'" in refusal(Corpus.from_vocabulary, folder, ["a"], unknown="some")


# ---- texts that cannot be used

BAD = {
    "empty": (b"", "is empty"),
    "only a BOM": (b"\xef\xbb\xbf", "is empty"),
    "NUL": (b"ab\ncd\0ef\n", "byte 5 "),
    "Latin-1": (b"abc d\xe9f\n", "byte 5 is not UTF-8"),
    "BOM and Latin-1": (b"\xef\xbb\xbfabc d\xe9f\n", "byte 8 is not UTF-8"),
    "cut character": ("abcde \u732b".encode()[:-1], "byte 6 is not UTF-8"),
    "surrogate": (b"abcd \xed\xa0\x80 e\n", "byte 5 is not UTF-8"),
    "UTF-16": ("hello\n".encode("utf-16"), "convert it to UTF-8"),
}


@pytest.mark.parametrize("block", [1, 2, 4, data.BLOCK])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_named(tmp_path, monkeypatch, name, split, block):
    monkeypatch.setattr(data, "BLOCK", block)
    folder = write(tmp_path / "corpus", **{split: BAD[name][0]})
    message = refusal(Corpus, folder, cache=None)
    assert message.startswith(f"{folder / split}.txt: ") and BAD[name][1] in message


@pytest.mark.parametrize(("compress", "says"), [
    (gzip.compress, "compressed by gzip"), (bz2.compress, "compressed by bzip2"), (lzma.compress, "compressed by xz"),
    (lambda text: b"PK\3\4" + gzip.compress(text), "a zip archive")])
def test_compressed_text_is_called_that(compress, says, tmp_path):
    folder = write(tmp_path / "corpus", valid=compress(b"a b c\n" * 99))
    assert says in refusal(Corpus, folder, cache=None)


@pytest.mark.parametrize("block", [6_000_000, 300_000])
def test_a_word_without_end(tmp_path, monkeypatch, block):
    monkeypatch.setattr(data, "BLOCK", block)
    folder = write(tmp_path / "corpus", valid="a " + "b" * 1_000_000 + " c")
    assert len(Corpus(folder, cache=None).valid) == 4
    write(folder, valid="a " + "b" * 1_000_001 + " c")
    message = refusal(Corpus, folder, cache=None)
    assert str(folder / "valid.txt") in message and "1,000,000" in message and len(message) < 300
    write(folder, valid="b" * 5_000_000 + "\0")  # is given up long before its end is read
    assert ("NUL" in refusal(Corpus, folder, cache=None)) == (block > 5_000_000)


@pytest.mark.parametrize("cached", [False, True])
def test_missing_files(tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    message = refusal(Corpus, tmp_path / "nowhere", cache=cache)
    assert str(tmp_path / "nowhere") in message and "no such folder" in message and "getdata.sh" in message
    folder = write(tmp_path / "corpus")
    assert "not a folder" in refusal(Corpus, folder / "train.txt", cache=cache)
    (folder / "valid.txt").unlink()
    message = refusal(Corpus, folder, cache=cache)
    assert str(folder / "valid.txt") in message and str(folder / "train.txt") not in message
    (folder / "valid.txt").mkdir()
    assert str(folder / "valid.txt") in refusal(Corpus, folder, cache=cache)


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, cached):
    folder = write(tmp_path / "corpus")

    def forbidden(name, *args, **kwargs):  # root, as whom tests may run, reads everything
        if str(name).endswith("test.txt"):
            raise PermissionError(13, "Permission denied", str(name))
        return open(name, *args, **kwargs)

    monkeypatch.setattr(reading, "open", forbidden, raising=False)
    monkeypatch.setattr(corpus_cache, "open", forbidden, raising=False)
    message = refusal(Corpus, folder, cache=tmp_path / "cache" if cached else None)
    assert message.startswith(f"{folder / 'test.txt'}: ") and "Permission denied" in message


# ---- the cache


def forbid_building(monkeypatch):
    def build(*_):
        raise AssertionError("built instead of loaded")

    monkeypatch.setattr(data, "_encode", build)


@pytest.mark.parametrize("options", [{}, {"vocab": "train"}, {"by_frequency": True}])
def test_cached_is_uncached(tmp_path, monkeypatch, options):
    folder, cache = write(tmp_path / "corpus", test="\u00e9\u2028b  c\r\nd"), tmp_path / "new" / "cache"
    expected = everything(Corpus(folder, cache=None, **options))
    assert not cache.exists()
    assert everything(Corpus(folder, cache=cache, **options)) == expected
    assert len(os.listdir(cache)) == 1  # and nothing half built
    forbid_building(monkeypatch)
    corpus = Corpus(folder, cache=cache, **options)
    assert everything(corpus) == expected
    corpus.train[0] = 1  # may be written to, which changes no file
    assert everything(Corpus(folder, cache=cache, **options)) == expected
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert everything(Corpus(moved, cache=cache, **options)) == expected  # found by content, not by path


def test_options_and_contents_are_kept_apart(tmp_path):
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    vocabulary = Corpus(folder, cache=cache).dictionary.idx2word
    for read in (
        lambda cache: Corpus(folder, cache=cache),
        lambda cache: Corpus(folder, cache=cache, vocab="train"),
        lambda cache: Corpus(folder, cache=cache, by_frequency=True),
        lambda cache: Corpus.from_vocabulary(folder, vocabulary[::-1], cache=cache),
        lambda cache: Corpus.from_vocabulary(folder, [*vocabulary, "<unk>"], unknown="unk", cache=cache),
    ):
        assert everything(read(cache)) == everything(read(None))
    stamp = os.stat(folder / "valid.txt")
    write(folder, valid="the cow\n")  # as long as before
    os.utime(folder / "valid.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    corpus = Corpus(folder, cache=cache)
    assert "cow" in corpus.dictionary.idx2word
    assert everything(corpus) == everything(Corpus(folder, cache=None))


def test_the_default_folder_is_asked_for_each_time(tmp_path, monkeypatch):
    for name in ("AWD_LSTM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.default_cache() == str(tmp_path / "home" / ".cache" / "awd-lstm")
    with monkeypatch.context() as without_home:
        without_home.setattr(os.path, "expanduser", lambda path: path)        # as where there is none
        assert data.default_cache() == os.path.join(".cache", "awd-lstm")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.default_cache() == str(tmp_path / "xdg" / "awd-lstm")
    monkeypatch.setenv("AWD_LSTM_CACHE", str(tmp_path / "own"))
    Corpus(write(tmp_path / "corpus"))
    assert len(os.listdir(tmp_path / "own")) == 1 and not (tmp_path / "xdg").exists()


class Bomb:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(os.environ["BOMB"]),)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"\n12345678")


def flip(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def randomise(file):
    file.write_bytes(random.Random(0).randbytes(500))


def make_folder(file):
    file.unlink()
    file.mkdir()


def as_float(file):
    np.save(file, np.load(file).astype(float))


def as_table(file):
    np.save(file, np.load(file)[None])


def as_pickle(file):
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)


def as_huge(file):
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**15,)}
    with open(file, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)


DAMAGES = [pathlib.Path.unlink, truncate, empty, flip, randomise, make_folder]
ARRAYS = ["train.npy", "valid.npy", "test.npy", "counts.npy"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in [*ARRAYS, "words.txt", "manifest.json"] for damage in DAMAGES]
    + [(name, damage) for name in ARRAYS for damage in (as_float, as_table, as_pickle, as_huge)]
    + [("words.txt", lengthen)],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, monkeypatch, capfd, name, damage):
    monkeypatch.setenv("BOMB", str(tmp_path / "went off"))
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    expected = everything(Corpus(folder, cache=cache))
    (entry,) = cache.iterdir()
    damage(entry / name)
    assert corpus_cache.load(cache, entry.name) is None
    assert everything(Corpus(folder, cache=cache)) == expected
    assert not (tmp_path / "went off").exists() and capfd.readouterr().err == ""
    assert [path.name for path in cache.iterdir()] == [entry.name]
    forbid_building(monkeypatch)
    assert everything(Corpus(folder, cache=cache)) == expected


@pytest.mark.parametrize("manifest", [b"[]", b"null", b"{}", b"[" * 100_000, b'{"key": 1e999}', b"\xff"])
def test_a_strange_manifest(tmp_path, manifest):
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    expected = everything(Corpus(folder, cache=cache))
    (entry,) = cache.iterdir()
    (entry / "manifest.json").write_bytes(manifest)
    assert everything(Corpus(folder, cache=cache)) == expected
    assert (entry / "manifest.json").read_bytes() != manifest


@pytest.mark.parametrize("name", ["train", "valid", "test"])
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_ids_out_of_range_under_a_sound_manifest(tmp_path, name, bad):
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    expected = everything(Corpus(folder, cache=cache))
    (entry,) = cache.iterdir()
    words, counts, splits = corpus_cache.load(cache, entry.name)
    splits[SPLITS.index(name)][1] = bad
    corpus_cache.store(cache, entry.name, words, counts, splits)
    manifest = json.loads((entry / "manifest.json").read_text())
    assert manifest["key"] == entry.name and np.load(entry / f"{name}.npy")[1] == bad
    assert corpus_cache.load(cache, entry.name) is None
    assert everything(Corpus(folder, cache=cache)) == expected


@pytest.mark.parametrize("hostile", ["floats", "table", "short counts"])
def test_wrong_arrays_under_a_sound_manifest(tmp_path, hostile):
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    expected = everything(Corpus(folder, cache=cache))
    (entry,) = cache.iterdir()
    words, counts, splits = corpus_cache.load(cache, entry.name)
    if hostile == "short counts":
        counts = counts[:-1]
    else:
        splits[1] = splits[1].astype(np.float64) if hostile == "floats" else splits[1][None]
    corpus_cache.store(cache, entry.name, words, counts, splits)
    assert corpus_cache.load(cache, entry.name) is None
    assert everything(Corpus(folder, cache=cache)) == expected


def test_a_big_cache_is_checked_by_samples(tmp_path, monkeypatch):
    for name, value in {"CHECKED": 4096, "SLICES": 3, "SLICE": 800}.items():
        monkeypatch.setattr(corpus_cache, name, value)
    folder, cache = write(tmp_path / "corpus", train="a b c d\n" * 1000), tmp_path / "cache"
    expected = everything(Corpus(folder, cache=cache))
    (entry,) = cache.iterdir()
    file = entry / "train.npy"
    sound = file.read_bytes()
    for at, seen in {128: True, 128 + 20_000: True, len(sound) - 8: True, 128 + 5000: False}.items():
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        assert (corpus_cache.load(cache, entry.name) is None) == seen
    file.write_bytes(sound[:-8])
    assert everything(Corpus(folder, cache=cache)) == expected
    assert file.read_bytes() == sound


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/self/cache", "file"])
def test_without_a_cache_folder_to_write_to(tmp_path, monkeypatch, capfd, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    folder = write(tmp_path / "corpus")
    assert everything(Corpus(folder, cache=place)) == everything(Corpus(folder, cache=None))
    error = capfd.readouterr().err
    assert error.startswith(f"{place}: corpus not cached") and error.count("\n") == 1


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, capfd):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus_cache.np, "save", full)
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    assert everything(Corpus(folder, cache=cache)) == everything(Corpus(folder, cache=None))
    assert list(cache.iterdir()) == [] and "No space left" in capfd.readouterr().err


def test_somebody_else_stores_the_same_meanwhile(tmp_path, monkeypatch, capfd):
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    expected = everything(Corpus(folder, cache=None))
    real = os.rename

    def slower(source, target):  # between our last look and our rename, the other's rename
        monkeypatch.setattr(corpus_cache.os, "rename", real)
        Corpus(folder, cache=cache)
        real(source, target)

    monkeypatch.setattr(corpus_cache.os, "rename", slower)
    assert everything(Corpus(folder, cache=cache)) == expected
    assert os.rename is real and capfd.readouterr().err == "" and len(os.listdir(cache)) == 1
    forbid_building(monkeypatch)
    assert everything(Corpus(folder, cache=cache)) == expected


def test_texts_written_to_while_they_are_read_are_not_cached(tmp_path, monkeypatch):
    folder, cache = write(tmp_path / "corpus"), tmp_path / "cache"
    real = data._encode

    def meanwhile(*words):
        write(folder, test="something else\n")
        return real(*words)

    monkeypatch.setattr(data, "_encode", meanwhile)
    Corpus(folder, cache=cache)
    assert not cache.exists()


# ---- long texts


@pytest.mark.parametrize("room", [0, 8 * 7000, 8 * 8000 + 4000, 8 * 20_000 + 100, 8 * 49_999])
def test_a_disk_that_is_full_loses_no_ids(tmp_path, monkeypatch, room):
    monkeypatch.setattr(corpus_cache, "LIMIT", 8000)
    ids = corpus_cache.Spool(tmp_path / "cache")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    try:
        for start in range(0, 50_000, 100):
            ids.add(np.arange(start, start + 100, dtype=np.int32))
        ids.add(np.arange(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)       # there is room again
    np.testing.assert_array_equal(ids.ids(), np.arange(50_000))


@pytest.mark.parametrize("where", ["cache", "nowhere", "full"])
@pytest.mark.parametrize("options", [{}, {"vocab": "train"}, {"by_frequency": True}])
def test_many_ids_are_in_a_file_or_else_in_memory(tmp_path, monkeypatch, where, options):
    """They are the same as in memory, wherever they are, and nothing is left behind."""
    folder = write(tmp_path / "corpus", train=" ".join(f"w{i % 97}" for i in range(50_000)))
    expected = everything(Corpus(folder, cache=None, **options))
    cache = tmp_path / "cache"
    if where == "nowhere":
        cache.write_text("a file where the folder should be")
    monkeypatch.setattr(data, "BLOCK", 4096)
    monkeypatch.setattr(corpus_cache, "LIMIT", 8000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    if where == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 20_000 + 100, old[1]))
    try:
        corpus = Corpus(folder, cache=cache, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert everything(corpus) == expected
    assert not list(cache.glob(".*")) if where != "nowhere" else cache.is_file()
    if where == "cache":
        assert everything(Corpus(folder, cache=cache, **options)) == expected


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux how much memory a process has")
def test_the_ids_of_a_long_text_are_never_all_in_memory(tmp_path):
    """Neither read for the first time, nor from the cache, nor laid out in columns."""
    tokens = 8_000_000
    with open(write(tmp_path / "corpus") / "train.txt", "w", encoding="utf-8") as text:
        for i in range(tokens // 1000):
            text.write("a b c d e f g h i j " * 99 + f"w{i % 5000} k l m n o p q r\n")
    program = ("import sys, types, threading, time, data; from corpus import cache\n"
               "from utils import batchify, get_batch\n"
               "data.BLOCK, cache.LIMIT = 2**18, 2**20      # of the text, and of the ids, a small part\n"
               "def private():\n"
               "    return int(next(line for line in open('/proc/self/status') if line[:7] == 'RssAnon').split()[1])\n"
               "peak, before = 0, private()\n"
               "def watch():\n"
               "    global peak\n"
               "    while True: peak = max(peak, private()); time.sleep(0.01)\n"
               "threading.Thread(target=watch, daemon=True).start()\n"
               "args = types.SimpleNamespace(device='cpu', bptt=70)\n"
               "corpus = data.Corpus(sys.argv[1], 'all', sys.argv[2], sys.argv[3] == 'by frequency')\n"
               "columns = batchify(corpus.train, 60, args)\n"
               "for row in range(0, len(columns) - 1, 70_000): get_batch(columns, row, args)\n"
               "print(len(corpus.train), (peak - before) * 1024)\n")
    for order in ("by appearance", "by frequency"):
        for _ in range(2):
            words = [sys.executable, "-c", program, str(tmp_path / "corpus"), str(tmp_path / "cache"), order]
            done = subprocess.run(words, cwd=pathlib.Path(data.__file__).parent, capture_output=True, text=True,
                                  check=True)
            found, peak = map(int, done.stdout.split())
            assert found == tokens and peak < 4 * tokens         # all of them are 8 bytes each


# ---- the corpora of the published figures


@pytest.mark.parametrize(
    ("name", "words", "tokens"),
    [("penn", 10_000, [929_589, 73_760, 82_430]), ("wikitext-2", 33_278, [2_088_628, 217_646, 245_569])],
)
def test_published_sizes(tmp_path, name, words, tokens):
    if not (REAL / name).is_dir():
        pytest.skip(f"{REAL / name} is not here")
    for _ in range(2):  # built, then loaded
        corpus = Corpus(REAL / name, cache=tmp_path)
        assert len(corpus.dictionary) == words
        assert [len(getattr(corpus, split)) for split in SPLITS] == tokens
        assert corpus.dictionary.total == sum(tokens)
        assert corpus.dictionary.word2idx == {word: i for i, word in enumerate(corpus.dictionary.idx2word)}


@pytest.mark.slow
def test_a_line_of_a_hundred_megabytes(tmp_path):
    """In a process of its own, whose memory can be measured."""
    for split in ("valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a b c\n")
    (tmp_path / "train.txt").write_text("alpha beta gamma " * (10**8 // 17))
    code = ("import resource, data, sys; corpus = data.Corpus(sys.argv[1], cache=None); "
            "print(len(corpus.train), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True,
                          cwd=pathlib.Path(__file__).resolve().parents[2])
    tokens, mib = map(int, done.stdout.split())
    assert tokens == 3 * (10**8 // 17) + 1 and mib < 1500


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 11, 4 * 2**20])
@pytest.mark.parametrize("line_ends", ["one", "both"])
def test_lines_that_end_in_eos_by_themselves(block, line_ends, monkeypatch, tmp_path):
    """Wherever blocks of the text are cut: as a loop over its lines."""
    monkeypatch.setattr(data, "BLOCK", block)
    text = "a b <eos>\n\n<eos>\nc <eos> d\ne <eos> \t\nf<eos>\n<eos> <eos>\nlast <eos>"
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(text)
    words = []
    for line in text.split("\n"):
        of_line = line.split()
        words += of_line if line_ends == "one" and of_line[-1:] == ["<eos>"] else [*of_line, "<eos>"]
    corpus = Corpus(str(tmp_path), cache=None, line_ends=line_ends)
    assert [corpus.dictionary.idx2word[i] for i in corpus.train] == words
    again = Corpus.from_vocabulary(str(tmp_path), corpus.dictionary.idx2word, cache=None, line_ends=line_ends)
    assert torch.equal(again.test, corpus.test)


def test_a_corpus_with_ends_of_its_own_is_told_and_equals_one_without(toy, call, tmp_path):
    for split in ("train", "valid", "test"):
        text = (toy / f"{split}.txt").read_text()
        (tmp_path / f"{split}.txt").write_text(text.replace("\n", " <eos>\n"))
    flags = [*SMALL, "--epochs", 1]
    plain = call("main.py", "--data", toy, *flags, "--save", "plain.pt")
    ended = call("main.py", "--data", tmp_path, *flags, "--save", "ended.pt")
    assert "lines end in <eos> by themselves; one end of each is read (--line-ends both: two)" in ended
    assert "by themselves" not in plain
    figures = [re.findall(r"test ppl +([\d.]+)", said)[0] for said in (plain, ended)]
    assert figures[0] == figures[1]
    both = call("main.py", "--data", tmp_path, *flags, "--save", "both.pt", "--line-ends", "both")
    assert "two ends are read" in both and re.findall(r"test ppl +([\d.]+)", both)[0] != figures[0]
    scores = [call("evaluate.py", "--checkpoint", "plain.pt", "--text", folder / "test.txt", "--device", "cpu")
              for folder in (toy, tmp_path)]
    assert len({re.findall(r"text ppl +([\d.]+)", said)[0] for said in scores}) == 1
