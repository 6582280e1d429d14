"""results/gpu: what a GPU that is lent for minutes is used for, rehearsed on a CPU, with parts that break."""
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from concurrent.futures.process import BrokenProcessPool

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "results" / "gpu"))
import step_times

FAST = f"ptb {' '.join(step_times.FAST['ptb'])}"


def step(precision, ms, by="graphs", name=FAST):
    return {"step": name, "precision": precision, "by": by, "ms": ms}


def shared(sharing, *times):
    return [{"step": FAST, "precision": "tf32", "processes": n, "sharing": sharing, "ms": ms}
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


def test_a_process_that_dies_is_told_at_once():
    team = step_times.Team("", 600)
    first, *_ = [pid.result(600) for pid in team.pids]
    os.kill(first, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        team.ask(1, None, [], "fp32")
    with pytest.raises(AttributeError):                   # what is raised in a process is raised here
        team.pools[1].submit(step_times.member, None, [], "fp32").result(600)
    with pytest.raises(BrokenProcessPool):
        next(team.figures(None, [], "fp32"))
    for pool in team.pools:                               # all of them were ended
        with pytest.raises(BrokenProcessPool):
            pool.submit(os.getpid).result(60)


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


def test_a_file_comes_back_from_its_pieces(tmp_path):
    contents, work = os.urandom(40 << 20), tmp_path / "work"
    (work / "runs").mkdir(parents=True)
    (work / "runs" / "ptb-fast-141.pt").write_bytes(contents)
    (work / "runs" / "ptb-fast-141.result.json").write_text("{}")
    progress, files = rehearse(tmp_path, "models")
    assert "ptb-fast-141.pt: all of it is out" in progress
    names = sorted(name for name in files if "-of-" in name)
    assert names == [f"ptb-fast-141.pt.{number:02}-of-03" for number in range(3)]
    pieces = {name: files[name].read_bytes() for name in names}

    def carried(**changed):
        (work / "runs" / "ptb-fast-141.pt").unlink(missing_ok=True)
        (work / "carried").mkdir(exist_ok=True)
        for name, content in {**pieces, **changed}.items():
            (work / "carried" / name).unlink(missing_ok=True)
            if content is not None:
                (work / "carried" / name).write_bytes(content)
        return rehearse(tmp_path, "carried")[0]

    assert "ptb-fast-141.pt: 2 of 3 pieces" in carried(**{names[1]: None})
    last = pieces[names[2]]
    for changed in last[:-1], bytes([last[0] ^ 1]) + last[1:]:
        assert "ptb-fast-141.pt: damaged" in carried(**{names[2]: changed})
        assert not (work / "runs" / "ptb-fast-141.pt").exists()
    assert "ptb-fast-141.pt: whole" in carried()
    assert (work / "runs" / "ptb-fast-141.pt").read_bytes() == contents and not list((work / "carried").iterdir())


BREAKING = """#!/bin/bash
case "$*" in "-m pytest "*) kill -SEGV $$ ;; *step_times.py*) sleep 1000 ;; esac
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
    for name in ("ptb-fast-141.pt", "wt2-fast-1882.pt"):
        piece = files[f"{name}.00-of-01"].read_bytes()
        assert gzip.decompress(piece) == (tmp_path / "work" / "runs" / name).read_bytes()

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
