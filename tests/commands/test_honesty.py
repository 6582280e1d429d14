"""What scripts say is so: flags without effect, ends of grids, divergence, units, names of results."""
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SMALL, run_script

import checkpoint
from runtime import record
from runtime.devices import Compute
from runtime.log import duration


@pytest.mark.parametrize(("words", "says"), [
    (["--optimizer", "adam", "--on-stall", "average"], "--on-stall average"),
    (["--momentum", 0.9, 0.8], "--momentum has no effect without --one-cycle")])
def test_flags_that_contradict_are_refused(words, says, toy, tmp_path):
    error = run_script("main.py", "--data", toy, *SMALL, *words, cwd=tmp_path, status=1).stderr
    assert says in error and error.count("\n") == 1


def test_a_cycle_that_is_cut_short_is_named(toy, call):
    said = call("main.py", "--data", toy, *SMALL, "--optimizer", "adam", "--lr", 0.01, "--one-cycle", 1, 1, 1, 1,
                "--epochs", 2)
    assert "WARNING: --one-cycle takes 4 epochs, --epochs 2 ends before its end" in said


def test_one_temperature(trained, tmp_path):
    error = run_script("evaluate.py", "--save", trained / "toy.pt", "--temperature", 0.9, "--search-temperature",
                       cwd=tmp_path, status=1).stderr
    assert "--search-temperature" in error


def test_adam_halves_its_rate_where_it_is_asked_to(toy, call):
    said = call("main.py", "--data", toy, *SMALL, "--optimizer", "adam", "--lr", 0.5, "--on-stall", "halve",
                "--nonmono", 0, "--epochs", 12)
    assert "learning rate divided by 2" in said


def test_cutoffs_beyond_the_vocabulary_are_named(toy, call):
    said = call("main.py", "--data", toy, *SMALL, "--cutoffs", 10, 5000, "--epochs", 1)
    assert "WARNING: --cutoffs 5000 have no effect: the vocabulary has 31 words" in said


def test_an_unk_that_is_never_trained_is_named(toy, call, tmp_path):
    assert "it is never trained" in call("main.py", "--data", toy, *SMALL, "--vocab", "train", "--epochs", 1)
    call("finetune.py", "--epochs", 1)
    (tmp_path / "a.txt").write_text("w1 cat\n")
    for model in "model.pt", "model.finetuned.pt":
        done = run_script("evaluate.py", "--checkpoint", model, "--text", "a.txt", cwd=tmp_path)
        assert "the model saw no <unk> in training" in done.stderr


def test_an_unk_in_a_split_is_named_too_where_it_was_never_trained(toy, call, tmp_path):
    (tmp_path / "corpus").mkdir()
    for split in "train", "valid", "test":
        (tmp_path / "corpus" / f"{split}.txt").write_text((toy / f"{split}.txt").read_text() + "w1 w2\n")
    with open(tmp_path / "corpus" / "test.txt", "a") as text:
        text.write("w1 cat\n")
    call("main.py", "--data", "corpus", *SMALL, "--vocab", "train", "--epochs", 1)
    assert "saw no <unk> in training" in run_script("evaluate.py", "--split", "test", cwd=tmp_path).stderr
    with open(tmp_path / "corpus" / "train.txt", "a") as text:
        text.write("w1 <unk>\n")
    call("main.py", "--data", "corpus", *SMALL, "--vocab", "train", "--epochs", 1)
    said = run_script("evaluate.py", "--split", "test", cwd=tmp_path).stderr
    assert "are <unk>" in said and "saw no" not in said


