"""getdata.sh as a user runs it, against made archives and a loopback server that is also the only proxy."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from corpus import archives

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

PARTS = ("train", "valid", "test")
TEXTS = {part: f" {part} <unk> n't N \n the end \n".encode() for part in PARTS}
MEMBERS = {f"./simple-examples/data/ptb.{part}.txt": text for part, text in TEXTS.items()}


# Made things


def tar_of(members, mode="w:gz"):
    """Bytes of a tar archive; a value that is a TarInfo type and a link name makes a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members, link=False):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if link:
                info.create_system = 3
                info.external_attr = 0o120777 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def folder_of(path, members):
    path.mkdir(parents=True)
    for name, content in members.items():
        (path / name).write_bytes(content)
    return path


def tree(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def texts_in(folder):
    return {part: (folder / f"{part}.txt").read_bytes() for part in PARTS}


# Running


class Server(ThreadingHTTPServer):
    """Serves `files` by path. What a client asks of it as a proxy is refused and kept in `proxied`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.requests, self.proxied = {}, [], []
        self.ranges = True  # whether it can continue a file
        self.cut = None  # bytes after which it hangs up


class Handler(BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.server.proxied.append(self.path)
        self.send_error(403)

    def do_GET(self):
        if not self.path.startswith("/"):
            self.server.proxied.append(self.path)
            return self.send_error(403)
        asked_range = self.headers["Range"]
        self.server.requests.append((self.path, asked_range))
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked_range)[1]) if asked_range and self.server.ranges else 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(tmp_path, server):
    """Run getdata.sh; every address that is not on 127.0.0.1 leads to the server as a proxy, not outside."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": sys.executable,
                   "LC_ALL": "C.UTF-8", "no_proxy": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.update({f"{scheme}_proxy": server.url for scheme in ("http", "https", "ftp", "all")})

    def run(*args, script=ROOT / "getdata.sh", cwd=tmp_path, to=tmp_path / "data", **extra):
        command = ["bash", str(script), *map(str, args)] + (["--to", str(to)] if to else [])
        environ = {**environment, **extra}
        return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)

    return run


WARNING = "getdata.sh: warning: --no-verify: checksums are not looked at\n"


def assert_fails(result, *words, status=1):
    error = result.stderr.removeprefix(WARNING if "--no-verify" in result.args else "")
    assert result.returncode == status, result
    assert error.count("\n") == 1 and error.startswith("getdata.sh: "), result.stderr
    for word in words:
        assert word in error


# Downloading


def test_downloads_from_the_mirror(run, server, tmp_path):
    server.files["/some/where/simple-examples.tgz"] = tar_of(MEMBERS)
    result = run("--no-verify", "--mirror", server.url + "/some/where/", "penn")
    assert result.returncode == 0, result
    assert result.stderr == WARNING
    assert texts_in(tmp_path / "data/penn") == TEXTS
    assert tree(tmp_path / "data") == ["penn", "penn/test.txt", "penn/train.txt", "penn/valid.txt"]
    assert server.requests == [("/some/where/simple-examples.tgz", None)] and not server.proxied


def test_a_second_run_does_nothing(run, server, tmp_path):
    server.files["/simple-examples.tgz"] = tar_of(MEMBERS)
    run("--no-verify", "--mirror", server.url, "penn")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data/penn").iterdir()}
    result = run("--no-verify", "--mirror", server.url, "penn")
    assert result.returncode == 0 and "penn: already there" in result.stdout
    assert len(server.requests) == 1
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "data/penn").iterdir()} == before
    # Without --no-verify it is not the known corpus: said, and left alone.
    assert_fails(run("--mirror", server.url, "penn"), "is not penn", "train.txt is not the known text")
    assert len(server.requests) == 1 and texts_in(tmp_path / "data/penn") == TEXTS


@pytest.fixture(params=["curl", "wget"])
def tool(request, tmp_path_factory):
    """The name of a tool, and a PATH on which it is the only one that can download."""
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param}")
    folder = tmp_path_factory.mktemp("bin")
    for name in ("bash", "cat", "mkdir", "rm", "rmdir", request.param):
        (folder / name).symlink_to(shutil.which(name))
    return request.param, str(folder)


