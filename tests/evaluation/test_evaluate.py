"""Judging texts: against plain evaluation, naive float64 and what the files say."""
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL, run_script

import checkpoint
import evaluate as evaluate_script
from evaluation import formats, scoring, tables, text_files
from evaluation import page as surprisal_page
from evaluation import text as scored_text
from evaluation.loss import evaluate, windows
from model import RNNModel
from runtime import record
from runtime.paths import atomic_write

CELLS = pytest.mark.parametrize("cell", ["LSTM", "GRU", "QRNN"])
SPLITS = pytest.mark.parametrize("splits", [[], [12, 25]], ids=["full", "adaptive"])


def make(cell="LSTM", splits=(), **dropouts):
    torch.manual_seed(3)
    model = RNNModel(cell, 40, 10, 14, 2, **dropouts, cutoffs=list(splits))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return model.double(), torch.randint(40, (90, 1))


@CELLS
@SPLITS
def test_log_probabilities_add_up_to_the_loss_and_ranks_are_right(cell, splits, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 40 * 7)      # several chunks to a window
    model, column = make(cell, splits)
    loss = evaluate(model, column, 20)
    logprobs, ranks, _ = scoring.score(model, [column], 20, ranks=True)
    assert -logprobs.mean().item() == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(scoring.score(model, [column], 33)[0], logprobs, rtol=1e-12)
    hidden = model.eval().init_hidden(1)
    for t in range(89):
        with torch.no_grad():
            features, hidden = model(column[t:t + 1], hidden)
            every = model.logprob(features)[0]
        assert logprobs[t] == pytest.approx(every[column[t + 1, 0]].item(), rel=1e-9)
        assert ranks[t] == 1 + every.argsort(descending=True).tolist().index(column[t + 1, 0].item())


@SPLITS
def test_temperature_against_a_naive_softmax(splits):
    model, column = make(splits=splits)
    logprobs = scoring.score(model, [column], 20, 1.7)[0]
    features = torch.cat([f for f, _, _ in windows(model.eval(), column, 20)])
    scores = (model.logprob(features) / 1.7).exp()
    expected = (scores / scores.sum(1, keepdim=True)).gather(1, column[1:]).log()[:, 0]
    torch.testing.assert_close(logprobs, expected.detach())
    losses = scoring.temperature_losses(model, [column], 20, [1.0, 1.7])
    assert losses == pytest.approx([-scoring.score(model, [column], 20)[0].mean().item(),
                                    -expected.mean().item()])


def test_lines_on_their_own():
    model, _ = make()
    lines = [[5, 6, 7, 0], [0], [9, 3, 0], [4]]
    column = torch.tensor([0, *(i for line in lines for i in line)])[:, None]
    ends = [i == 0 for i in column[:, 0].tolist()]
    columns = scored_text.contexts(column, ends, "reset")
    assert [part[:, 0].tolist() for part in columns] == [[0, *line] for line in lines]
    found, ranks, _ = scoring.score(model, columns, 20, ranks=True)
    alone = [scoring.score(model, [torch.tensor([0, *line])[:, None]], 20)[0] for line in lines]
    torch.testing.assert_close(found, torch.cat(alone))
    assert len(ranks) == 9
    losses = scoring.temperature_losses(model, columns, 20, [1.0])
    assert losses == pytest.approx([-found.mean().item()], rel=1e-12)
    assert scored_text.contexts(column, ends, "carry") == [column]


