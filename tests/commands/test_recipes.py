"""The recipes, the tables and the pictures."""
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, run_script

sys.path.insert(0, str(ROOT / "results"))
import table

# The recipes, and by which scripts results of theirs are made.
ALL = "main finetune pointer"
RECIPES = {
    ("ptb.sh",): ALL, ("wt2.sh",): ALL, ("ptb_gru.sh",): ALL, ("qrnn.sh", "ptb"): ALL,
    ("fast.sh", "ptb"): "main pointer", ("fast.sh", "wt2"): "main pointer", ("lstm_cache.sh", "ptb"): "main pointer",
    ("overnight.sh", "ptb"): "main evaluate pointer dynamiceval",
    ("rhn.sh",): "main", ("skip_lstm.sh", "ptb"): "main evaluate", ("skip_lstm.sh", "wt2"): "main evaluate",
    ("mogrifier.sh",): "main evaluate", ("mogrifier_wt2.sh",): "main evaluate",
    ("ptb_best.sh",): "main evaluate dynamiceval",
    ("mos.sh", "ptb"): "main finetune", ("mos.sh", "wt2"): "main finetune",
    ("variational_medium.sh",): "main evaluate", ("variational_large.sh",): "main evaluate",
    ("ensemble.sh", "wt2"): f"{ALL} ensemble", ("ablations.sh", "small", "nothing"): "main finetune",
    **{("ablations.sh", "ptb", which): "main" if which in ("fine-tuning", "nt-asgd") else "main finetune" for which in (
        "fine-tuning", "nt-asgd", "variable-bptt", "embedding-dropout", "weight-decay", "ar-tar", "small-embedding",
        "weight-drop")}}


def recipe(words, folder, **env):
    """The command of a recipe and its environment, with a model too small to learn."""
    return [str(ROOT / "recipes" / words[0]), *words[1:], "--device", "cpu"], {
        **os.environ, "PYTHON": sys.executable, "SAVE_DIR": str(folder), "SMOKE": "1",
        "MC_SAMPLES": "2", **env}


@pytest.mark.slow
@pytest.mark.parametrize("words", RECIPES, ids=" ".join)
def test_a_recipe_killed_and_run_again(words, tmp_path):
    command, env = recipe(words, tmp_path)
    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.state.pt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "| continuing from" in second.stdout
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.result.json"))]
    expected = {f"{script}.py" for script in RECIPES[words].split()}
    assert {result["script"] for result in results} == expected
    for result in results:
        assert result["recipe"] is None and math.isfinite(result["test"]["perplexity"])
        if result["script"] == "main.py":
            assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]


