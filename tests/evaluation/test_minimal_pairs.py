"""Minimal pairs: files of each format, written by hand, and accuracies against one's own comparison."""
import json
import math
import random

import pytest
from conftest import run_script

import checkpoint
from awd_lstm import LanguageModel
from evaluation import minimal_pairs, pair_files, syntaxgym
from evaluation.minimal_pairs import Reading, differ_unknown
from evaluation.pair_files import Pair, Span
from runtime.errors import InputError

BLIMP = [{"sentence_good": "w1 w8 w25", "sentence_bad": "w8 w1 w25", "field": "syntax", "linguistics_term": "order",
          "UID": "swapped", "pairID": "7"},
         {"sentence_good": "w3 w22", "sentence_bad": "w3 w4", "field": "morphology", "UID": "last", "pairID": "8"}]
AGREEMENT = """pattern\tconstr_id\tsent_id\tcorrect_number\tform\tclass\ttype\tprefix\tn_attr\tlen_prefix\tsent
a_b\t1\t0\tplur\tw25\tcorrect\toriginal\tw1 w8\t2\t2\tw1 w8 w25 w2 <eos>
a_b\t1\t0\tplur\tw26\twrong\toriginal\tw1 w8\t2\t2\tw1 w8 w25 w2 <eos>
a_b\t1\t1\tsing\tw9\twrong\tgenerated\tw3 w22\t0\t2\tw3 w22 w5 <eos>
a_b\t1\t1\tsing\tw5\tcorrect\tgenerated\tw3 w22\t0\t2\tw3 w22 w5 <eos>
"""
SUITE = {"meta": {"name": "reflexive", "metric": "sum"}, "predictions": [
    {"type": "formula", "formula": "(2;%match%) < (2;%mismatch%)"},
    {"type": "formula", "formula": "[(2;%match%) + (3;%match%) < (*;%mismatch%)] & ((1;%match%) = (1;%mismatch%))"}],
    "items": [{"item_number": 1, "conditions": [
        {"condition_name": "match", "regions": [{"region_number": 1, "content": "w1"},
                                                {"region_number": 3, "content": ""},
                                                {"region_number": 2, "content": "w8 w25"}]},
        {"condition_name": "mismatch", "regions": [{"region_number": 1, "content": "w1"},
                                                   {"region_number": 2, "content": "w9 w2"},
                                                   {"region_number": 3, "content": "w3"}]}]}]}


@pytest.fixture(scope="module")
def with_unk(trained, tmp_path_factory):
    """A folder with the toy model, toy.pt, whose word w29 is <unk>."""
    folder = tmp_path_factory.mktemp("unk")
    contents = checkpoint.load(trained / "toy.pt")
    contents["vocabulary"] = ["<unk>" if word == "w29" else word for word in contents["vocabulary"]]
    checkpoint.save(folder / "toy.pt", contents)
    return folder


def lines_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, text):
    path.write_text(text)
    return str(path)


# ---- files

def test_formats_are_seen_from_the_contents(tmp_path):
    good, bad = Span("w1 w8 w25"), Span("w8 w1 w25")
    blimp = write(tmp_path / "swapped.jsonl", lines_of(BLIMP))
    assert pair_files.read([blimp]) == [Pair("swapped", "syntax", "7", good, bad),
                                        Pair("last", "morphology", "8", Span("w3 w22"), Span("w3 w4"))]
    supplement = write(tmp_path / "turn.jsonl", lines_of([{name: BLIMP[0][name] for name in
                                                           ("sentence_good", "sentence_bad")}]))
    assert pair_files.read([supplement]) == [Pair("turn", "", "1", good, bad)]
    tables = write(tmp_path / "t.tsv", "good\tbad\nw1 w8 w25\tw8 w1 w25\n"), write(
        tmp_path / "c.csv", 'paradigm,right,"off"\np,"w1 w8 w25","w8 w1 w25"\n\n')
    assert pair_files.read(tables[:1]) == [Pair("t", "", "1", good, bad)]
    assert pair_files.read(tables[1:], "right", "off") == [Pair("p", "", "1", good, bad)]
    agreement = pair_files.read([write(tmp_path / "generated.tab", AGREEMENT)])
    assert agreement == [Pair("a_b", "generated", "1-0", Span("w1 w8 w25", 2, 3), Span("w1 w8 w26", 2, 3)),
                         Pair("a_b", "generated", "1-1", Span("w3 w22 w5", 2, 3), Span("w3 w22 w9", 2, 3))]
    write(tmp_path / "agr.text", "w1 w8 w25 <eos>\nw3 w22 w5 <eos>\n")
    write(tmp_path / "agr.gold", "2\tw25\tw26\t0\n1\tw22\tw9\t1\n")
    linzen = [Pair("0 attractors", "agr", "1", Span("w1 w8 w25", 2, 3), Span("w1 w8 w26", 2, 3)),
              Pair("1 attractors", "agr", "2", Span("w3 w22", 1, 2), Span("w3 w9", 1, 2))]
    assert pair_files.read([str(tmp_path / "agr.text")]) == pair_files.read([str(tmp_path / "agr.gold")]) == linzen