@CELLS
def test_samples_without_dropout_are_plain_and_with_it_their_mean(cell, monkeypatch):
    monkeypatch.setattr(scoring, "TOGETHER", 1)
    quiet = dict.fromkeys(("dropout", "dropouth", "dropouti", "dropoute"), 0)
    model, column = make(cell, **quiet)
    plain = scoring.score(model, [column], 20)[0]
    torch.testing.assert_close(scoring.sample_score(model, [column], 20, 3), plain)

    model, column = make(cell, dropout=0.3, dropouth=0.2, dropouti=0.3, dropoute=0.2, wdrop=0.4)
    torch.manual_seed(8)
    found = scoring.sample_score(model, [column], 20, 3)
    assert model.training
    torch.manual_seed(8)
    passes = torch.stack([scoring.sample_score(model, [column], 20, 1) for _ in range(3)])
    torch.testing.assert_close(found, passes.exp().mean(0).log())
    torch.manual_seed(8)
    flatter = scoring.sample_score(model, [column], 20, 1, temperature=1.7)
    torch.manual_seed(8)
    with scoring.sampling(model):
        features = torch.cat([f for f, _, _ in windows(model, column, 20)])
        scores = (model.logprob(features) / 1.7).exp()
    torch.testing.assert_close(flatter, (scores / scores.sum(1, keepdim=True)).gather(1, column[1:]).log()[:, 0])
    assert (passes.std(0) > 0).all() and not torch.allclose(found, plain)


def test_how_many_characters():
    assert scored_text.characters(text_of(["ab", "c", "<eos>", "<eos>", "d", "<eos>"])) == len("ab c\n\nd\n")


def text_of(words):
    """A Text of words of which each <eos> ends a line, and those with a ? are unknown."""
    return scored_text.Text("text", words, [w == "<eos>" for w in words], ["?" in w for w in words], [])


# ---- the script

def lines_of(text):
    return [line.split("\t") for line in text.splitlines()]


def figure(text, what):
    return float(re.findall(rf"{what} loss +([\d.]+)", text)[0])


def test_a_split_and_its_files(trained, toy, call, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)
    said = call("evaluate.py", "--save", "toy.pt", "--device", "cpu")
    result = json.loads((tmp_path / "toy.evaluation.result.json").read_text())
    known = torch.load(trained / "toy.pt", weights_only=True)["losses"]["valid"]
    assert result["valid"]["loss"] == pytest.approx(known, rel=2e-2)       # there in ten columns
    assert figure(said, "test") == pytest.approx(result["test"]["loss"], abs=0.006)
    call("evaluate.py", "--save", "toy.pt", "--split", "test", "--per-token", "t.tsv", "--per-sentence", "s.tsv",
         "--device", "cpu")
    names, *rows = lines_of((tmp_path / "t.tsv").read_text())
    assert names == ["position", "sentence", "word", "logprob", "rank", "unknown"]
    words = (toy / "test.txt").read_text().replace("\n", " <eos> ").split()
    assert [row[2] for row in rows] == words[1:] and int(rows[-1][1]) == words.count("<eos>")
    assert -math.fsum(float(row[3]) for row in rows) / len(rows) == pytest.approx(result["test"]["loss"], rel=1e-6)
    _, *sentences = lines_of((tmp_path / "s.tsv").read_text())
    assert math.fsum(float(row[2]) for row in sentences) == pytest.approx(math.fsum(float(row[3]) for row in rows))
    assert [int(row[0]) for row in sentences] == list(range(1, len(sentences) + 1))
    assert sum(int(row[1]) for row in sentences) == len(rows)
    assert sentences[1][4].split() == words[words.index("<eos>") + 1:][:int(sentences[1][1]) - 1]    # without its <eos>