def test_a_divergence_offers_a_command_that_does_not_diverge_again(toy, tmp_path):
    run_script("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "a.pt", cwd=tmp_path)
    words = ["--data", toy, *SMALL, "--epochs", 3, "--max-bad-steps", 3, "--save", "a.pt", "--resume", "auto"]
    done = run_script("main.py", *words, "--lr", "1e30", cwd=tmp_path, status=1)
    assert "the last good state is in a.state.pt" in done.stdout and "is kept" not in done.stdout
    command = shlex.split(re.search(r"with a lower rate: (.*)", done.stdout)[1])
    assert float(command[command.index("--lr", command.index("--save")) + 1]) < 1e30 and "1e30" not in command
    assert command[-2:] == ["--resume", "auto"]
    done = run_script("main.py", "--data", toy, *SMALL, "--lr", "1e30", "--max-bad-steps", 3, "--save", "b.pt",
                      cwd=tmp_path, status=1)
    assert "no state is saved" in done.stdout
    assert "--resume" not in re.search(r"with a lower rate: (.*)", done.stdout)[1]


def test_the_best_at_the_end_of_a_grid_is_named(trained, call, monkeypatch, tmp_path):
    import dynamiceval
    import pointer
    (tmp_path / "a.pt").write_bytes((trained / "toy.pt").read_bytes())
    monkeypatch.setattr(pointer, "THETAS", (0.1, 0.2))
    said = call("pointer.py", "--save", "a.pt", "--window", 50, "--search")
    assert re.search(r"WARNING: theta 0\.[12] is the (first|last) of its grid", said)
    monkeypatch.setattr(dynamiceval, "FACTORS", (1, 2))
    said = call("dynamiceval.py", "--save", "a.pt", "--rule", "sgd", "--search", "--search-tokens", 50, "--split",
                "valid", "--bptt", 20)
    assert re.search(r"WARNING: lr [\d.]+ is the (first|last) of its grid", said)


def test_every_evaluation_has_a_result_of_its_own(trained, call, tmp_path):
    (tmp_path / "a.pt").write_bytes((trained / "toy.pt").read_bytes())
    (tmp_path / "some text.txt").write_text("w1 w2\n")
    for words in ([], ["--split", "test"], ["--split", "test", "--context", "reset"], ["--mc-samples", 2],
                  ["--temperature", 0.9], ["--text", "some text.txt"]):
        call("evaluate.py", "--save", "a.pt", *words)
    assert {path.name for path in tmp_path.glob("*.result.json")} == {
        f"a.evaluation{name}.result.json" for name in ("", ".mc-2", ".some-text-txt", ".temperature-0.9", ".test",
                                                       ".test.reset")}
    found = json.loads((tmp_path / "a.evaluation.test.result.json").read_text())["test"]
    assert found["bits_per_token"] == pytest.approx(found["loss"] / 0.6931471805599453)


def test_bits_are_of_tokens_in_lines_of_our_own(trained, call, tmp_path):
    (tmp_path / "a.pt").write_bytes((trained / "toy.pt").read_bytes())
    said = call("evaluate.py", "--save", "a.pt") + call("pointer.py", "--save", "a.pt", "--window", 50)
    own = [line for line in said.splitlines() if " loss " in line and "End of" not in line]
    assert len(own) == 6 and all("bits per token" in line and "bpc" not in line for line in own)
    assert re.search(r"End of pointer \| test loss .* test bpc", said)                # as published


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (200, "3.3 minutes"), (7200, "2.00 hours")])
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("words", [["--nonsense"], ["--lr", "-1"], ["--data", "nowhere"]])
def test_one_process_of_several_speaks(words, tmp_path):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           str(ROOT / "main.py"), *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("main.py: error:") == 1


@pytest.mark.parametrize("recipe", ["variational_medium", "variational_large"])
def test_trying_a_variational_recipe_out_takes_two_samples(recipe):
    line, = re.findall(r"mc-samples \"(.*?\)})\"", (ROOT / "recipes" / f"{recipe}.sh").read_text())
    for smoke, wanted in ("1", "2"), ("", "100"):
        done = subprocess.run(["bash", "-c", f"echo {line}"], env={"SMOKE": smoke}, capture_output=True, text=True,
                              check=True)
        assert done.stdout.strip() == wanted