def test_a_broken_download_leaves_nothing_and_is_resumed(run, server, tmp_path, tool):
    archive = tar_of(MEMBERS)
    half = len(archive) // 2
    server.files["/simple-examples.tgz"] = archive
    server.cut = half
    arguments = "--no-verify", "--mirror", server.url, "penn"
    name, path = tool
    if name == "curl":  # wget tries three times by itself, each time from where it broke off
        assert_fails(run(*arguments, PATH=path), "penn: none of the sources gave it", "--from")
        assert tree(tmp_path / "data") == [".downloads", ".downloads/simple-examples.tgz.part"]
        # The built-in addresses were tried after the mirror.
        assert server.proxied[0] == "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz"
        assert server.proxied[-1] == "github.com:443"
    else:
        (tmp_path / "data/.downloads").mkdir(parents=True)
        (tmp_path / "data/.downloads/simple-examples.tgz.part").write_bytes(archive[:half])
    assert (tmp_path / "data/.downloads/simple-examples.tgz.part").read_bytes() == archive[:half]
    server.cut = None
    result = run(*arguments, PATH=path)
    assert result.returncode == 0, result
    assert server.requests[-1] == ("/simple-examples.tgz", f"bytes={half}-")
    assert texts_in(tmp_path / "data/penn") == TEXTS
    assert not (tmp_path / "data/.downloads").exists()


@pytest.mark.parametrize("ranges, kept", [(False, b"x" * 50), (True, b"x" * 50), (True, b"x" * 9999)],
                         ids=["server cannot", "wrong bytes", "too long"])
def test_a_part_that_cannot_be_continued_is_begun_again(run, server, tmp_path, tool, ranges, kept):
    server.files["/simple-examples.tgz"] = tar_of(MEMBERS)
    server.ranges = ranges
    part = tmp_path / "data/.downloads/simple-examples.tgz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(kept)
    assert run("--no-verify", "--mirror", server.url, "penn", PATH=tool[1]).returncode == 0
    assert server.requests[-1] == ("/simple-examples.tgz", None)
    assert texts_in(tmp_path / "data/penn") == TEXTS


def test_a_wrong_checksum_is_refused(run, server, tmp_path):
    for archive in ("simple-examples.tgz", "wikitext-2-v1.zip", "wikitext-103-v1.zip", "enwik8.zip"):
        server.files["/" + archive] = tar_of(MEMBERS)
    for name in ("penn", "wikitext-2", "wikitext-103", "enwik8", "pennchar"):
        result = run("--mirror", server.url, name)
        assert_fails(result, name if name != "pennchar" else "penn", "--from")
        assert f"wrong checksum from {server.url}" in result.stdout
        assert tree(tmp_path / "data") == [".downloads"]


def test_html_instead_of_an_archive_is_no_corpus(run, server, tmp_path):
    server.files["/wikitext-2-v1.zip"] = b"<html>please log in</html>"
    result = run("--no-verify", "--mirror", server.url, "wikitext-2")
    assert_fails(result, "--from")
    assert "not a folder, nor a tar or zip archive" in result.stdout
    assert tree(tmp_path / "data") == [".downloads"]


# Offline


def named(pattern):
    return {pattern.format(part): text for part, text in TEXTS.items()}


def below(folder, members):
    return {f"{folder}/{name}": text for name, text in members.items()}