def test_a_text_from_standard_input(trained, toy, tmp_path):
    common = ["--save", trained / "toy.pt", "--device", "cpu", "--text", "-", "--format", "json"]
    text = "w1 w8 w25\n\nw3 never w8 sen\n"
    done = run_script("evaluate.py", *common, "--unknown", "error", cwd=tmp_path, status=1, input=text)
    assert "2 of the words: 'never', 'sen'" in done.stderr and done.stderr.count("\n") == 1
    text = text.replace("never ", "").replace(" sen", "")
    done = run_script("evaluate.py", *common, "--per-token", "-", cwd=tmp_path, input=text)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["word"] for row in rows] == text.replace("\n", " <eos> ").split()
    assert [row["sentence"] for row in rows] == [1, 1, 1, 1, 2, 3, 3, 3] and "| text loss" in done.stderr
    reset = run_script("evaluate.py", *common, "--per-token", "-", "--context", "reset", cwd=tmp_path, input=text)
    alone = run_script("evaluate.py", *common, "--per-token", "-", cwd=tmp_path, input="w3 w8\n")
    assert [json.loads(line)["logprob"] for line in reset.stdout.splitlines()[5:]] == pytest.approx(
        [json.loads(line)["logprob"] for line in alone.stdout.splitlines()], rel=1e-6)
    assert [json.loads(line)["logprob"] for line in reset.stdout.splitlines()[5:]] != [r["logprob"] for r in rows[5:]]


def test_a_split_read_line_by_line_is_the_same_text(trained, toy, call, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)       # the result is written beside it
    common = ["--save", "toy.pt", "--device", "cpu", "--context", "reset", "--format", "json", "--per-token"]
    call("evaluate.py", *common, "split", "--split", "test")
    call("evaluate.py", *common, "text", "--text", toy / "test.txt")
    assert (tmp_path / "split").read_text() == (tmp_path / "text").read_text()


def test_a_text_is_read_as_a_corpus_is(trained, tmp_path):
    common = ["--save", trained / "toy.pt", "--device", "cpu", "--unknown", "error", "--text", "-", "--per-token", "-"]
    files = []
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "text").write_bytes(start + b"w1 w8\r\nw3")
        with open(tmp_path / "text", "rb") as text:
            files.append(run_script("evaluate.py", *common, cwd=tmp_path, stdin=text).stdout)
    assert files[0] == files[1] and [row[2] for row in lines_of(files[0])[1:]] == ["w1", "w8", "<eos>", "w3", "<eos>"]


def test_links_and_pipes_are_written_to_and_neighbours_left_alone(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "link.try").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    for name in ("link", "pipe"):
        text_files.check_outputs([str(tmp_path / name)], [])
        tables.write_rows(str(tmp_path / name), [{"a": 1}], "tsv")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "a\n1\n"
    assert reader.communicate(timeout=20)[0] == "a\n1\n" and (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link.try").read_text() == "mine" and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("script", "words"), [
    ("evaluate.py", ["--minimal-pairs", "p.tsv", "--per-pair", "p.tsv"]),
    ("evaluate.py", ["--minimal-pairs", "folder", "--per-pair", "folder/p.tsv"]),
    ("evaluate.py", ["--nbest", "p.tsv", "--best", "p.tsv"]),
    ("evaluate.py", ["--split", "valid", "--per-token", "toy/valid.txt"]),
    ("dynamiceval.py", ["--split", "valid", "--rule", "sgd", "--html", "toy/train.txt"]),
    ("evaluate.py", ["--split", "test", "--per-token", "toy.evaluation.test.result.json"]),
    ("dynamiceval.py", ["--split", "valid", "--rule", "sgd", "--save-adapted", "toy.dynamic.state.pt"]),
    ("dynamiceval.py", ["--text", "p.tsv", "--rule", "sgd", "--html", "toy.dynamic.p-tsv.result.json"]),
    ("dynamiceval.py", ["--text", "p.tsv", "--rule", "sgd", "--html", "a.state.pt", "--resume", "a.state.pt"]),
    ("ensemble.py", ["toy.pt", "--split", "test", "--per-token", "toy.ensemble.state.pt"]),
    ("generate.py", ["--outf", "toy.pt"])])
