"""prepare.py: raw text in, a corpus out, and with it every script from training to sampling."""
import json
import math
import os
import random
import re
import shutil

import pytest
import torch
from conftest import SMALL

import prepare
from corpus import own_text
from corpus.vocabulary import TOKENIZERS
from runtime.errors import InputError

KINDS = {"words": [], "chars": [], "bpe": ["--vocab-size", 290], "unigram": ["--vocab-size", 290]}
SENTENCES = {
    "cyrillic": ["съешь же ещё этих мягких булок", "да выпей чаю", "в чащах юга жил бы цитрус"],
    "chinese": ["天地玄黃宇宙洪荒", "日月盈昃辰宿列張", "寒來暑往秋收冬藏"],
    "english": ["the cat sat on the mat", "a  dog\tsat on it", "it was a hat"],
}
SPLITS = ("train", "valid", "test")


def some_text(language, lines=240):
    """Lines of one language, about one of ten of them empty."""
    draw = random.Random(3)
    return ["" if draw.random() < 0.1 else " ".join(draw.choices(SENTENCES[language], k=draw.randrange(1, 4)))
            for _ in range(lines)]


@pytest.fixture(params=KINDS)
def kind(request):
    if TOKENIZERS[request.param].complete:
        pytest.importorskip("tokenizers")
    return request.param


def prepared(folder):
    """What is in a folder: its description, and of each split the lines decoded, and in tokens."""
    found = own_text.read(folder)
    tokenizer = found.vocabulary.tokenizer
    tokens = {split: [line.split() for line in (folder / f"{split}.txt").read_text("utf-8").split("\n")[:-1]]
              for split in SPLITS}
    texts = {split: ["".join(tokenizer.pieces(line)) for line in lines] for split, lines in tokens.items()}
    return found, texts, tokens


def trained_on(folder, call, save="a.pt"):
    call("main.py", "--data", folder, *SMALL, "--epochs", 1, "--save", save)


# ---- what is made

def test_a_file_whose_name_is_not_utf8(call, tmp_path):
    name = os.fsdecode(b"b\xfccher.txt")
    (tmp_path / name).write_text("\n".join(some_text("english")))
    call("prepare.py", "text", name, "--out", "out", "--min-count", 1)
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text("utf-8"))["options"]["files"] == [name]
    assert len(prepared(tmp_path / "out")[0].vocabulary) > 9


def test_behind_two_dashes_are_names_of_files(call, tmp_path):
    for name in "-a", "--b_c", "d":
        (tmp_path / name).write_text("\n".join(some_text("english")))
    said = call("prepare.py", "text", "d", "--out=out", "--", "-a", "--b_c")
    assert "summary | 3 files, 720 lines" in said
    with pytest.raises(SystemExit):
        call("generate.py", "--words", 3, "--", "-a")


@pytest.mark.parametrize("language", SENTENCES)
def test_a_text_with_crlf_bom_and_empty_lines(language, kind, call, tmp_path):
    text = some_text(language)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(text).encode())
    said = call("prepare.py", "text", "a.txt", "--out", "out", "--tokenizer", kind, *KINDS[kind])
    found, lines, tokens = prepared(tmp_path / "out")
    whole = [line for split in SPLITS for line in lines[split]]
    if kind != "words":
        assert sorted(whole) == sorted(text)
    assert len(whole) == len(text) and [len(lines[split]) for split in SPLITS] == [216, 12, 12]
    raw = "".join(f"{line}\n" for line in text)
    assert sum(size["bytes"] for size in found.sizes.values()) == len(raw.encode())
    assert sum(size["words"] for size in found.sizes.values()) == len(raw.replace("\n", " <eos> ").split())
    for split in SPLITS:
        if kind != "words":
            assert found.sizes[split]["bytes"] == len("".join(f"{line}\n" for line in lines[split]).encode())
        assert found.sizes[split]["tokens"] == sum(len(line) + 1 for line in tokens[split])
        assert {token for line in tokens[split] for token in line} <= set(found.vocabulary)
    counts = [sum(line.count(word) for line in tokens["train"]) + (word == "<eos>") * len(tokens["train"])
              for word in found.vocabulary]
    assert counts == sorted(counts, reverse=True)
    assert ("<unk>" in found.vocabulary) == (kind in ("words", "chars")) and "<eos>" in found.vocabulary
    assert f"| vocabulary {len(found.vocabulary):,} |" in said.splitlines()[-1]