SOURCES = {
    "folder": lambda p: folder_of(p, named("{}.txt")),
    "folder of ptb files": lambda p: folder_of(p, named("ptb.{}.txt")),
    "folder of folders": lambda p: folder_of(p / "penn", named("{}.txt")).parent,
    "folder of archives": lambda p: folder_of(p, {"simple-examples.tgz": tar_of(MEMBERS)}),
    "tgz": lambda p: p.write_bytes(tar_of(MEMBERS)),
    "tar": lambda p: p.write_bytes(tar_of(below("a/b", named("{}.txt")), "w:")),
    "zip": lambda p: p.write_bytes(zip_of(below("x", named("ptb.{}.txt")))),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_from(run, tmp_path, kind):
    SOURCES[kind](tmp_path / "source")
    assert_fails(run("--from", "source", "penn"), "not the known penn", "--no-verify")
    assert tree(tmp_path / "data") == []
    assert run("--no-verify", "--from", "source", "penn").returncode == 0
    assert texts_in(tmp_path / "data/penn") == TEXTS


def test_from_takes_the_parts_from_one_folder_under_their_proper_names(run, tmp_path):
    wrong = dict.fromkeys(PARTS, b"wrong")
    members = {"aa/train.txt": b"wrong", "bb/valid.txt": b"wrong", "bb/wiki.test.tokens": b"wrong"}
    members |= {f"raw/wiki.{part}.raw": text for part, text in wrong.items()}
    (tmp_path / "source").write_bytes(zip_of(members))
    assert_fails(run("--no-verify", "--from", "source", "wikitext-2"), "no wiki.{train,valid,test}.tokens")
    members |= below("cc", named("wiki.{}.tokens")) | {f"cc/{part}.txt": text for part, text in wrong.items()}
    (tmp_path / "source").write_bytes(zip_of(members))
    assert run("--no-verify", "--from", "source", "wikitext-2").returncode == 0
    assert texts_in(tmp_path / "data/wikitext-2") == TEXTS


@pytest.mark.parametrize("broken", ["missing", "empty", "short.tgz", "short.zip", "text"])
def test_from_something_broken(run, tmp_path, broken):
    content = {"empty": b"", "text": b"nothing"}
    content |= {"short.tgz": tar_of(MEMBERS)[:-40], "short.zip": zip_of(MEMBERS)[:-40]}
    if broken != "missing":
        (tmp_path / "source").write_bytes(content[broken])
    assert_fails(run("--no-verify", "--from", "source", "penn"), str(tmp_path / "source"))
    assert tree(tmp_path / "data") == []


def test_archives_write_only_the_three_files(run, tmp_path):
    inner = tmp_path / "a/b/c"
    inner.mkdir(parents=True)
    away = {"../../escaped": b"evil", f"{tmp_path}/absolute": b"evil", "../.ssh/ptb.train.txt": b"evil"}
    good = below("../../x", named("ptb.{}.txt"))
    link = {"ln": (tarfile.SYMTYPE, str(tmp_path)), "ln/linked": b"evil"}
    (inner / "evil.tgz").write_bytes(tar_of({**link, **away, **good}))
    (inner / "evil.zip").write_bytes(zip_of({**away, **good}))
    before = tree(tmp_path)
    for archive in ("evil.tgz", "evil.zip"):
        to = inner / f"to {archive}"
        assert run("--no-verify", "--from", archive, "penn", cwd=inner, to=to).returncode == 0
        assert tree(to) == ["penn", "penn/test.txt", "penn/train.txt", "penn/valid.txt"]
        assert texts_in(to / "penn") == TEXTS
        shutil.rmtree(to)
        assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "symlink in a zip"])
def test_links_and_devices_in_archives_are_not_followed(run, tmp_path, kind):
    (tmp_path / "secret").write_text("secret")
    types = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
    if kind in types:
        members = {"secret": b"", "valid.txt": b"", "test.txt": b"", "train.txt": (types[kind], "secret")}
        (tmp_path / "source").write_bytes(tar_of(members))
    else:
        members = {f"{part}.txt": str(tmp_path / "secret") for part in PARTS}
        (tmp_path / "source").write_bytes(zip_of(members, link=True))
    assert_fails(run("--no-verify", "--from", "source", "penn"), "holds no ptb.{train,valid,test}.txt")
    assert tree(tmp_path / "data") == []