def test_a_recipe_that_a_time_limit_ends_begins_no_next_step(toy, tmp_path):
    command, env = recipe(("ptb.sh",), tmp_path, DATA=str(toy))
    done = subprocess.run([*command, "--max-minutes", "0.0001"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "run this again" in done.stdout and "fine-tuning" not in done.stdout


def test_a_recipe_stops_where_a_step_fails(tmp_path):
    command, env = recipe(("ptb.sh",), tmp_path, DATA=str(tmp_path / "nothing"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "nothing" in done.stderr and "fine-tuning" not in done.stdout


def test_dynamic_evaluation_comes_after_the_rest(toy, tmp_path):
    """And in SMOKE's size it runs over what ptb.sh left."""
    command, env = recipe(("dynamic.sh", "ptb"), tmp_path, DATA=str(toy))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "ptb.sh" in done.stderr and done.stderr.count("\n") == 1
    run_script("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "ptb-141.pt", cwd=tmp_path)
    run_script("finetune.py", "--save", "ptb-141.pt", "--epochs", 1, "--device", "cpu", cwd=tmp_path)
    done = subprocess.run([*command, "--search-tokens", "50", "--bptt", "20"], env=env, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and "End of dynamic evaluation" in done.stdout, done.stderr
    assert (tmp_path / "ptb-141.finetuned.dynamic.result.json").exists()


@pytest.mark.parametrize("words", [("fast.sh",), ("fast.sh", "x"), ("dynamic.sh",), ("qrnn.sh", "x"),
                                   ("skip_lstm.sh",), ("mos.sh",), ("overnight.sh",), ("ensemble.sh",),
                                   ("lstm_cache.sh",), ("babylm.sh",), ("babylm.sh", "--epochs"),
                                   ("babylm_push.sh", "x"), ("ablations.sh",), ("ablations.sh", "ptb"),
                                   ("ablations.sh", "ptb", "x")])
def test_a_recipe_says_how_it_is_used(words, tmp_path):
    command = [str(ROOT / "recipes" / words[0]), *words[1:]]
    done = subprocess.run(command, env={**os.environ, "SAVE_DIR": str(tmp_path)}, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage:") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_babylm_from_raw_text_to_folders_and_predictions(tmp_path):
    for package in ("tokenizers", "safetensors"):
        pytest.importorskip(package)
    command, env = recipe(("babylm.sh",), tmp_path)
    for _ in range(2):                                         # and again: nothing is trained anew
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "preparing" not in done.stdout and "end of epoch" not in done.stdout
    revisions = {"chck_5K", "chck_15K", "chck_25K", "main"}    # docs/ has some 14,000 words, read twice
    for folder in (tmp_path / "babylm-1111", tmp_path / "results" / "babylm-1111"):
        assert {path.name for path in folder.iterdir()} == revisions
    for revision in revisions:
        config = json.loads((tmp_path / "babylm-1111" / revision / "config.json").read_text())
        assert revision == "main" or 0 <= config["words_seen"] - 1000 * int(revision[5:-1]) < 4000     # a step's words
        found = {path.parent.name: json.loads(path.read_text()) for path in
                 (tmp_path / "results" / "babylm-1111" / revision / "zero_shot" / "causal").rglob("predictions.json")}
        assert found["blimp_smoke"]["agreement"]["predictions"][0]["pred"].startswith("The text ")
        assert found["reading"]["reading"]["predictions"][0].keys() == {"id", "pred", "prev_pred"}


def test_every_folder_is_pushed_to_a_branch_of_its_name(tmp_path):
    for name in ("main", "chck_1M", "chck_10M", "chck_20M"):
        (tmp_path / "model" / name).mkdir(parents=True)
        (tmp_path / "model" / name / "config.json").write_text("{}")
    (tmp_path / "model" / "chck_20M" / "config.json").unlink()                       # not one of ours
    (tmp_path / "hf").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    (tmp_path / "hf").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    push = [str(ROOT / "recipes" / "babylm_push.sh")]
    subprocess.run([*push, str(tmp_path / "model"), "me/model"], env=env, check=True)
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"upload me/model {tmp_path}/model/{name} . --revision {name}" for name in ("main", "chck_10M", "chck_1M")]
    done = subprocess.run([*push, str(tmp_path), "me/model"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "babylm.sh makes it" in done.stderr


def test_ablations_make_their_small_text_of_the_corpus(tmp_path):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@" >> calls\ncase "$1" in prepare.py) cat > given ;; esac\n')
    (tmp_path / "python").chmod(0o755)
    words, options = [tmp_path / "recipes" / "ablations.sh", "small", "gru"], {"capture_output": True, "text": True}
    env = {name: value for name, value in os.environ.items() if name not in ("DATA", "SMOKE", "SEED")}
    env |= {"PYTHON": str(tmp_path / "python"), "SAVE_DIR": str(tmp_path / "runs")}
    done = subprocess.run(words, env=env, check=False, **options)
    assert done.returncode == 1 and "getdata.sh" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "data" / "penn").mkdir(parents=True)
    (tmp_path / "data" / "penn" / "train.txt").write_text("".join(f" line {n} \n" for n in range(5000)))
    subprocess.run(words, env=env, check=True, **options)
    prepared, trained = (tmp_path / "calls").read_text().splitlines()
    assert prepared.startswith("prepare.py text - ") and prepared.endswith("--out data/penn-4000")
    assert (tmp_path / "given").read_text().endswith(" line 3999 \n")
    assert trained.startswith("main.py --data data/penn-4000 --seed 141 ") and "--model GRU --lr 10" in trained


def test_a_small_run_is_not_in_the_way_of_one_in_earnest(tmp_path):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@" >> calls\n')
    (tmp_path / "python").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ("DATA", "SMOKE", "SEED", "SAVE_DIR")}
    for smoke in ({"SMOKE": "1"}, {}):
        subprocess.run([tmp_path / "recipes" / "ptb.sh"], check=True, capture_output=True,
                       env={**env, **smoke, "PYTHON": str(tmp_path / "python")})
    small, whole = (tmp_path / "calls").read_text().splitlines()
    assert "--save runs/smoke/ptb-141.pt" in small and "--save runs/ptb-141.pt" in whole


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_shellcheck():
    subprocess.run(["shellcheck", "-x", *map(str, (ROOT / "recipes").glob("*.sh"))], check=True)


# ---- results

def test_a_finished_run_leaves_its_result(toy, call, tmp_path):
    call("main.py", "--data", toy, *SMALL, "--epochs", 2, "--save", "a.pt", "--recipe", "ptb")
    call("pointer.py", "--save", "a.pt", "--window", 40, "--device", "cpu", "--recipe", "ptb")
    result = json.loads((tmp_path / "a.result.json").read_text())
    assert result["recipe"] == "ptb" and "--recipe ptb" in result["command"] and len(result["epochs"]) == 2
    assert result["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in result["epochs"]))
    assert result["commit"] is None or len(result["commit"].strip("+")) == 40
    rows = sum(len(line.split()) + 1 for line in (toy / "test.txt").read_text().splitlines())   # one column
    assert result["test"]["published_perplexity"] == pytest.approx(math.exp(result["test"]["loss"] * (rows - 1) / rows))
    assert result["valid"]["loss"] == min(epoch["valid_loss"] for epoch in result["epochs"])
    pointed = json.loads((tmp_path / "a.pointer.result.json").read_text())
    assert pointed["test"]["loss"] != pointed["test_without_cache"]["loss"] == pytest.approx(result["test"]["loss"])

    call("main.py", "--epochs", 3, "--save", "a.pt", "--resume", "auto", "--max-minutes", "0.0001", "--device", "cpu",
         "--log-interval", 10)
    assert not (tmp_path / "a.result.json").exists()     # longer now, and not finished


def a_result(recipe, script, seed, valid, test, date="2026-01-01", **more):
    evaluation = {"search_temperature": False, "mc_samples": None} if script == "evaluate.py" else {}
    return {"recipe": recipe, "script": script, "settings": {"seed": seed, **evaluation, **more.pop("settings", {})},
            "date": date, "valid": {"perplexity": valid}, "test": {"perplexity": test},
            "device": "cpu AMD EPYC, 2 threads (AVX512)", **more}


def write(folder, results):
    """Each as the file that a script would leave."""
    for number, result in enumerate(results):
        (folder / f"{number}.result.json").write_text(json.dumps(result))


def test_the_table_has_samples_of_masks_apart(tmp_path):
    """A figure published with Monte Carlo dropout stands beside ours with it, not beside the model as trained."""
    sampled = {f"{split}_sampled": {"perplexity": value} for split, value in (("valid", 53.0), ("test", 52.0))}
    write(tmp_path, [a_result("ptb-mogrifier", "main.py", 1, 55.0, 54.0),
                     a_result("ptb-mogrifier", "evaluate.py", 1, 55.0, 54.0, settings={"mc_samples": 200}, **sampled)])
    text = table.tables(table.read(tmp_path))
    assert "| Mogrifier LSTM (Melis et al. 2020) † | 52.1 / 51.0 | | 55.00 / 54.00 (1) | | |" in text
    assert "| with Monte Carlo dropout | 51.4 / 50.1 | | 53.00 / 52.00 (1) | 57.3 / 55.1 | |" in text


def calls(name, script, folder, *words):
    """How a recipe, given these words, calls a script -> lines. Nothing is trained."""
    python = folder / "python"                   # writes down what it is called with; a training run ends at once
    python.write_text('#!/bin/sh\necho "$@" >> "$SAVE_DIR/calls"\n: > "$SAVE_DIR/$RECIPE-141.result.json"\n')
    python.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if key not in ("MC_SAMPLES", "SMOKE", "SEED", "DATA")}
    recipe = "ptb-" + name.removeprefix("ptb_").removesuffix(".sh").replace("_", "-")
    subprocess.run([str(ROOT / "recipes" / name), *words], check=True, capture_output=True,
                   env={**env, "PYTHON": str(python), "SAVE_DIR": str(folder), "RECIPE": recipe})
    return [call for call in (folder / "calls").read_text().splitlines() if call.startswith(script)]


@pytest.mark.parametrize("words", [["--device", "cuda:1"], ["--epochs", "3", "--device=cuda:1"]])
def test_every_step_is_on_the_device_that_is_named(words, tmp_path):
    called = calls("overnight.sh", "", tmp_path, "ptb", *words)
    scripts = [call.split()[0] for call in called]
    assert scripts == ["main.py", "evaluate.py", "evaluate.py", "pointer.py", "dynamiceval.py"]
    assert all(call.replace("=", " ").count("--device cuda:1") == 1 for call in called)


@pytest.mark.parametrize("name", ["mogrifier.sh", "ptb_best.sh"])
def test_melis_samples_are_200_and_searched(name, tmp_path):
    """As published: factor and temperature chosen on validation with the samples themselves."""
    scored, = calls(name, "evaluate.py", tmp_path)
    assert "--mc-samples 200 --search-mc" in scored


@pytest.mark.parametrize("name", ["variational_large.sh", "variational_medium.sh"])
def test_masks_of_the_variational_recipes(name, tmp_path):
    """As published: of each gate and each stream; in evaluation one for the whole text."""
    trained, = calls(name, "main.py", tmp_path)
    scored = calls(name, "evaluate.py", tmp_path)[-1]
    assert "--untied-masks --word-masks stream" in trained and "--mc-samples 100 --mc-mask text" in scored


def test_the_table_counts_seeds_and_only_recipes(tmp_path):
    (tmp_path / "h200").mkdir()
    made = [a_result("ptb", "main.py", 1, 60.0, 58.0), a_result("ptb", "main.py", 2, 62.0, 59.0),
            a_result("ptb", "main.py", 2, 99.0, 99.0, "2025-01-01"), a_result(None, "main.py", 3, 10.0, 10.0),
            a_result("wt2-without-ar-tar", "finetune.py", 1, 75.04, 71.06)]
    write(tmp_path / "h200", made)
    text = table.tables(table.read(tmp_path))
    assert "| AWD-LSTM | 60.7 / 58.8 | 61.2 / 58.8 | 61.00 ± 1.41 / 58.50 ± 0.71 (2) | 69.1 / 66.0 |" in text
    assert "| AR and TAR | 62.7 / 60.3 | | 73.2 / 70.1 | 75.04 / 71.06 (1) |" in text
    assert re.findall(r"\((\d+)\)", text) == ["2", "2", "1"]    # without fine-tuning is the model as trained
    assert "overnight" not in text and not table.first_page(table.read(tmp_path)).strip()
    alone = table.tables(table.read(tmp_path / "nothing"))       # a column without any figure is left out
    assert "here" not in alone and "| AWD-LSTM | 60.7 / 58.8 | 61.2 / 58.8 | 69.1 / 66.0 | 68.7 / 65.6 |" in alone


def test_the_table_of_a_run_overnight(tmp_path):
    """Evaluations of one model do not take each other's row, and what a result names apart has a row of its own."""
    def sampled(value):
        return {f"{split}_sampled": {"perplexity": value} for split in ("valid", "test")}

    write(tmp_path, [
        a_result("ptb-overnight", "main.py", 1, 64.0, 62.0, epochs=[{"seconds": 3600}] + [{"seconds": 589}] * 39),
        a_result("ptb-overnight", "evaluate.py", 1, 63.5, 61.5, settings={"search_temperature": True}),
        a_result("ptb-overnight", "evaluate.py", 1, 64.0, 62.0, settings={"mc_samples": 10}, **sampled(63.0)),
        a_result("ptb-overnight", "evaluate.py", 1, 64.0, 62.0, settings={"mc_samples": 50}, **sampled(62.5)),
        a_result("ptb-overnight", "ensemble.py", 1, 63.4, 61.4),
        a_result("ptb-overnight", "dynamiceval.py", 1, 53.0, 52.0,
                 valid_without_cache={"perplexity": 56.0}, test_without_cache={"perplexity": 55.0})])
    text = table.first_page(table.read(tmp_path))
    assert "PTB on two CPU cores (`recipes/overnight.sh ptb`; AMD EPYC), 40 epochs in 6.5 hours:" in text
    assert text[text.index("| as trained"):].splitlines() == [
        "| as trained | 60.7 / 58.8 | 64.00 / 62.00 (1) |",
        "| at a temperature chosen on validation | | 63.50 / 61.50 (1) |",
        "| averaged over 10 samples of the dropout masks | | 63.00 / 63.00 (1) |",
        "| averaged over 50 samples | | 62.50 / 62.50 (1) |",
        "| mixed with a small second model | | 63.40 / 61.40 (1) |",
        "| with dynamic evaluation | 51.6 / 51.1 | 56.00 / 55.00 (1) |",
        "| with dynamic evaluation and the cache | | 53.00 / 52.00 (1) |"]


def test_the_table_joins_the_splits_of_an_evaluation(tmp_path):
    """`evaluate.py --split` run for each split is one row, which is left out while one of them is missing."""
    def sampled(split, date="2026-01-01", **values):
        return a_result("ptb-overnight", "evaluate.py", 1, 0, 0, date, settings={"mc_samples": 50, "split": split},
                        **{f"{split}_sampled": {"perplexity": value} for split, value in values.items()})

    halves = [sampled("valid", valid=62.5), sampled("test", test=61.5)]
    trained = a_result("ptb-overnight", "main.py", 1, 64.0, 62.0, epochs=[{"seconds": 3600}])
    write(tmp_path, [trained, halves[0]])
    assert "50 samples" not in table.first_page(table.read(tmp_path))
    write(tmp_path, [trained, *halves])
    assert "| averaged over 50 samples | | 62.50 / 61.50 (1) |" in table.first_page(table.read(tmp_path))
    write(tmp_path, [trained, *halves, sampled("both", "2026-01-02", valid=60.0)])
    assert "50 samples" not in table.first_page(table.read(tmp_path))      # nothing of older results is mixed in


def test_the_tables_of_ablations_at_small_size(tmp_path):
    def trained(recipe, valid, test, seconds):
        return a_result(recipe, "main.py", 1, valid, test, parameters=1_668_196, epochs=[{"seconds": seconds}])

    write(tmp_path, [
        a_result("ptb-small", "finetune.py", 1, 110.0, 105.0), a_result("ptb-small", "finetune.py", 2, 112.0, 107.0),
        trained("ptb-small", 113.0, 108.5, 9),
        a_result("ptb-small-without-weight-drop", "finetune.py", 1, 109.0, 104.0),
        a_result("ptb-small-without-regularisation", "finetune.py", 1, 150.0, 140.0),
        trained("ptb-small-gru", 115.0, 109.0, 7), a_result("ptb-small-gru", "finetune.py", 1, 114.0, 108.0),
        trained("ptb-small-qrnn", 116.0, 110.0, 5)])              # not finished
    text = table.tables(table.read(tmp_path))
    assert text[text.index("| without | validation / test |"):].splitlines()[2:] == [
        "| nothing (the whole, fine-tuned) | 111.00 ± 1.41 / 106.00 ± 1.41 (2) | | |",
        "| fine-tuning | 113.00 / 108.50 (1) | +2.50 | +1.5 |",
        "| weight-dropping | 109.00 / 104.00 (1) | -2.00 | +11.6 |",
        "| dropout of any kind, AR, TAR and weight decay | 150.00 / 140.00 (1) | +34.00 | |", "",
        "The whole with other cells (seconds: the fastest epoch of training, on one thread):", "",
        "| | parameters | seconds | trained | fine-tuned |", "|---|---|---|---|---|",
        "| LSTM | 1.67M | 9.0 | 113.00 / 108.50 (1) | 111.00 ± 1.41 / 106.00 ± 1.41 (2) |",
        "| GRU of the same width | 1.67M | 7.0 | 115.00 / 109.00 (1) | 114.00 / 108.00 (1) |"]


def test_readme_and_docs_show_the_tables_as_they_are():
    results = table.read()
    for page, made in (table.README, table.first_page(results)), (table.DOCS, table.tables(results)):
        text = page.read_text(encoding="utf-8")
        assert table.with_tables(text, made) == text


def test_pictures(toy, call, tmp_path):
    pytest.importorskip("matplotlib")
    call("main.py", "--data", toy, *SMALL, "--epochs", 2, "--save", "a.pt")
    plot = "results/plot.py"
    run_script(plot, "a.jsonl", "a.result.json", cwd=tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "b.jsonl").write_text("nonsense\n")
    (tmp_path / "empty").mkdir()
    for words in (["b.jsonl"], ["none.jsonl"], ["empty"], ["--every", "1"], ["--every", "0", "a.jsonl"],
                  ["--every", "inf", "a.jsonl"], ["--out", "a.pdf", "a.jsonl"], ["--out", "none/a.png", "a.jsonl"]):
        said = run_script(plot, *words, cwd=tmp_path, status=1).stderr
        assert said.count("\n") == 1 and ("--every" if "--every" in words else words[-1].split(".")[0]) in said
    old = (tmp_path / "curves.png").read_bytes()
    (tmp_path / "curves.png").unlink()
    run_script(plot, ".", cwd=tmp_path)                              # what is no run is left out of a folder's
    assert len((tmp_path / "curves.png").read_bytes()) == pytest.approx(len(old), rel=0.3)


def test_a_live_picture_of_a_folder(toy, call, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "runs").mkdir()
    words = [sys.executable, "-m", "results.plot", "--every", "0.2", "--out", tmp_path / "live.png", tmp_path / "runs"]
    with subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as live:
        assert "live.png" in live.stdout.readline()                  # drawn before there is a run
        empty = (tmp_path / "live.png").stat().st_size
        call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--save", "runs/a.pt")
        with open(tmp_path / "runs" / "a.jsonl", "a", encoding="utf-8") as log:
            log.write('{"epoch": 2, "tra')                           # a line that is being written
        while (tmp_path / "live.png").stat().st_size <= empty:
            assert live.poll() is None, live.stderr.read()
            time.sleep(0.1)
        live.send_signal(signal.SIGINT)
        assert live.wait(30) == 0, live.stderr.read()
    assert (tmp_path / "live.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_says_what_to_install(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError\n")
    (tmp_path / "a.jsonl").write_text("")
    done = run_script("results/plot.py", "a.jsonl", cwd=tmp_path, status=1,
                      env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "pip install matplotlib" in done.stderr and done.stderr.count("\n") == 1


def test_recipes_name_scripts_that_are_there():
    for path in (ROOT / "recipes").glob("*.sh"):
        assert os.access(path, os.X_OK) == (path.name != "common.sh") and Path(path).read_text().startswith("#")


@pytest.mark.parametrize(("name", "first", "rates"), [
    ("variational_large.sh", 10, [1, 1, 0.8696, 0.7561]), ("variational_medium.sh", 6, [1, 1, 0.8333, 0.6944])])
def test_rates_of_the_variational_lstm(name, first, rates, toy, tmp_path):
    """Gal and Ghahramani's: that of the large one first falls in epoch 12, that of the medium one in epoch 8."""
    words = re.search(r"--decay [\d.]+ --decay-from \d+", (ROOT / "recipes" / name).read_text())[0].split()
    run_script("main.py", "--data", toy, *SMALL, *words, "--lr", 1, "--epochs", first + 3, "--on-stall", "nothing",
               "--save", "m.pt", cwd=tmp_path)
    epochs = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [epoch["lr"] for epoch in epochs[first - 1:]] == pytest.approx(rates, abs=1e-4)


@pytest.mark.parametrize("recipe", ["variational_medium", "variational_large"])
def test_trying_a_variational_recipe_out_takes_two_samples(recipe):
    line, = re.findall(r"mc-samples \"(.*?\)})\"", (ROOT / "recipes" / f"{recipe}.sh").read_text())
    for smoke, expected in ("1", "2"), ("", "100"):
        done = subprocess.run(["bash", "-c", f"echo {line}"], env={"SMOKE": smoke}, capture_output=True, text=True,
                              check=True)
        assert done.stdout.strip() == expected


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