def test_no_output_takes_the_place_of_what_is_read(script, words, trained, toy, tmp_path):
    """Or of the script's own result and state. The corpus is that of the model: --data is not typed."""
    shutil.copytree(toy, tmp_path / "toy")
    (tmp_path / "folder").mkdir()
    for name in "p.tsv", "folder/p.tsv":
        (tmp_path / name).write_text("good\tbad\nw1\tw2\n")
    contents = checkpoint.load(trained / "toy.pt")
    contents["settings"]["data"] = "toy"
    checkpoint.save(str(tmp_path / "toy.pt"), contents)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    model = [] if script == "ensemble.py" else ["--checkpoint", "toy.pt"]
    done = run_script(script, *model, "--device", "cpu", *words, cwd=tmp_path, status=1)
    line = done.stderr.replace("| WARNING: one model is no mixture: its own figures come out\n", "")
    assert "is wanted for two things" in line and line.count("\n") == 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_full_disk_is_named(trained, tmp_path):
    done = run_script("evaluate.py", "--checkpoint", trained / "toy.pt", "--device", "cpu", "--split", "test",
                      "--per-token", "/dev/full", cwd=tmp_path, status=1)
    assert "error: /dev/full: No space left" in done.stderr
    with pytest.raises(OSError) as error, atomic_write(str(tmp_path / "file")):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "file")


def test_what_is_not_utf8_in_a_command_line_ends_nothing(trained, tmp_path):
    """The name of an output, in a log of strict UTF-8; and words, such as of a prompt, go as they came to a file."""
    done = subprocess.run([sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", trained / "toy.pt", "--device",
                           "cpu", "--split", "test", "--per-token", b"caf\xe9"], cwd=tmp_path, capture_output=True,
                          check=False, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 0 and b"per_token caf\\udce9" in done.stdout, done.stderr
    with text_files.writing(str(tmp_path / "text")) as file:
        file.write(os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "text").read_bytes() == b"caf\xe9" and b"caf\xe9" in os.listdir(os.fsencode(tmp_path))


def test_samples_without_end_are_stopped_after_a_window():
    def check():
        raise InterruptedError
    model, column = make()
    with pytest.raises(InterruptedError):
        scoring.sample_score(model, [column], 20, 2**40, check=check)


def test_json_knows_no_infinity(tmp_path):
    rows = formats.sentence_rows(text_of(["a", "<eos>"]), [-900.0, -900.0])
    tables.write_rows(str(tmp_path / "rows"), rows, "json")
    row = json.loads((tmp_path / "rows").read_text(), parse_constant=pytest.fail)
    assert row["perplexity"] is None and row["logprob"] == -1800


def test_unknown_words_are_read_as_unk_where_the_model_has_it(call, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a <unk> b c\nb c a\n" * 60)
    call("main.py", "--data", tmp_path, *SMALL, "--epochs", 1, "--save", "a.pt")
    (tmp_path / "text").write_text("a zebra b\n")
    call("evaluate.py", "--save", "a.pt", "--text", "text", "--per-token", "one.tsv", "--device", "cpu")
    (tmp_path / "text").write_text("a <unk> b\n")
    call("evaluate.py", "--save", "a.pt", "--text", "text", "--per-token", "two.tsv", "--device", "cpu")
    one, two = ((tmp_path / name).read_text() for name in ("one.tsv", "two.tsv"))
    one, two = lines_of(one), lines_of(two)
    assert [row[:-1] for row in one] == [[word.replace("<unk>", "zebra") for word in row[:-1]] for row in two]
    assert [row[-1] for row in one] == ["unknown", "0", "1", "0", "0"]
    assert [row[-1] for row in two] == ["unknown", "0", "0", "0", "0"]


def test_temperature_one_changes_nothing_and_the_best_is_found(trained, call, tmp_path):
    shutil.copy(trained / "toy.pt", tmp_path)
    common = ["--save", "toy.pt", "--split", "valid", "--device", "cpu", "--per-token"]
    call("evaluate.py", *common, "a.tsv")
    call("evaluate.py", *common, "b.tsv", "--temperature", 1)
    assert (tmp_path / "a.tsv").read_text() == (tmp_path / "b.tsv").read_text()
    said = call("evaluate.py", *common, "c.tsv", "--search-temperature")
    losses = dict(re.findall(r"temperature ([\d.]+) \| valid loss +([\d.]+)", said))
    chosen = re.search(r"chosen: --temperature ([\d.]+)", said)[1]
    assert float(losses[f"{float(chosen):.2f}"]) == min(map(float, losses.values())) and len(losses) == 15
    sampled = call("evaluate.py", "--save", "toy.pt", "--split", "valid", "--device", "cpu", "--mc-samples", 2)
    assert "mean of 2 samples" in sampled


@pytest.mark.parametrize(("words", "says"), [
    (["--text", "none.txt"], "none.txt"), (["--text", "empty.txt"], "empty"), (["--text", "latin.txt"], "UTF-8"),
    (["--split", "test", "--html", "no/such/page.html"], "no/such"), (["--html", "a.html"], "--split"),
    (["--split", "test", "--per-token", "."], "is a folder"), (["--temperature", "0"], "temperature"),
    (["--temperature", "1e-39"], "temperature"), (["--text", "nul.txt"], "NUL"),
    (["--text", "empty.txt", "--per-token", "empty.txt"], "two things"),
    (["--split", "test", "--per-token", "-", "--per-sentence", "-"], "two things")])
def test_bad_input(words, says, trained, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "nul.txt").write_bytes(b"a\0b\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    done = run_script("evaluate.py", "--save", trained / "toy.pt", *words, cwd=tmp_path,
                      status=2 if "temperature" in words[0] else 1)
    assert says in done.stderr and not done.stdout and done.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.suffix == ".html"]


# ---- the page

@pytest.fixture
def page(trained, toy, call, tmp_path):
    call("evaluate.py", "--save", trained / "toy.pt", "--split", "test", "--html", "page.html", "--device", "cpu")
    return tmp_path / "page.html"


def test_the_page_holds_every_word_with_its_numbers(page, toy):
    text = page.read_text()
    shown = re.findall(r'data-n="([^"]*)">([^<]*)<', text)
    words = (toy / "test.txt").read_text().replace("\n", " <eos> ").split()[1:]
    assert [html.unescape(word) for _, word in shown] == words
    assert all(re.fullmatch(rf"{re.escape(word)}: [\d.]+ bits, probability [\d.e-]+, rank \d+", html.unescape(numbers))
               for (numbers, _), word in zip(shown, words))
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)


