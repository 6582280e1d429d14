"""results/gpu: what a GPU that is lent for minutes is used for, rehearsed on a CPU, with parts that break."""
import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "results" / "gpu"))
import pieces
import step_times

FAST = f"ptb {' '.join(step_times.FAST['ptb'])}"


def step(precision, ms, by="graphs", name=FAST):
    return {"step": name, "precision": precision, "by": by, "ms_in_a_row": ms}


def shared(sharing, *times):
    return [{"step": FAST, "precision": "tf32", "processes": n, "sharing": sharing, "ms_in_a_row": ms}
            for n, ms in zip(step_times.COUNTS, times)]


ONE_AFTER_THE_OTHER, ALL = [["ptb:141"], ["wt2:1882"]], [["ptb:141", "wt2:1882", "ptb:142"]]


@pytest.mark.parametrize(("figures", "flags", "mps", "groups"), [
    ([], "", "", ONE_AFTER_THE_OTHER),
    ([step("tf32", 5.0)], "", "", ONE_AFTER_THE_OTHER),
    ([step("tf32", 5.0), step("bf16", 4.8)], "", "", ONE_AFTER_THE_OTHER),              # not clearly faster
    ([step("tf32", 5.0), step("bf16", 4.0)], "--precision bf16", "", ONE_AFTER_THE_OTHER),
    ([step("tf32", 5.0), step("bf16", 1.0, name="wt2")], "", "", ONE_AFTER_THE_OTHER),
    ([step("tf32", 5.0), step("tf32", 4.0, "kernels")], "--no-graphs", "", ONE_AFTER_THE_OTHER),
    ([{"part": "graphs", "failed": "…"}, step("tf32", 9.0, "kernels")], "--no-graphs", "", ONE_AFTER_THE_OTHER),
    ([step("tf32", 5.0), *shared("time slices", 5.0, 6.0, 9.0)], "", "", ALL),
    ([step("tf32", 5.0), *shared("time slices", 5.0, 10.0, 20.0)], "", "", ONE_AFTER_THE_OTHER),   # it gains nothing
    ([step("tf32", 5.0), *shared("mps", 5.0, 5.5, 7.0), *shared("time slices", 5.0, 6.0, 9.0)], "", "/mps", ALL),
    ([step("tf32", 5.0), *shared("mps", 5.0, 5.5, 10.0), *shared("time slices", 5.0, 6.0, 9.0)], "", "", ALL),
    ([step("tf32", 9.0), *shared("time slices", 9.0, 10.0, 17.0)], "", "", ONE_AFTER_THE_OTHER),   # takes too long
    ([step("tf32", 5.0), *shared("mps", 5.0, 5.5)], "", "", ONE_AFTER_THE_OTHER)])      # four of them failed
def test_the_plan_follows_from_the_figures(figures, flags, mps, groups):
    assert step_times.plan(figures, 530, "/mps") == (flags, mps, groups)


def test_a_process_that_dies_is_told_at_once(monkeypatch):
    monkeypatch.setattr(step_times, "member", os._exit)
    team = step_times.Team("", 60)
    with pytest.raises(EOFError):
        team.wait()
    team.dismiss()


@pytest.mark.parametrize("size", [0, 3, 4, 1001, 3_000_000])
def test_a_file_comes_back_from_its_pieces(size, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "MOST", 1 << 20)
    numbers = torch.randn(size // 4 + 1, generator=torch.manual_seed(1))
    contents = numbers.numpy().tobytes()[:size]
    (tmp_path / "a.pt").write_bytes(contents)
    paths = pieces.cut(tmp_path / "a.pt", tmp_path)
    assert [path.stat().st_size <= 1 << 20 for path in paths] == [True] * len(paths)
    assert sum(path.stat().st_size for path in paths) < 0.93 * size + 500            # exponents become smaller
    (tmp_path / "a.pt").unlink()
    assert pieces.join(tmp_path, tmp_path) == [f"a.pt: whole, in {tmp_path}"]
    assert (tmp_path / "a.pt").read_bytes() == contents


def test_pieces_that_are_missing_or_have_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "MOST", 1000)
    (tmp_path / "a.pt").write_bytes(os.urandom(5000))
    *_, last = paths = pieces.cut(tmp_path / "a.pt", tmp_path)
    (tmp_path / "a.pt").unlink()
    whole = last.read_bytes()
    last.unlink()
    assert pieces.join(tmp_path, tmp_path) == [f"a.pt: {len(paths) - 1} of {len(paths)} pieces"]
    for changed in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        last.write_bytes(changed)
        line, = pieces.join(tmp_path, tmp_path)
        assert line.startswith("a.pt: damaged") and not (tmp_path / "a.pt").exists()