def test_members_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LIMIT", 1000)
    target = tmp_path / "out" / "penn"
    for name, size, refused in (("fits", 1000, False), ("declared", 1001, True)):
        source = tmp_path / name
        source.write_bytes(zip_of({f"{part}.txt": b"x" * size for part in PARTS}))
        if refused:
            with pytest.raises(archives.InputError, match="declares 1001 bytes"):
                archives.build("penn", str(source), str(target), verified=False)
            assert tree(tmp_path / "out") == []
        else:
            archives.build("penn", str(source), str(target), verified=False)
            shutil.rmtree(target)
    lying = archives.Entry("", "train.txt", 10, lambda: io.BytesIO(b"x" * 1001))
    with pytest.raises(archives.InputError, match="longer than the 1000 bytes"):
        archives.copy(lying, tmp_path / "copy")


@pytest.mark.parametrize("name", ["two words", "-rf", "--to", "$(touch pwned)", "`touch pwned`",
                                  "a'b\"c;touch pwned", "ü*?[a]"])
def test_hostile_names(run, server, tmp_path, name):
    server.files["/simple-examples.tgz"] = tar_of(MEMBERS)
    source, to = tmp_path / name, name + "'s"
    folder_of(source, named("{}.txt"))
    assert run("--no-verify", "--from", name, "penn", to=to).returncode == 0
    assert texts_in(tmp_path / to / "penn") == TEXTS
    shutil.rmtree(tmp_path / to)
    assert run("--no-verify", "--mirror", server.url, "penn", to=to).returncode == 0
    assert texts_in(tmp_path / to / "penn") == TEXTS
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, to])


# Derived corpora


def test_pennchar_is_penn_in_characters(run, tmp_path):
    made = {"train.txt": b" a <unk> n't \n no. N \n", "valid.txt": b" x \n", "test.txt": b""}
    folder_of(tmp_path / "source", made)
    result = run("--no-verify", "--from", "source", "pennchar")
    assert result.returncode == 0 and "penn: ready" in result.stdout
    expected = {"train": b"a _ < u n k > _ n ' t \n n o . _ N \n ", "valid": b"x \n ", "test": b""}
    assert texts_in(tmp_path / "data/pennchar") == expected


def naive_numbers(part):
    return " ".join("\n" if byte == 10 else str(byte) for byte in part).encode()


@pytest.mark.parametrize("source", ["enwik8", "another name", "enwik8.zip"])
def test_enwik8_is_split_90_5_5(run, tmp_path, source):
    content = bytes(range(256)) * 3 + b"line\n\nline\n" * 23 + b"ends here"  # 1030 bytes
    archive = zip_of({"enwik8": content})
    (tmp_path / source).write_bytes(archive if source.endswith("zip") else content)
    assert_fails(run("--from", source, "enwik8"), "not the known enwik8")
    assert run("--no-verify", "--from", source, "enwik8").returncode == 0
    cuts = {"train": content[:928], "valid": content[928:979], "test": content[979:]}
    assert texts_in(tmp_path / "data/enwik8") == {part: naive_numbers(raw) for part, raw in cuts.items()}
    assert_fails(run("enwik8"), "is not enwik8", "100,000,000")


def test_enwik8_symbols_are_bytes(tmp_path, monkeypatch):
    content = (b"some <xml>\n" * 1000)[:10007] + b"\n"
    monkeypatch.setattr(archives, "CHUNK", 7)  # the parts do not depend on the blocks in which they are read
    archives.split_bytes(io.BytesIO(content), len(content), tmp_path)
    written = texts_in(tmp_path)
    assert written["test"] == naive_numbers(content[-500:])
    for part, size in zip(PARTS, (9008, 500, 500)):
        lines = written[part].splitlines()
        assert sum(len(line.split()) + 1 for line in lines) == size + (not written[part].endswith(b"\n"))
    monkeypatch.setattr(archives, "ENWIK8_DIGEST", hashlib.sha256(content).hexdigest())
    archives.verify("enwik8", tmp_path)  # from the numbers back to the bytes
    (tmp_path / "valid.txt").write_bytes(written["valid"].replace(b"120", b"121", 1))
    with pytest.raises(archives.InputError):
        archives.verify("enwik8", tmp_path)
    with pytest.raises(archives.InputError, match="ends 1 bytes early"):
        archives.split_bytes(io.BytesIO(content), len(content) + 1, tmp_path)