def test_the_page_escapes_and_is_bounded(monkeypatch):
    monkeypatch.setattr(surprisal_page, "MOST", 3)
    text = surprisal_page.page(text_of(["<b>", '"&', "x?", "y"]), [-1.0] * 4, [1, 2, 3, 4], "<script>")
    assert "<script>" not in text and "&lt;b&gt;" in text and "&quot;&amp;" in text and ">y<" not in text
    assert "first 3" in text and text.count("unknown: scored as") == 1 and "1 of them" in text


def test_the_colours_are_readable():
    """WCAG 2.1: the contrast of text with what is behind it is at least 4.5."""
    def luminance(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts))

    for ink, shades in (("#16181d", surprisal_page.LIGHT), ("#f2f3f5", surprisal_page.DARK)):
        assert len(shades) == len(surprisal_page.STEPS) + 1
        for shade in shades:
            low, high = sorted((luminance(ink), luminance(shade)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, shade


def test_the_page_in_a_browser(page, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if not browser:
        pytest.skip("no Chromium here")
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                           f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()], capture_output=True, text=True,
                          timeout=90, check=True)
    assert done.stdout.count("data-n=") == page.read_text().count("data-n=") and "surprisal in bits" in done.stdout


def test_a_word_under_the_pointer_hides_the_numbers_of_the_one_in_focus(page):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    driver = pytest.importorskip("playwright.sync_api")
    if not browser:
        pytest.skip("no Chromium here")
    with driver.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (360, 1280):
            view = chromium.new_page(viewport={"width": width, "height": 700})
            requests = []
            view.on("request", lambda request, seen=requests: seen.append(request.url))
            view.goto(page.as_uri())
            words = view.locator("li b")
            words.nth(3).focus()
            assert shown(view) == [3]
            words.nth(9).hover()
            assert shown(view) == [9]
            assert view.evaluate("document.documentElement.scrollWidth") == width and requests == [page.as_uri()]
        chromium.close()


def shown(view):
    """Which words show their numbers."""
    return view.evaluate("""[...document.querySelectorAll("li b")].flatMap(
        (word, i) => getComputedStyle(word, "::after").content.includes("bits") ? [i] : [])""")


# ---- what a text holds

def test_unknown_words_are_flagged_and_counted_loudly(trained, call, tmp_path, capsys):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a <unk> b c\nb c a\n" * 60)
    call("main.py", "--data", tmp_path, *SMALL, "--epochs", 1, "--save", "a.pt")
    (tmp_path / "text").write_text("a zebra b\nokapi c\n")
    call("evaluate.py", "--save", "a.pt", "--text", "text", "--per-sentence", "s.json", "--format", "json", "--html",
         "a.html")
    capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "s.json").read_text().splitlines()]
    assert [row["unknown"] for row in rows] == [1, 1]
    assert (tmp_path / "a.html").read_text().count('class="s') and "2 of them" in (tmp_path / "a.html").read_text()
    said = run_script("evaluate.py", "--save", "a.pt", "--text", "text", cwd=tmp_path).stderr
    assert "WARNING: 2 of 7 tokens (28.6%) are unknown" in said
    assert "are <unk>" in run_script("evaluate.py", "--save", "a.pt", "--split", "test", cwd=tmp_path).stderr