def rehearse(folder, *words, python=sys.executable, status=0, **environment):
    """run.sh as it is called on the GPU's machine, but on the CPU at toy sizes -> its progress, its files by name."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)                                 # empty before every call, as there
    done = subprocess.run(["bash", "results/gpu/run.sh", str(out), *words, "--device", "cpu", "--quick", "--seconds",
                           "2000"], cwd=ROOT, capture_output=True, text=True, check=False, env={
                               **os.environ, "PYTHON": str(python), "WORK": str(folder / "work"), **environment})
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    files = {path.name: path for path in out.iterdir()}
    assert len(files) <= 8 and all(path.stat().st_size < 16 << 20 for path in files.values())
    return (out / "progress.log").read_text(), files


def packed(files):
    with tarfile.open(files["results.tgz"]) as archive:
        return {member.name: archive.extractfile(member).read().decode() for member in archive if member.isfile()}


@pytest.mark.parametrize("words", [[], ["OUT", "--seconds", "soon"], ["OUT", "all"], ["OUT", "--fast"]], ids=" ".join)
def test_what_it_does_not_understand_is_answered_with_its_usage(words, tmp_path):
    done = subprocess.run(["bash", ROOT / "results" / "gpu" / "run.sh", *words], cwd=tmp_path, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert done.stderr.strip() == "bash results/gpu/run.sh OUT [PART…] [--seconds S] [--device cuda:0|cpu] [--quick]"


BREAKING = """#!/bin/bash
case "$*" in *pytest*) kill -SEGV $$ ;; *step_times.py*) sleep 1000 ;; esac
exec {python} "$@"
"""


@pytest.mark.slow
def test_the_rehearsal_and_parts_that_break(tmp_path):
    python = tmp_path / "python"
    python.write_text(BREAKING.format(python=sys.executable))
    python.chmod(0o755)
    progress, files = rehearse(tmp_path, python=python, status=1, LIMIT="8")
    assert "tests: NOT finished (1)" in progress and "steps: NOT finished (1)" in progress     # one crashes, one hangs
    assert "fast: finished" in progress and "models: finished" in progress
    results = packed(files)
    for name in ("ptb-fast-141", "ptb-fast-141.pointer", "ptb-fast-141.dynamic", "ptb-fast-141.evaluation.test.mc-2",
                 "wt2-fast-1882", "wt2-fast-1882.pointer"):
        assert json.loads(results[f"runs/{name}.result.json"])["test"]["perplexity"] > 1
    assert {"logs/driver.log", "logs/tests.log", "logs/fast-ptb-141.log", "runs/ptb-fast-141.jsonl"} <= set(results)
    pieces.join(tmp_path / "out", tmp_path)
    for name in ("ptb-fast-141.pt", "wt2-fast-1882.pt"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "work" / "runs" / name).read_bytes()

    progress, files = rehearse(tmp_path)                # the next call does what is left, and nothing twice
    assert "tests: finished" in progress and "steps: finished" in progress and "fast: finished before" in progress
    figures = json.loads(files["step_times.json"].read_text())["figures"]
    assert {figure["by"] for figure in figures if "by" in figure} == {"kernels", "torch's layers"}
    assert [figure["processes"] for figure in figures if "processes" in figure] == [1, 2, 4]
    assert not any("failed" in figure for figure in figures)
    assert not any("-of-" in name for name in files)                       # the models have come before


@pytest.mark.slow
def test_a_run_goes_on_from_the_states_that_another_machine_left(tmp_path):
    """Its states brought back in pieces, carried to a bare machine, and followed to the result there."""
    data = ROOT / "data" / "pieces"
    assert not data.exists(), f"{data} is in the way"
    progress, _ = rehearse(tmp_path, "ptb")
    assert "ptb: finished" in progress
    work = tmp_path / "work"
    for path in (work / "runs").glob("*.result.json"):
        path.unlink()
    progress, files = rehearse(tmp_path, "states")
    for name in ("ptb-141.state.pt", "ptb-141.pt", "ptb-141.finetuned.state.pt", "ptb-141.finetuned.pt"):
        assert f"{name}: all of it is out" in progress
    shutil.rmtree(work)
    data.mkdir(parents=True)
    try:
        for name, path in files.items():
            if "-of-" in name:
                path.rename(data / name)
        progress, _ = rehearse(tmp_path, "carried", "ptb")
    finally:
        shutil.rmtree(data)
    assert "ptb-141.state.pt: whole" in progress and "ptb: finished" in progress
    log = (work / "logs" / "ptb.log").read_text()
    assert log.count("continuing from") == 2 and "end of epoch" not in log                  # nothing is trained again
