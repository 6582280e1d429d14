"""Two thousand broken files: each ends in success or in one line, runs no code, takes little memory, harms nothing."""
import copy
import hashlib
import math
import os
import random
import resource
import shutil
import sys
import traceback
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import SERVER

MODELS, STATES, CACHES = 900, 700, 400
SEED = int(os.environ.get("HOSTILE_SEED", 0))     # another number, other damage


# ---- damage

def of_bytes(draw, good):
    """Bits flipped, pieces cut out, doubled, blanked or exchanged."""
    data = bytearray(good)
    kind = draw.choice(["flip", "cut", "truncate", "double", "blank", "exchange", "directory"])
    at, length = draw.randrange(len(data)), draw.choice([1, 4, 64, 4096])
    if kind == "flip":
        for _ in range(draw.choice([1, 1, 3, 50])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "directory":                     # of the zip archive, at its end
        data[-draw.randrange(1, min(len(data), 1500))] = draw.randrange(256)
    elif kind == "cut":
        del data[at:at + length]
    elif kind == "truncate":
        del data[at:]
    elif kind == "double":
        data[at:at] = data[at:at + length]
    elif kind == "blank":
        data[at:at + length] = bytes(len(data[at:at + length]))
    else:
        other = draw.randrange(len(data))
        data[at:at + length], data[other:other + length] = data[other:other + length], data[at:at + length]
    return bytes(data)


def values(draw):
    """What might stand in a place where it should not."""
    return draw.choice([
        None, True, -1, 0, 3, 2**31, 2**70, -2.5, float("nan"), float("inf"), "", "x", "--help", "../../x", "\n",
        [], {}, [[]], ["a", "a"], [1, "b"], {"a": {"b": None}}, {1: 2}, (),
        torch.zeros(()), torch.zeros(0), torch.ones(3, 4), torch.zeros(1).expand(2**40), torch.full((2, 2), math.nan),
        torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.complex64), torch.zeros(5, 5).to_sparse(),
        torch.zeros(3, device="meta"), torch.zeros(4, 4).t()[1:], torch.zeros(5056, dtype=torch.uint8)])


def of_contents(draw, good):
    """A dict in which a place somewhere holds something else, or nothing, or what belongs elsewhere."""
    contents = copy.deepcopy(good)
    for _ in range(draw.choice([1, 1, 2])):
        place = contents
        while True:
            key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
            inner = place[key]
            if isinstance(inner, (dict, list)) and len(inner) and draw.random() < 0.9:
                place = inner
                continue
            break
        kind = draw.choice(["replace", "replace", "remove", "swap", "add", "like"])
        if kind == "remove":
            del place[key]
        elif kind == "swap":
            other = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
            place[key], place[other] = place[other], place[key]
        elif kind == "add" and isinstance(place, dict):
            place[draw.choice(["x", 7, "average", "weight_hh_l0"])] = values(draw)
        elif kind == "like" and isinstance(inner, torch.Tensor):
            place[key] = draw.choice([inner.double(), inner[:-1] if inner.dim() else inner, inner * float("nan"),
                                      inner.flatten(), inner[None], inner.expand(3, *inner.shape)])
        else:
            place[key] = values(draw)
        if not contents:
            break
    return contents


def bombs(folder):
    """Archives that claim, or unpack to, far more than they are."""
    with zipfile.ZipFile(folder / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(10 * 2**20))   # 3 GB of zeros in 3 MB
    with zipfile.ZipFile(folder / "pickle.pt", "w") as archive:
        nested = b"]" + b"".join(b"(" + b"h\x00" * 10 + b"l" for _ in range(40)) + b"."
        archive.writestr("archive/data.pkl", b"\x80\x02" + nested)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
    return [folder / "deflated.pt", folder / "pickle.pt"]


# ---- the child process in which everything is tried

def attempt(script, words):
    """Run a script as its user would -> "" if it ended in success or in one line, else what went wrong."""
    errors = import_module("runtime.errors")
    sys.argv = [script, *map(str, words)]
    try:
        errors.run(import_module(script.removesuffix(".py")).main)
    except SystemExit as exit:
        if exit.code in (None, 0, 1, 2) or (isinstance(exit.code, str) and len(exit.code.splitlines()) == 1):
            return ""
        return f"exit {exit.code!r}"
    except BaseException:
        return traceback.format_exc()
    return "no exit"