# The command line


@pytest.mark.parametrize("arguments", [["nonsense"], ["penn", "wikitext2"], ["--frm", "x"], ["penn pennchar"],
                                       ["*"], [""], ["--from", ""], ["--mirror"]])
def test_what_is_not_understood_is_said_in_one_line(run, server, tmp_path, arguments):
    assert_fails(run(*arguments, to=None), "--help", status=2)
    assert tree(tmp_path) == [] and not server.requests and not server.proxied


def test_help_names_every_corpus_and_option(run, tmp_path):
    result = run("--help")
    assert result.returncode == 0 and not result.stderr
    for word in ("penn", "pennchar", "wikitext-2", "wikitext-103", "enwik8", "demo", "all", "--to", "--from",
                 "--mirror", "--no-verify"):
        assert word in result.stdout.split() or f"[{word}" in result.stdout or f"|{word}" in result.stdout
    assert tree(tmp_path) == []


def test_without_a_corpus_it_gets_the_two_of_the_published_tables(run, tmp_path):
    folder_of(tmp_path / "source", named("{}.txt"))
    result = run("--no-verify", "--from", "source")
    assert result.returncode == 0 and "getting penn and wikitext-2" in result.stdout
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["penn", "wikitext-2"]


def test_data_goes_beside_the_script_from_wherever_it_is_called(run, tmp_path):
    project = tmp_path / "a project"
    project.mkdir()
    for name in ("corpus", "runtime"):
        shutil.copytree(ROOT / name, project / name)
    shutil.copy(ROOT / "getdata.sh", project)
    (project / "corpus" / "demo.py").write_text(
        "import pathlib\ndef build(folder):\n    out = pathlib.Path(folder)\n    out.mkdir(parents=True)\n"
        "    for part in ('train', 'valid', 'test'):\n        (out / (part + '.txt')).write_text(part)\n"
    )
    (tmp_path / "link").symlink_to(project / "getdata.sh")
    folder_of(tmp_path / "source", named("{}.txt"))
    result = run("--no-verify", "--from", "source", "demo", "penn", script="link", to=None)
    assert result.returncode == 0, result
    assert texts_in(project / "data/penn") == TEXTS
    assert texts_in(project / "data/demo") == {part: part.encode() for part in PARTS}
    # Were it run again, this demo.py would fail.
    assert "demo: already there" in run("demo", script="link", to=None).stdout


# The real thing


@pytest.mark.skipif(not (SHARED / "penn").is_dir(), reason="the real Penn Treebank is not here")
def test_the_real_penn_treebank(run, tmp_path):
    result = run("--from", SHARED / "penn", "pennchar", "penn")
    assert result.returncode == 0 and not result.stderr
    assert "pennchar: ready" in result.stdout and "penn: already there" in result.stdout
    symbols, vocabulary = {}, {"<eos>"}
    for part in PARTS:
        lines = (tmp_path / "data/pennchar" / f"{part}.txt").read_text().splitlines()
        symbols[part] = sum(len(line.split()) + 1 for line in lines)
        vocabulary.update(*map(str.split, lines))
    assert symbols == {"train": 5017483, "valid": 393043, "test": 442424}
    assert len(vocabulary) == 50
    with open(tmp_path / "data/penn/valid.txt", "ab") as file:
        file.write(b" ")
    assert_fails(run("penn"), "valid.txt is not the known text")


@pytest.mark.skipif(not (SHARED / "wikitext-2").is_dir(), reason="the real WikiText-2 is not here")
def test_the_real_wikitext_2_in_an_archive_among_others(run, tmp_path):
    real = {part: (SHARED / "wikitext-2" / f"{part}.txt").read_bytes() for part in PARTS}
    members = below("other", named("wiki.{}.tokens"))
    members |= {f"real/wiki.{part}.tokens": real[part] for part in PARTS}
    (tmp_path / "both.tar").write_bytes(tar_of(members, "w:"))
    assert run("--from", "both.tar", "wikitext-2").returncode == 0
    assert texts_in(tmp_path / "data/wikitext-2") == real