def test_a_folder_holds_a_file_a_paradigm(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    write(folder / "b.jsonl", lines_of(BLIMP[:1]))
    write(folder / "a.tsv", "good\tbad\nw1\tw2\n")
    write(folder / "agr.text", "w1\n")
    write(folder / "agr.gold", "0\tw1\tw2\t0\n")
    assert [item.paradigm for item in pair_files.read([str(folder)])] == ["a", "0 attractors", "swapped"]


@pytest.mark.parametrize(("name", "text", "says"), [
    ("a.jsonl", '{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good":\n', "line 2 is not a JSON object"),
    ("a.jsonl", '{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": "a"}\n', "object 2 has no sentence"),
    ("a.jsonl", '{"one": "a"}\n', "no columns sentence_good"), ("a.tsv", "good\tbad\na\n", "line 2 has 1 column,"),
    ("a.csv", 'good,bad\n"a,b\n', "line 2: unexpected end"), ("a.csv", "good,bad\n", "no row"),
    ("a.csv", "\n\n", "empty"), ("a.csv", "good\0", "byte 4 is NUL"),
    ("g.tab", "\n".join(AGREEMENT.splitlines()[:2]), "item a_b 1 0 has no form of class wrong"),
    ("g.tab", AGREEMENT.replace("wrong", "correct"), "row 2"), ("a.text", "w1\n", "goes with"),
    ("s.json", json.dumps({**SUITE, "predictions": [{"formula": "(2;%match%) <"}]}), "formula"),
    ("s.json", json.dumps({**SUITE, "predictions": [{"formula": "(2;%match%)"}]}), "formula"),
    ("s.json", json.dumps({**SUITE, "predictions": [{"formula": "(9;%match%) < (2;%match%)"}]}), "has no (9;%match%)"),
    ("s.json", json.dumps({**SUITE, "meta": {"metric": "mode"}}), "mode"), ("s.json", '{"items": 3}', "no suite"),
    *(("s.json", json.dumps({**SUITE, **part}), "no suite") for part in (
        {"meta": {"metric": ["sum"]}}, {"meta": {"name": ["x"]}}, {"predictions": [{"formula": 5}]})),
    ("a.jsonl", r'{"sentence_good": "a \ud800", "sentence_bad": "b"}', "line 1 is not a JSON object")])
def test_what_is_no_such_file_is_refused(name, text, says, tmp_path):
    with pytest.raises(InputError) as error:
        pair_files.read([write(tmp_path / name, text)])
    assert says in str(error.value) and str(error.value).count(name) == 1 and "\n" not in str(error.value)


def test_positions_must_agree_with_the_words(tmp_path):
    write(tmp_path / "agr.text", "w1 w8\n")
    for gold in "1\tw1\tw2\t0\n", "5\tw8\tw2\t0\n", "x\tw8\tw2\t0\n", "1\tw8\tw2\n":
        write(tmp_path / "agr.gold", gold)
        with pytest.raises(InputError, match="agr.gold: line 1 is not a position"):
            pair_files.read([str(tmp_path / "agr.text")])


# ---- formulas

@pytest.mark.parametrize(("formula", "value"), [
    ("(1;%a%) < (2;%a%)", 1), ("(1;%a%) > (2;%a%)", 0), ("(1;%a%) < (1;%a%)", 0.5), ("(1;%a%) = (1;%a%)", 1),
    ("(1;%a%) - (2;%a%) - (3;%a%) < -3", 1), ("(1;%a%) - [(2;%a%) - (3;%a%)] = 2", 1),
    ("(1;%a%) > (2;%a%) | (1;%a%) < (2;%a%) & (2;%a%) < (3;%a%)", 1), ("(3;%a%)>(2;%a%)&(*;%a%)<5.5", 0),
    ("[(1;%a%) < (1;%a%)] & [(1;%a%) < (2;%a%)]", 0.5)])
def test_formulas(formula, value):
    assert syntaxgym.outcome(syntaxgym.parse(formula), lambda region: float(region.number or 6)) == value


# ---- accuracies

def test_the_interval_is_wilsons():
    """Of 8 of 10, from the roots of (p - x)² = z² x (1 - x) / n, found by bisection."""
    def root(low, high):
        sign = (0.8 - low) ** 2 > 1.959964 ** 2 * low * (1 - low) / 10
        for _ in range(80):
            middle = (low + high) / 2
            if ((0.8 - middle) ** 2 > 1.959964 ** 2 * middle * (1 - middle) / 10) == sign:
                low = middle
            else:
                high = middle
        return low
    assert minimal_pairs.interval(0.8, 10) == pytest.approx((root(0.01, 0.8), root(0.8, 0.999)), abs=1e-9)
    assert minimal_pairs.figures([1, 0.5, 0, None]) == {"accuracy": 0.5, "interval": minimal_pairs.interval(0.5, 3),
                                                       "items": 3, "ties": 1, "unknown": 1}
    assert minimal_pairs.figures([None])["accuracy"] is None


@pytest.mark.parametrize(("good", "bad", "unknown"), [
    ("a X b", "a Y b", True), ("a X b", "b X a", False), ("X a", "X b", False), ("X X a", "X a a", True),
    ("a", "X", True)])
def test_a_difference_is_unknown_where_a_word_of_it_is(good, bad, unknown):
    assert differ_unknown([Reading(text.split(), None, [word.isupper() for word in text.split()], None)
                           for text in (good, bad)]) is unknown


def test_accuracy_is_that_of_ones_own_comparison(with_unk, call, tmp_path):
    """200 pairs: the log-probabilities of --per-sentence, compared by hand, and LanguageModel.prefer."""
    draw = random.Random(1)
    texts = [[" ".join(f"w{draw.randrange(33)}" for _ in range(draw.randrange(1, 7))) for _ in range(2)]
             for _ in range(199)]
    texts.append(["w1 w2", "w1 w2"])
    write(tmp_path / "p.jsonl", lines_of([{"sentence_good": good, "sentence_bad": bad, "UID": f"u{i % 3}"}
                                          for i, (good, bad) in enumerate(texts)]))
    write(tmp_path / "all.txt", "".join(f"{text}\n" for pair in texts for text in pair))
    common = ["--save", with_unk / "toy.pt", "--device", "cpu"]
    call("evaluate.py", *common, "--text", "all.txt", "--context", "reset", "--per-sentence", "s.json", "--format",
         "json")
    rows = [json.loads(line) for line in (tmp_path / "s.json").read_text().splitlines()]
    said = call("evaluate.py", *common, "--minimal-pairs", "p.jsonl", "--per-pair", "p.json", "--format", "json",
                "--normalise")
    found = json.loads((with_unk / "toy.evaluation.pairs.p-jsonl.normalise.result.json").read_text())["minimal_pairs"]
    judged = [json.loads(line) for line in (tmp_path / "p.json").read_text().splitlines()]
    wins = []
    for i, (good, bad) in enumerate(texts):
        first, second = rows[2 * i], rows[2 * i + 1]
        assert [judged[i]["logprob_good"], judged[i]["logprob_bad"]] == pytest.approx(
            [first["logprob"], second["logprob"]], abs=1e-4)
        words = [set(text.split()) for text in (good, bad)]
        if {"w29", "w30", "w31", "w32"} & (words[0] ^ words[1]):
            assert judged[i]["outcome"] == "unknown"
        elif judged[i]["outcome"] != "unknown":
            difference = first["logprob"] / first["tokens"] - second["logprob"] / second["tokens"]
            wins.append(0.5 if good == bad else difference > 0)
            assert judged[i]["outcome"] == {0.5: "tie", True: "good", False: "bad"}[wins[-1]]
    assert found["all"]["accuracy"] == pytest.approx(sum(wins) / len(wins)) and found["all"]["items"] == len(wins)
    assert found["all"]["ties"] == 1 and found["all"]["unknown"] == 200 - len(wins) > 10
    assert sum(each["items"] for each in found["paradigms"].values()) == len(wins) and len(found["paradigms"]) == 3
    assert found["mean_of_paradigms"] == pytest.approx(sum(p["accuracy"] for p in found["paradigms"].values()) / 3)
    assert f"all | accuracy {found['all']['accuracy']:.1%}" in said and "1 tie, counted as half" in said

    model = LanguageModel.load(with_unk / "toy.pt", device="cpu")
    preferred = model.prefer(*(list(side) for side in zip(*texts)), normalise=True)
    assert [minimal_pairs.NAMES[one.outcome] for one in preferred] == [row["outcome"] for row in judged]
    assert [one.good for one in preferred] == pytest.approx(
        [row["logprob"] / row["tokens"] for row in rows[::2]], abs=1e-5)
    without = model.prefer("w1 w8", "w8 w1", eos=False)
    scored = model.score(["w1 w8", "w8 w1"])
    assert without[:2] == pytest.approx([sum(word.logprob for word in one.words[:-1]) for one in scored], abs=1e-5)
    assert without.outcome == (without.good > without.bad)
    for pair in ("a", ["a"]), (["a"], ["a", "b"]):
        with pytest.raises(InputError, match="prefer takes"):
            model.prefer(*pair)


def test_an_accuracy_of_nothing_right_is_in_the_summary(trained, call, tmp_path):
    model = LanguageModel.load(trained / "toy.pt", device="cpu")
    good, bad = sorted(("w1 w8", "w8 w1"), key=lambda text: model.score([text])[0].logprob)
    write(tmp_path / "p.tsv", f"good\tbad\n{good}\t{bad}\n")
    said = call("evaluate.py", "--save", trained / "toy.pt", "--device", "cpu", "--minimal-pairs", "p.tsv")
    assert "| summary | accuracy 0.0%, " in said


def test_forms_after_a_prefix_and_regions_against_words(trained, call, tmp_path):
    write(tmp_path / "g.tab", AGREEMENT)
    write(tmp_path / "s.json", json.dumps(SUITE))
    common = ["--save", trained / "toy.pt", "--device", "cpu", "--format", "json", "--minimal-pairs"]
    call("evaluate.py", *common, "g.tab", "--per-pair", "g.json")
    rows = [json.loads(line) for line in (tmp_path / "g.json").read_text().splitlines()]
    model = LanguageModel.load(trained / "toy.pt", device="cpu")
    for row, (good, bad) in zip(rows, (("w1 w8 w25", "w1 w8 w26"), ("w3 w22 w5", "w3 w22 w9"))):
        expected = [one.words[2].logprob for one in model.score([good, bad])]
        assert [row["logprob_good"], row["logprob_bad"]] == pytest.approx(expected, abs=1e-5)
        assert row["outcome"] == ("good" if expected[0] > expected[1] else "bad") and row["tokens_good"] == 1
    call("evaluate.py", *common, "s.json", "--per-pair", "r.json")
    rows = [json.loads(line) for line in (tmp_path / "r.json").read_text().splitlines()]
    match, mismatch = ([word.surprisal for word in one.words] for one in model.score(["w1 w8 w25", "w1 w9 w2 w3"]))
    assert [row["outcome"] for row in rows] == [str(holds).lower() for holds in (
        sum(match[1:3]) < sum(mismatch[1:3]), sum(match[1:3]) < sum(mismatch[:4]))]
    found = json.loads((trained / "toy.evaluation.pairs.s-json.result.json").read_text())["minimal_pairs"]
    assert found["paradigms"]["reflexive"]["accuracy"] == min(row["outcome"] == "true" for row in rows)
    assert not math.isnan(found["all"]["accuracy"])


@pytest.mark.parametrize(("words", "says"), [
    (["--per-pair", "x"], "--per-pair does nothing without"), (["--normalise"], "--normalise does nothing"),
    (["--minimal-pairs", "p.tsv", "--text", "-"], "--text and --minimal-pairs"),
    (["--minimal-pairs", "p.tsv", "--good", "a"], "both"), (["--minimal-pairs", "missing"], "missing: no such file"),
    (["--minimal-pairs", "p.tsv", "--format", "lm-zoo"], "--format"),
    (["--minimal-pairs", "p.tsv", "--unknown", "error"], "zebra")])
def test_bad_flags(words, says, with_unk, tmp_path):
    write(tmp_path / "p.tsv", "good\tbad\nw1\tzebra\n")
    done = run_script("evaluate.py", "--save", with_unk / "toy.pt", "--device", "cpu", *words, cwd=tmp_path, status=1)
    assert says in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_minicons_prefers_the_same_on_the_exported_model(trained, call, tmp_path):
    """200 pairs; minicons leaves the <eos> behind a sentence out."""
    scorer = pytest.importorskip("minicons.scorer")
    transformers = pytest.importorskip("transformers")
    draw = random.Random(2)
    texts = [[" ".join(f"w{draw.randrange(30)}" for _ in range(draw.randrange(2, 8))) for _ in range(2)]
             for _ in range(200)]
    write(tmp_path / "p.jsonl", lines_of([dict(zip(("sentence_good", "sentence_bad"), pair)) for pair in texts]))
    call("evaluate.py", "--save", trained / "toy.pt", "--device", "cpu", "--minimal-pairs", "p.jsonl", "--without-eos",
         "--per-pair", "p.json", "--format", "json")
    rows = [json.loads(line) for line in (tmp_path / "p.json").read_text().splitlines()]
    call("export.py", "--save", trained / "toy.pt", "--to", "hf", "hf")
    model, tokenizer = (kind.from_pretrained(str(tmp_path / "hf"), trust_remote_code=True)
                        for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer))
    lm = scorer.IncrementalLMScorer(model, "cpu", tokenizer=tokenizer)
    for side, name in enumerate(("logprob_good", "logprob_bad")):
        theirs = lm.sequence_score([pair[side] for pair in texts], bos_token=True,
                                   reduction=lambda scores: scores.sum().item())
        assert [row[name] for row in rows] == pytest.approx(theirs, abs=1e-4)