def child(job, seed, count, folder, report):
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    failures = []
    for n in range(count):
        draw = random.Random(f"{SEED} {seed} {n}")
        failure = job(draw, Path(folder))
        if failure:
            failures.append(f"case {seed} {n}: {failure}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    Path(report).write_text(f"{memory}\n" + "\n".join(failures))


def in_child(job, seed, count, folder, report):
    """Run `job` `count` times in a process of its own; all must be well, in under 2 GiB."""
    process = SERVER.Process(target=child, args=(job, seed, count, str(folder), str(report)))
    process.start()
    process.join(280)
    assert process.exitcode == 0, f"the process died: {process.exitcode}"
    memory, _, failures = report.read_text().partition("\n")
    assert not failures, failures[:6000]
    assert float(memory) < 2


def digest(folder, leave_out=()):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in leave_out}


def write(draw, source, target):
    if draw.random() < 0.4:
        target.write_bytes(of_bytes(draw, source.read_bytes()))
    else:
        torch.save(of_contents(draw, torch.load(source, weights_only=True)), target)


def try_model(draw, folder):
    write(draw, folder / "toy.pt", folder / "hurt.pt")
    return attempt("generate.py", ["--checkpoint", "hurt.pt", "--words", 1, "--outf", os.devnull, "--device", "cpu"])


def try_state(draw, folder):
    write(draw, folder / "toy.state.pt", folder / "hurt.state.pt")
    for name in folder.glob("away*"):
        name.unlink()
    return attempt("main.py", ["--resume", "hurt.state.pt", "--save", "away.pt", "--epochs", 2, "--device", "cpu"])


def try_bomb(draw, folder):
    for path in bombs(folder):
        failure = attempt("generate.py", ["--checkpoint", path, "--words", 1, "--outf", os.devnull])
        if failure:
            return failure
    return ""


def try_cache(draw, folder):
    """Damage the cache of a corpus in some way: the next reader must get the same corpus."""
    Corpus = import_module("data").Corpus
    cache = folder / "cache"
    good = Corpus("corpus", cache=None)
    shutil.rmtree(cache, ignore_errors=True)
    Corpus("corpus", cache=str(cache))
    for _ in range(draw.choice([1, 1, 2])):
        path = draw.choice(sorted(path for path in cache.rglob("*") if path.is_file()))
        path.write_bytes(of_bytes(draw, path.read_bytes()) if path.stat().st_size else b"x")
    again = Corpus("corpus", cache=str(cache))
    same = (again.dictionary.idx2word == good.dictionary.idx2word
            and all(torch.equal(getattr(again, split), getattr(good, split)) for split in ("train", "valid", "test")))
    return "" if same else "another corpus"


@pytest.fixture
def folder(trained, tmp_path):
    for name in ("toy.pt", "toy.state.pt"):
        shutil.copy(trained / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("job", "count"), [(try_model, MODELS), (try_state, STATES), (try_bomb, 1)],
                         ids=["models", "states", "bombs"])
def test_broken_checkpoints(job, count, folder, tmp_path_factory):
    ours = ("hurt.pt", "hurt.state.pt", "deflated.pt", "pickle.pt")
    before = digest(folder)
    in_child(job, job.__name__, count, folder, tmp_path_factory.mktemp("report") / "report.txt")
    after = {name: value for name, value in digest(folder, ours).items() if not name.startswith("away")}
    assert after == before


@pytest.mark.slow
def test_broken_caches(toy, tmp_path, tmp_path_factory):
    shutil.copytree(toy, tmp_path / "corpus")
    before = digest(tmp_path / "corpus")
    in_child(try_cache, "cache", CACHES, tmp_path, tmp_path_factory.mktemp("report") / "report.txt")
    assert digest(tmp_path / "corpus") == before


def test_the_damage_is_real(trained):
    """Most of it must be noticed, and some of it must do no harm; else the tests above show nothing."""
    outcomes = set()
    good = torch.load(trained / "toy.pt", weights_only=True)
    for n in range(40):
        hurt = of_contents(random.Random(n), good)
        outcomes.add(set(map(str, hurt)) == set(map(str, good)))
    assert outcomes == {True, False}
    assert all(of_bytes(random.Random(n), bytes(range(256)) * 9) != bytes(range(256)) * 9 for n in range(5))
