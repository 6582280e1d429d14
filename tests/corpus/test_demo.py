"""demo.py: what it keeps of documentation, how it deals it out, and the corpus as a user gets it."""

import os
import pathlib
import subprocess
import sys

import pytest

from corpus import archives, demo
from runtime.errors import InputError

ROOT = pathlib.Path(demo.__file__).parents[1]
PARTS = ("train", "valid", "test")


def lines_of(text):
    return [" ".join(sentence) for paragraph in demo.sentences(text) for sentence in paragraph]


def read(folder):
    return {part: (pathlib.Path(folder) / f"{part}.txt").read_bytes() for part in PARTS}


def run(folder, seed):
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "corpus.archives", "build", "demo", "", folder]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return demo.build(tmp_path_factory.mktemp("demo") / "corpus")


def test_english_is_a_sentence_a_line():
    text = "Return *x* as ``int()``, or\n  None.  It's the 3.5th, if e.g. the\u2019 \u201cold\u201d one is!"
    assert lines_of(text) == [
        "return x as int , or none .",
        "it's the N , if e . g . the ' old one is !",
    ]
    assert lines_of("This is the first\nparagraph\n\nand that is a second") == [
        "this is the first paragraph", "and that is a second"
    ]  # fmt: skip
    assert lines_of("the items of it:\n - one is in the list\n - two is not in the list") == [
        "the items of it :", "one is in the list", "two is not in the list"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        ">>> this is not for the reader\nand is as it is",
        "with_stmt ::= the grammar of it is that",
        "the name    is it\n--------    -----\nand that    is in the table",
        "self.x = foo(self.bar, baz[0]) if a else (b, c)",
        "",
        "***",
        "Deprecated.",
    ],
)
def test_what_is_not_english_is_left_out(text):
    assert lines_of(text) == []


def test_docstrings_and_comments_of_a_source():
    source = '"""A."""\nclass C:\n  """B."""\n  def f(self):\n    """C."""\n\nasync def g():\n  "D."\n'
    assert list(demo.docstrings(demo.ast.parse(source))) == ["A.", "B.", "C.", "D."]
    source = "x = 1  # no\n# one\n#   two\n  # --- \n#\n# three\ny = '#'\n# four\n"
    assert list(demo.comments(source)) == ["one\n  two\n--- \n\nthree\n", "four\n"]


def test_a_paragraph_stands_once():
    both = "This is said in both."
    texts = [("b", f"{both}\n\nThis is in b."), ("a", f"This is in a.\n\n{both.replace(' in', '  in')}")]
    expected = {"a": ["this is in a .", "this is said in both ."], "b": ["this is in b ."]}
    for order in (texts, texts[::-1]):
        found = {name: [" ".join(line) for line in lines] for name, lines in demo.unique_lines(order).items()}
        assert found == expected


def test_split_deals_whole_documents_by_their_names_alone():
    documents = {f"name {i}": [["word"] * (10 + i % 90)] for i in range(1000)}
    parts = demo.split(documents)
    dealt = [name for names in parts.values() for name in names]
    assert sorted(dealt) == sorted(documents)  # each is in one part, and in one only
    sizes = {part: sum(len(documents[name][0]) for name in names) for part, names in parts.items()}
    total = sum(sizes.values())
    assert 0.049 * total < sizes["valid"] <= 0.05 * total and 0.049 * total < sizes["test"] <= 0.05 * total
    assert demo.split(dict(reversed(documents.items()))) == parts
    assert parts["valid"] != sorted(parts["valid"])  # not just the first of the alphabet


def test_split_stops_at_the_most(monkeypatch):
    monkeypatch.setattr(demo, "MOST", 5000)
    documents = {f"name {i}": [["word"] * 10, ["word"] * 30] for i in range(1000)}
    names = [name for part in demo.split(documents).values() for name in part]
    assert len(names) == len(set(names)) and 4800 < 40 * len(names) <= 5000


def test_the_corpus(folder):
    parts = {part: text.decode() for part, text in read(folder).items()}
    tokens = {part: len(text.split()) + text.count("\n") for part, text in parts.items()}
    assert 300_000 < sum(tokens.values()) < 650_000
    assert min(tokens["valid"], tokens["test"]) > 10_000
    words = " ".join(parts.values()).split()
    counts = demo.Counter(words)
    assert min(counts.values()) >= demo.RAREST
    assert 3000 < len(counts) < 15_000 and counts["<unk>"] < 0.05 * len(words)
    assert counts.most_common(1)[0][0] in ("the", ".", ",")
    assert all(word in ("N", "<unk>") or word == word.lower() for word in counts)
    for text in parts.values():
        assert text.endswith("\n") and "\n\n" not in text


def test_every_run_writes_the_same(folder, tmp_path):
    for seed in ("1", "2"):
        result = run(tmp_path / "corpus" / seed, seed)
        assert result.returncode == 0, result.stderr
        assert read(tmp_path / "corpus" / seed) == read(folder)
    assert sorted(os.listdir(tmp_path / "corpus")) == ["1", "2"]


def test_needs_no_numpy_and_no_torch():
    code = "import sys; from corpus import demo; demo.compose(); print('numpy' in sys.modules, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


SMALL = {"train": "a b\n", "valid": "c\n", "test": "d\n"}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "compose", lambda: SMALL)
    return {part: text.encode() for part, text in SMALL.items()}


def test_a_folder_that_holds_it_already_or_nothing_is_taken(tmp_path, small):
    (tmp_path / "corpus").mkdir()
    for _ in range(2):
        assert demo.build(tmp_path / "corpus") == str(tmp_path / "corpus")
        assert read(tmp_path / "corpus") == small and os.listdir(tmp_path) == ["corpus"]


def test_nothing_of_the_users_is_written_over(tmp_path, small):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("corpus", "file", "file/below"):
        with pytest.raises(InputError, match=str(tmp_path / name)):
            demo.build(tmp_path / name)
    assert (tmp_path / "corpus" / "train.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["corpus", "file"]
    assert os.listdir(tmp_path / "corpus") == ["train.txt"]


def test_path_builds_once_and_mends(tmp_path, small, monkeypatch):
    monkeypatch.setenv("AWD_LSTM_CACHE", str(tmp_path / "cache"))
    place = demo.path()
    assert os.path.dirname(place) == str(tmp_path / "cache") and demo.platform.python_version() in place
    assert read(place) == small
    os.unlink(os.path.join(place, "valid.txt"))
    assert demo.path(tmp_path / "cache") == place and read(place) == small
    monkeypatch.setattr(demo, "compose", lambda: pytest.fail("built again"))
    assert demo.path() == place


def test_a_python_without_its_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "python311.zip")})
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match=r"only 0 words .*python311\.zip.*getdata\.sh"):
        demo.build(tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_the_command_says_what_is_wrong_in_a_line(tmp_path, small, monkeypatch):
    (tmp_path / "train.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["archives.py", "build", "demo", "", str(tmp_path)])
    monkeypatch.setattr(archives.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        archives.main()
    assert caught.value.code.startswith(f"getdata.sh: {tmp_path}: ") and "\n" not in caught.value.code