def test_the_same_again_and_another_seed(call, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(some_text("english")))
    for out, seed in ("one", 1), ("two", 1), ("three", 2):
        call("prepare.py", "text", "a.txt", "--out", out, "--seed", seed)
    def texts(out):
        return [(tmp_path / out / f"{split}.txt").read_text() for split in SPLITS]
    assert texts("one") == texts("two") and texts("one") != texts("three")


def test_rare_words_of_the_training_text_are_unknown(call, tmp_path):
    lines = [f"often often twice{i // 2} once{i}" for i in range(200)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    call("prepare.py", "text", "a.txt", "--out", "out", "--min-count", 2, "--valid", 0.1)
    found, _, tokens = prepared(tmp_path / "out")
    flat = [word for line in tokens["train"] for word in line]
    assert not any(word.startswith("once") for split in SPLITS for line in tokens[split] for word in line)
    assert len(tokens["valid"]) == 20 and all(flat.count(word) >= 2 for word in found.vocabulary if word != "<eos>")
    call("prepare.py", "text", "a.txt", "--out", "out", "--vocab-size", 7)
    found, _, tokens = prepared(tmp_path / "out")
    assert len(found.vocabulary) == 7 and {"<eos>", "<unk>", "often"} <= set(found.vocabulary)
    said = call("prepare.py", "text", "a.txt", "--out", "out", "--min-count", 1)
    assert "WARNING: the training text has no <unk>" in said


def test_documents_and_files(call, tmp_path):
    documents = [f"a{i}\nb{i}\nc{i}\n" for i in range(30)]
    (tmp_path / "a.txt").write_text("\n \n\n".join(documents))
    (tmp_path / "many" / "deep").mkdir(parents=True)
    for i, document in enumerate(documents):
        (tmp_path / "many" / ("deep" if i % 2 else "") / f"{i:02}.txt").write_text(document)
    (tmp_path / "many" / ".hidden").write_bytes(b"\0")
    for by, source in ("documents", "a.txt"), ("files", "many"):
        call("prepare.py", "text", source, "--out", by, "--by", by, "--tokenizer", "chars", "--min-count", 1)
        _, lines, _ = prepared(tmp_path / by)
        found = {split: "\n".join(lines[split]).split("\n\n") for split in SPLITS}
        assert [len(found[split]) for split in SPLITS] == [26, 2, 2]
        assert sorted(f"{d.strip()}\n" for split in SPLITS for d in found[split]) == sorted(documents)


def test_shares_that_are_missed_by_far_are_told(call, tmp_path):
    """Whole files are dealt: of two short ones and a long one, at least one each is held out."""
    for name, lines in ("long", 263), ("short", 79), ("other", 76):
        (tmp_path / f"{name}.txt").write_text("a b c\n" * lines)
    said = call("prepare.py", "text", "long.txt", "short.txt", "other.txt", "--out", "files", "--by", "files")
    warnings = re.findall(r"WARNING: (\w+) has (\d+) of (\d+) lines, ([\d.]+)% where 5.0% were asked for", said)
    assert {name for name, *_ in warnings} == {"valid", "test"}
    assert all(float(share) == pytest.approx(100 * int(lines) / int(total), abs=0.05) and float(share) > 10
               for _, lines, total, share in warnings)
    said = call("prepare.py", "text", "long.txt", "--out", "lines", "--by", "lines")
    assert "were asked for" not in said and re.search(r"summary \| 1 file, 26\d lines", said)


@pytest.mark.parametrize("by", ["lines", "documents"])
def test_duplicates_stand_once(by, call, tmp_path):
    lines = [f"line {i % 40}" for i in range(400)]
    (tmp_path / "a.txt").write_text(("\n\n" if by == "documents" else "\n").join(lines))
    call("prepare.py", "text", "a.txt", "a.txt", "--out", "out", "--dedup", "--by", by, "--tokenizer", "chars")
    _, found, _ = prepared(tmp_path / "out")
    found = [line for split in SPLITS for line in found[split] if line]
    assert len(found) == 40 == len(set(found))


def test_special_words_in_the_text(call, tmp_path):
    (tmp_path / "a.txt").write_text("a <eos> b <unk>\n" * 30)
    said = call("prepare.py", "text", "a.txt", "--out", "out")
    assert "WARNING: 60 words of the text are <eos> or <unk>" in said
    assert sum(int(lines) for lines in re.findall(r"(\d+) lines? \| \d+ words", said)) == 30
    call("prepare.py", "text", "a.txt", "--out", "out", "--tokenizer", "chars")
    _, lines, tokens = prepared(tmp_path / "out")
    assert lines["test"][0] == "a <eos> b <unk>" and "<eos>" not in tokens["test"][0]


def test_a_word_that_begins_with_a_bom(call, tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffa\n" * 30, encoding="utf-8-sig")
    call("prepare.py", "text", "a.txt", "--out", "out")
    call("main.py", "--data", "out", *SMALL, "--batch-size", 2, "--eval-batch-size", 1, "--epochs", 1)
    assert torch.load(tmp_path / "model.pt")["vocabulary"] == ["\ufeffa", "<eos>", "<unk>"]


# ---- trained, scored, generated

@pytest.mark.parametrize("language", ["cyrillic", "chinese"])
def test_through_all_scripts(language, kind, call, tmp_path):
    """From raw text to samples; and per word and per byte the figures are the total nats by what was counted."""
    text = some_text(language)
    (tmp_path / "a.txt").write_text("\n".join(text), encoding="utf-8")
    call("prepare.py", "text", "a.txt", "--out", "out", "--tokenizer", kind, *KINDS[kind])
    found, _, _ = prepared(tmp_path / "out")
    trained_on("out", call)
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert saved["vocabulary"] == found.vocabulary and saved["tokenizer"] == found.vocabulary.tokenizer.state()
    result = json.loads((tmp_path / "a.result.json").read_text())
    check_per_unit(result["test"], **found.sizes["test"])

    raw = "".join(f"{line}\n" for line in [*text[:9], "abc", ""])
    (tmp_path / "b.txt").write_text(raw, encoding="utf-8")
    said = call("evaluate.py", "--save", "a.pt", "--text", "b.txt", "--per-token", "t.json", "--format", "json",
                "--per-sentence", "s.json", "--device", "cpu")
    rows = [json.loads(line) for line in (tmp_path / "t.json").read_text("utf-8").splitlines()]
    figures = json.loads((tmp_path / "a.evaluation.b-txt.result.json").read_text())["text"]
    nats = -math.fsum(row["logprob"] for row in rows)
    size = len(raw.encode()), len(raw.replace("\n", " <eos> ").split())
    assert (figures["bytes"], figures["words"]) == size
    assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / size[0], rel=1e-6)
    assert figures["word_perplexity"] == pytest.approx(math.exp(nats / size[1]), rel=1e-6)
    assert f"{figures['bits_per_byte']:.3f} bits per byte" in said
    assert [row["word"] for row in rows] == found.vocabulary.tokenizer.encode(raw)
    assert any(row["unknown"] for row in rows) == (kind in ("words", "chars"))
    sentences = [json.loads(line) for line in (tmp_path / "s.json").read_text("utf-8").splitlines()]
    assert [sentence["text"] for sentence in sentences] == raw.split("\n")[:-1]

    call("evaluate.py", "--save", "a.pt", "--split", "test", "--device", "cpu")
    again = json.loads((tmp_path / "a.evaluation.test.result.json").read_text())["test"]
    assert again["bits_per_byte"] == pytest.approx(result["test"]["bits_per_byte"], rel=1e-5)
    start = SENTENCES[language][0]
    call("generate.py", "--save", "a.pt", "--words", 30, "--prompt", start, "--outf", "g.txt", "--device", "cpu")
    assert (tmp_path / "g.txt").read_text("utf-8").startswith(start)


def check_per_unit(figures, tokens, words, bytes):
    nats = figures["loss"] * tokens
    assert figures["perplexity"] == pytest.approx(math.exp(nats / tokens))
    assert figures["word_perplexity"] == pytest.approx(math.exp(nats / words))
    assert figures["byte_perplexity"] == pytest.approx(math.exp(nats / bytes))
    assert figures["bits_per_byte"] == pytest.approx(math.log2(math.exp(nats / bytes)))
    assert (figures["words"], figures["bytes"]) == (words, bytes)


def test_fine_tuned_continued_and_evaluated_in_other_ways(call, tmp_path):
    """The tokenizer stays with the model, also where the folder's description has gone."""
    (tmp_path / "a.txt").write_text("\n".join(some_text("english")))
    call("prepare.py", "text", "a.txt", "--out", "out", "--tokenizer", "chars", "--lower")
    trained_on("out", call)
    call("main.py", "--resume", "auto", "--epochs", 2, "--save", "a.pt", "--device", "cpu")
    size = own_text.read(tmp_path / "out").sizes["test"]
    for script, flags in ("pointer.py", ["--window", 50]), ("dynamiceval.py", []):
        call(script, "--save", "a.pt", "--device", "cpu", *flags)
        name = f"a.{'dynamic' if script == 'dynamiceval.py' else 'pointer'}.result.json"
        check_per_unit(json.loads((tmp_path / name).read_text())["test"], **size)
    os.unlink(tmp_path / "out" / "tokenizer.json")
    said = call("finetune.py", "--save", "a.pt", "--epochs", 1, "--device", "cpu")
    assert "bits per byte" not in said
    for name in ("a.pt", "a.state.pt", "a.finetuned.pt"):
        saved = torch.load(tmp_path / name, weights_only=True)
        assert saved["tokenizer"] == {"kind": "chars", "lower": True}, name


def test_a_text_that_has_changed_since_is_not_measured_by_its_old_size(call, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(some_text("english")))
    call("prepare.py", "text", "a.txt", "--out", "out", "--tokenizer", "chars")
    with open(tmp_path / "out" / "test.txt", "a") as file:
        file.write("a\n")
    trained_on("out", call)
    result = json.loads((tmp_path / "a.result.json").read_text())
    assert "bytes" in result["valid"] and "bytes" not in result["test"]


@pytest.mark.parametrize(("kind", "size"), [("words", []), pytest.param("bpe", ["--vocab-size", 500],
                                                                        marks=pytest.mark.slow)])
def test_a_line_of_ten_megabytes(kind, size, call, tmp_path):
    """One line of two and a half thousand words, most of them long."""
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    words = ["ж" * 2500, "long" * 2000, "short"]
    draw = random.Random(3)
    line = " ".join(draw.choices(words, k=2500))
    assert len(line.encode()) > 10e6
    (tmp_path / "a.txt").write_text("\n".join([line, *words * 5]), encoding="utf-8")
    call("prepare.py", "text", "a.txt", "--out", "out", "--tokenizer", kind, *size, "--seed", 5)
    found, _, tokens = prepared(tmp_path / "out")
    assert max(map(len, tokens["train"])) >= 2500  # the long line is trained on
    assert sum(size["bytes"] for size in found.sizes.values()) == len((tmp_path / "a.txt").read_bytes()) + 1
    call("main.py", "--data", "out", *SMALL, "--emsize", 8, "--nhid", 8, "--bptt", 100, "--batch-size", 50,
         "--eval-batch-size", 1, "--epochs", 1, "--save", "a.pt")
    call("evaluate.py", "--save", "a.pt", "--text", "a.txt", "--device", "cpu", "--bptt", 1000)
    figures = json.loads((tmp_path / "a.evaluation.a-txt.result.json").read_text())["text"]
    assert figures["bytes"] == len((tmp_path / "a.txt").read_bytes()) + 1
    call("generate.py", "--save", "a.pt", "--words", 20, "--device", "cpu")


# ---- what cannot be used

def refused(monkeypatch, folder, *words):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as caught:
        prepare.main([str(word) for word in words])
    assert not [name for name in os.listdir(folder) if name.startswith(".out")]
    return str(caught.value)


@pytest.mark.parametrize(("content", "flags", "message"), [
    (None, [], "a.txt: no such file or folder"),
    (b"", [], "the text is empty"),
    (b"\xef\xbb\xbf", [], "the text is empty"),
    (b"one\ntwo\n", [], "too few for three texts"),
    (b"ok\nab\xffcd\n", [], "a.txt: byte 5 is not UTF-8"),
    (b"ok\nab\0cd\n", [], "a.txt: byte 5 is NUL"),
    (b"a\nb\nc\nd\n", [], "no token of the training text occurs 2 times; lower --min-count"),
    (b"\n\n\n\n", [], "the training text is empty"),
    (b"a\n" * 9, ["--vocab-size", 2], "--vocab-size 2"),
    (b"a\n" * 10, ["--valid", 0.49, "--test", 0.49], "leave none to train on"),
    (b"a\n" * 9, ["--tokenizer", "bpe"], "needs --vocab-size"),
    (b"a\n" * 9, ["--tokenizer", "bpe", "--vocab-size", 256], "at least 257"),
    (b"a\n" * 9, ["--tokenizer", "bpe", "--vocab-size", 300, "--min-count", 2], "--min-count is of words and chars")])
def test_bad_input(content, flags, message, monkeypatch, tmp_path):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    assert message in refused(monkeypatch, tmp_path, "text", "a.txt", "--out", "out", *flags)
    assert not (tmp_path / "out").exists()


def test_what_to_read_and_where_to_must_be_said(monkeypatch, tmp_path):
    for words in ([], ["text"], ["text", "a.txt"], ["a.txt", "--out", "b"]):
        assert "prepare.py text FILE… --out FOLDER" in refused(monkeypatch, tmp_path, *words)


@pytest.mark.parametrize("source", ["out", "out/train.txt", "./out/../out/train.txt"])
def test_what_is_read_is_not_replaced(source, call, monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("a b c\n" * 30)
    call("prepare.py", "text", "a.txt", "--out", "out")
    before = (tmp_path / "out" / "train.txt").read_bytes()
    assert "would be replaced" in refused(monkeypatch, tmp_path, "text", source, "--out", "out", "--lower")
    assert (tmp_path / "out" / "train.txt").read_bytes() == before


def test_without_the_package(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("a\n" * 30)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    assert "pip install tokenizers" in refused(monkeypatch, tmp_path, "text", "a.txt", "--out", "out", "--tokenizer",
                                               "unigram", "--vocab-size", 300)


def test_no_folder_of_others_is_replaced(call, monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("a b\n" * 30)
    (tmp_path / "out").mkdir()
    call("prepare.py", "text", "a.txt", "--out", "out")  # it was empty
    call("prepare.py", "text", "a.txt", "--out", "out", "--tokenizer", "chars")  # and is one of its own
    assert (tmp_path / "out" / "test.txt").read_text().startswith("a ▁ b\n")
    (tmp_path / "out" / "model.pt").write_text("precious")
    assert "out is there" in refused(monkeypatch, tmp_path, "text", "a.txt", "--out", "out")
    assert (tmp_path / "out" / "model.pt").read_text() == "precious"
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("a file")
    assert "out is there" in refused(monkeypatch, tmp_path, "text", "a.txt", "--out", "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text("a b\n" * 30)
    assert "is inside in" in refused(monkeypatch, tmp_path, "text", "in", "--out", "in/out")


@pytest.mark.parametrize("damage", ["", "{}", "[", "null", "[" * 100_000, '{"format": 1}', "\udcff"])
def test_a_damaged_description(damage, call, monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("a b\n" * 60)
    call("prepare.py", "text", "a.txt", "--out", "out")
    (tmp_path / "out" / "tokenizer.json").write_text(damage, errors="surrogateescape")
    with pytest.raises(InputError, match="tokenizer.json.*prepare.py"):
        trained_on("out", call)


@pytest.mark.parametrize("bad", [
    {"vocabulary": ["a", "a", "<eos>"]}, {"vocabulary": ["a"]}, {"vocabulary": 3}, {"tokenizer": "words"},
    {"sizes": {}},
    {"sizes": {split: {"tokens": 0, "words": 1, "bytes": 1} for split in SPLITS}}, {"format": "another"}])
def test_a_description_that_is_not_sound(bad, call, tmp_path):
    (tmp_path / "a.txt").write_text("a b\n" * 60)
    call("prepare.py", "text", "a.txt", "--out", "out")
    path = tmp_path / "out" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **bad}))
    with pytest.raises(InputError, match="damaged"):
        trained_on("out", call)


def test_a_checkpoint_with_a_bad_tokenizer(call, trained, tmp_path):
    contents = torch.load(trained / "toy.pt", weights_only=True)
    for tokenizer in ("bpe", {"kind": "bpe", "lower": False, "merges": []}, {"kind": "words", "lower": 0}):
        torch.save({**contents, "tokenizer": tokenizer}, tmp_path / "bad.pt")
        with pytest.raises(InputError, match=re.escape("bad.pt is damaged: its tokenizer")):
            call("generate.py", "--save", "bad.pt")