def test_an_eos_inside_a_line_ends_none(trained, call, tmp_path):
    (tmp_path / "text").write_text("w1 <eos> w2\nw3\n")
    call("evaluate.py", "--save", trained / "toy.pt", "--text", "text", "--per-token", "t.tsv", "--per-sentence",
         "s.tsv")
    assert [row[1] for row in lines_of((tmp_path / "t.tsv").read_text())[1:]] == ["1", "1", "1", "1", "2", "2"]
    assert [row[4] for row in lines_of((tmp_path / "s.tsv").read_text())[1:]] == ["w1 <eos> w2", "w3"]


def test_a_column_of_a_table(trained, call, tmp_path):
    """The others stay beside what was found."""
    (tmp_path / "table.tsv").write_text("item\tsentence\tsentence_given\n7\tw1 w2\ta\n8\tw3\tb\n")
    common = ["--save", trained / "toy.pt", "--text", "table.tsv", "--context", "reset"]
    call("evaluate.py", *common, "--column", "sentence", "--per-sentence", "s.tsv", "--per-token", "t.tsv")
    heading, *rows = lines_of((tmp_path / "s.tsv").read_text())
    assert heading[-3:] == ["item", "sentence_given", "sentence_given_given"]
    assert [row[-3:] for row in rows] == [["7", "w1 w2", "a"], ["8", "w3", "b"]]
    assert [row[-1] for row in lines_of((tmp_path / "t.tsv").read_text())[1:]] == ["a", "a", "a", "b", "b"]
    error = run_script("evaluate.py", *common, "--column", "nothing", cwd=tmp_path, status=1).stderr
    assert "no column 'nothing'" in error
    assert "--text" in run_script("evaluate.py", "--save", trained / "toy.pt", "--column", "a", cwd=tmp_path,
                                  status=1).stderr