def test_a_picture_of_forty_runs(monkeypatch, tmp_path):
    """Colours that differ, a legend beside the curves, and ticks that are perplexities."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "results"))
    import plot
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, out: drawn.append(figure))
    runs = {f"run{i}": [{"epoch": e, "switch_epoch": None, "train_loss": 5.0, "valid_loss": 5 - 0.1 * e + 0.01 * i}
                        for e in (1, 2, 3)] for i in range(40)}
    runs["diverged"] = [{"epoch": 1, "switch_epoch": None, "train_loss": 20, "valid_loss": 20}]
    plot.draw_curves(runs, "a.png")
    axes, = drawn[0].axes
    solid = [line.get_color() for line in axes.lines if line.get_linestyle() == "-"]
    assert len(set(solid)) == 41 and len(axes.get_legend().get_texts()) == 41
    drawn[0].canvas.draw()
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1
    ticks = [text.get_text() for text in axes.get_yticklabels(which="both") if text.get_text()]
    assert ticks and all(float(tick.replace(",", "")) > 0 for tick in ticks)
    plot.pyplot().close(drawn[0])


def test_a_path_that_does_not_exist_is_no_matter_of_permissions(trained, tmp_path):
    done = run_script("evaluate.py", "--checkpoint", trained / "toy.pt", "--text", "nothing.txt", cwd=tmp_path,
                      status=1)
    assert "No such file" in done.stderr and "permissions" not in done.stderr


def test_every_run_has_a_folder_of_curves_of_its_own(toy, call, monkeypatch):
    folders = []

    def writer(folder, **more):
        folders.append(folder)
        return SimpleNamespace(add_scalar=lambda *point: None, flush=lambda: None, close=lambda: None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=writer))
    for name in "a.pt", "b.pt":
        call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--tensorboard", "curves", "--save", name)
    assert len(set(folders)) == 2 and {os.path.dirname(folder) for folder in folders} == {"curves"}


def test_a_restored_model_evaluates(trained):
    path = str(trained / "toy.pt")
    assert not checkpoint.restore(checkpoint.load(path), path, Compute(torch.device("cpu"), "fp32")).training


def test_a_result_of_other_flags_is_kept(trained, call, tmp_path):
    """The name tells some runs apart, a number the others; the same command takes the place of its own result."""
    shutil.copy(trained / "toy.pt", tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    for folder in "one", "other":
        (tmp_path / folder / "text.txt").write_text("w1 w8\n")
    common = {"evaluate.py": ["--save", "toy.pt", "--device", "cpu"]}
    common["pointer.py"] = [*common["evaluate.py"], "--window", 9]
    common["ensemble.py"] = ["--device", "cpu"]
    runs = [("evaluate.py", ["--text", "one/text.txt"], "toy.evaluation.text-txt"),
            ("evaluate.py", ["--text", "other/text.txt"], "toy.evaluation.text-txt.2"),
            ("evaluate.py", ["--text", "one/text.txt", "--unknown", "error"], "toy.evaluation.text-txt.3"),
            ("evaluate.py", ["--text", "one/text.txt", "--precision", "bf16"], "toy.evaluation.text-txt.4"),
            ("pointer.py", ["--theta", 1], "toy.pointer"), ("pointer.py", ["--theta", 2], "toy.pointer.2"),
            ("pointer.py", ["--theta", 2, "--search"], "toy.pointer.3"),
            ("ensemble.py", ["toy.pt", "toy.pt:cache,theta=1.0"], "toy.ensemble.toy-cache"),
            ("ensemble.py", ["toy.pt", "toy.pt:cache,theta=2.0"], "toy.ensemble.toy-cache.2"),
            ("ensemble.py", ["toy.pt", "toy.pt:cache,theta=2.0", "--split", "test"], "toy.ensemble.toy-cache.3")]
    for _ in range(2):
        for script, words, name in runs:
            said = call(script, *common[script], *words)
            assert f"result {name}.result.json" in said
            assert ("is kept; the result of this one goes to" in said) == name[-1].isdigit()
    assert {path.name for path in tmp_path.glob("*.result.json")} == {f"{name}.result.json" for *_, name in runs}


def test_a_text_whose_name_is_as_long_as_names_can_be(trained, call, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)
    names = ["a" * 240, "ž" * 120]
    for name in names:
        (tmp_path / name).write_text("w1 w8\n")
        said = call("evaluate.py", "--save", "toy.pt", "--text", name, "--device", "cpu")
        assert "could not be written" not in said and "| result toy.evaluation." in said.replace(", result", "| result")
    assert len(list(tmp_path.glob("*.result.json"))) == 2


def test_a_result_that_cannot_be_written_is_not_named_as_written(trained, call, tmp_path, monkeypatch):
    shutil.copy(trained / "toy.pt", tmp_path)

    @contextmanager
    def full(path, *more):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(record, "atomic_write", full)
    for script in "evaluate.py", "pointer.py":
        said = call(script, "--save", "toy.pt", "--device", "cpu")
        assert "could not be written (No space left on device)" in said
        assert "result.json" not in said[said.index("| summary"):]