def test_the_text_of_a_line_can_be_joined_with_what_was_read(trained, tmp_path):
    """Words, and nothing for an empty line: as it stands in the file."""
    lines = ["w1 w8", "", "w3 <eos> w22"]
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    out = run_script("evaluate.py", "--checkpoint", trained / "toy.pt", "--text", "text", "--context", "reset",
                     "--per-sentence", "-", "--device", "cpu", cwd=tmp_path).stdout
    heading, *rows = lines_of(out)
    assert [row[heading.index("text")] for row in rows] == lines


def test_a_page_for_scripts_that_run_from_right_to_left():
    written = surprisal_page.page(text_of(["שלום", "עולם", "<eos>", "a", "<eos>"]), [-1.0] * 5, None, "title")
    assert written.count('lang="" dir="auto"') == 2


def test_a_perplexity_per_word_that_says_nothing_is_left_out():
    figures = record.figures(10.0, 101, {"tokens": 100, "words": 50, "bytes": 600})
    assert "per word" not in record.per_unit(figures) and "bits per byte" in record.per_unit(figures)
    assert "per word" in record.per_unit(record.figures(2.0, 101, {"tokens": 100, "words": 50, "bytes": 600}))


def test_lines_without_ends_of_their_own(capsys):
    lines = ["w1 <eos>", "w1<eos>", "<eos>", "w1 <eos> w2", "", "w3 <eos> <eos> \t", "a\t<eos>"]
    whole = [line.split() for line in scored_text.without_own_ends(lines, "items")]
    assert whole == [["w1"], ["w1<eos>"], [], ["w1", "<eos>", "w2"], [], ["w3", "<eos>"], ["a"]]
    assert "items: 4 of 7 lines end in <eos> by themselves" in capsys.readouterr().err
    assert scored_text.without_own_ends(lines[3:5], "items") == lines[3:5] and not capsys.readouterr().err


def test_factor_and_temperature_of_samples_are_chosen_together(trained, call, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_script, "FACTORS", (0.0, 0.5, 1.0))
    shutil.copy(trained / "toy.pt", tmp_path)
    common = ["--save", "toy.pt", "--device", "cpu", "--mc-samples", 3]
    said = call("evaluate.py", *common, "--search-mc", "--seed", 1)
    tried = re.findall(r"factor (\S+) \| temperature (\S+) is the best \| valid loss +(\S+)", said)
    chosen = re.search(r"chosen: --mc-factor (\S+) --mc-temperature (\S+)", said).groups()
    assert len(tried) == 3 and min(tried, key=lambda row: float(row[2]))[:2] == tuple(f"{float(x):.2f}" for x in chosen)
    result = json.loads((tmp_path / "toy.evaluation.mc-3.search-mc.result.json").read_text())
    assert (result["settings"]["mc_factor"], result["settings"]["mc_temperature"]) == tuple(map(float, chosen))
    zero = call("evaluate.py", *common, "--mc-factor", 0)
    losses = re.findall(r"(valid|test) loss +(\S+) .* tokens", zero)
    assert len(losses) == 4 and losses[0] == losses[1] and losses[2] == losses[3]
    call("evaluate.py", *common, "--mc-mask", "text")


@pytest.mark.parametrize(("words", "said"), [
    (["--mc-factor", 0.5], "--mc-factor does nothing without --mc-samples"), (["--search-mc"], "--mc-samples"),
    (["--mc-samples", 2, "--search-mc", "--mc-factor", 0.5], "leave them out"),
    (["--mc-samples", 2, "--mc-factor", 1.5], "'1.5' is not a number in [0, 1]"),
    (["--split", "test", "--split-words", "ptb"], "--split-words does nothing without --text"),
    (["--unknown", "error"], "--unknown does nothing without --text")])
def test_flags_that_contradict_or_do_nothing(words, said, trained, tmp_path):
    done = run_script("evaluate.py", "--checkpoint", trained / "toy.pt", *words, cwd=tmp_path,
                      status=2 if "1.5" in said else 1)
    assert said in done.stderr and done.stderr.count("\n") == 1
