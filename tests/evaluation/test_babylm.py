"""BabyLM's zero-shot tasks. The files are written by hand in its formats, a few lines each, and none of its data."""
import json
import math

import pytest
from conftest import SMALL, run_script

from awd_lstm import LanguageModel
from corpus.tokenizers import Characters
from evaluation import babylm
from evaluation.minimal_pairs import Reading
from runtime.errors import InputError

# The words of tests' toy corpus are w0 to w29.
BLIMP = [{"sentence_good": "w1 w8 w27", "sentence_bad": "w1 w2 w3", "field": "syntax", "UID": "order",
          "linguistics_term": "order"},
         {"sentence_good": "w9 w9", "sentence_bad": "w2 w15 w16", "field": "syntax", "UID": "order",
          "linguistics_term": "order"}]
SUPPLEMENT = [{"sentence_good": "w3 w22\nw5 w6", "sentence_bad": "w3 w22\nw5 w29"}]
EWOK = [{"Domain": "things", "Context1": "w3 w22", "Context2": "w4", "Target1": "w5 w6", "Target2": "w9 w29",
         "ContextType": "direct", "ContextDiff": "a", "TargetDiff": "b"}]
ENTITY = [{"numops": number, "input_prefix": "w3 w22 w29 ", "options": ["w5", "w6 w1", "w9"]}
          for number in (0, 1, 0)]
WUG = [{"sentences": "w1 w8\tw1 w4", "ratio": 0.5}, {"sentences": "w2 w4\tw2 w15", "ratio": 0.25}]
COMPS = [{"prefix_acceptable": "w3 w22", "prefix_unacceptable": "w3 w7", "property_phrase": "w5 w6"}]
READING = ("item,word,prev_item,prev_word,RTfirstfix\n"
           'w3,w22,,,200\nw3 w22 w5,w6,w3 w22,w5,\n')
FILES = {"blimp_fast/order.jsonl": BLIMP, "supplement_fast/turns.jsonl": SUPPLEMENT, "ewok_fast/things.jsonl": EWOK,
         "entity_tracking_fast/regular.jsonl": ENTITY, "wug_adj_nominalization/a.jsonl": WUG,
         "wug_past_tense/b.jsonl": WUG, "comps/comps_wugs_dist-before.jsonl": COMPS,
         "glue_filtered/x.jsonl": [{"a": 1}]}
CHILDES = {"w22": [{"context": "w1 w3 "}, {"context": "w4"}], "a": [{"context": "w4"}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("babylm") / "fast_eval"
    for name, rows in FILES.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reading").mkdir()
    (folder / "reading" / "reading_data.csv").write_text(READING)
    (folder / "aoa").mkdir()
    (folder / "aoa" / "cdi_childes.json").write_text(json.dumps(CHILDES))
    return folder


@pytest.fixture(scope="module", params=["words", "chars", "bpe"])
def model(request, toy, trained, tmp_path_factory):
    """The path of a trained model."""
    if request.param == "words":
        return trained / "toy.pt"
    if request.param == "bpe":
        pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp(request.param)
    size = ["--vocab-size", 300] if request.param == "bpe" else []
    run_script("prepare.py", "text", toy / "train.txt", "--out", "data", "--tokenizer", request.param, *size,
               cwd=folder)
    run_script("main.py", "--data", "data", *SMALL, "--epochs", 1, "--save", "m.pt", cwd=folder)
    return folder / "m.pt"


# Of every file of predictions its items: the subtask, and of each choice the text, what is scored of it, the answer.
EXPECTED = {
    "blimp/blimp_fast": [("order", [(text, text, text) for text in texts]) for texts in (
        ("w1 w8 w27", "w1 w2 w3"), ("w9 w9", "w2 w15 w16"))],
    "blimp/supplement_fast": [("turns", [(text, text, text) for text in ("w3 w22\nw5 w6", "w3 w22\nw5 w29")])],
    "ewok/ewok_fast": [("things", [(f"w3 w22 {end}", f" {end}", f" {end}") for end in ("w5 w6", "w9 w29")])],
    "entity_tracking/entity_tracking_fast": [
        (f"regular_{number}_ops", [(f"w3 w22 w29 {end}", end, end) for end in ("w5", "w6 w1", "w9")])
        for number in (0, 1, 0)],
    "wug_adj/wug_adj_nominalization": [("wug_adj", [(text, text, text) for text in texts]) for texts in (
        ("w1 w8", "w1 w4"), ("w2 w4", "w2 w15"))],
    "wug_past/wug_past_tense": [("wug_past", [(text, text, text) for text in texts]) for texts in (
        ("w1 w8", "w1 w4"), ("w2 w4", "w2 w15"))],
    "comps/comps": [("wugs_dist_before", [(f"w3 {word} w5 w6", "w5 w6", f"w3 {word} w5 w6")
                                          for word in ("w22", "w7")])],
}
WORDS = [("w3 w22", " w22"), (None, None), ("w3 w22 w5 w6", " w6"), ("w3 w22 w5", " w5")]     # of READING, in order


def predictions(folder, revision="chck_1M"):
    """The files in a folder of predictions -> {folder in that of the revision: contents}."""
    top = folder / "results" / "mine" / revision / "zero_shot" / "causal"
    return {str(path.parent.relative_to(top)): json.loads(path.read_text()) for path in top.rglob("*.json")}


def logprob(model, text, scored):
    """Of the end of a text that reads `scored`, without <eos>: of all tokens but those of what stands before. A space
    between them belongs to the word after it, but where characters are the tokens."""
    before, tokenizer = text[:len(text) - len(scored)], model.vocabulary.tokenizer
    before = before if tokenizer.name == "chars" else before.rstrip()
    return math.fsum(word.logprob for word in model.score([text])[0].words[len(tokenizer.encode(before)):-1])


def test_predictions(model, data, tmp_path, call):
    """In the form in which BabyLM's code writes and collates them: of every item the likeliest answer."""
    call("evaluate.py", "--checkpoint", model, "--babylm", data, "--predictions", "results/mine/chck_1M", "--device",
         "cpu")
    lm, found = LanguageModel.load(model, device="cpu"), predictions(tmp_path)
    right = {}
    for place, items in EXPECTED.items():
        wanted = {}
        for subtask, choices in items:
            sums = [logprob(lm, text, scored) for text, scored, _ in choices]
            best, own = max(range(len(sums)), key=sums.__getitem__), wanted.setdefault(subtask, [])
            own.append({"id": f"{subtask}_{len(own)}", "pred": choices[best][2]})
            if "wug" in place:
                own[-1]["prob"] = pytest.approx(math.exp(sums[0]) / sum(map(math.exp, sums)), rel=1e-4)
            right.setdefault(place, []).append(best == 0)
        assert found.pop(place) == {name: {"predictions": own} for name, own in wanted.items()}
    minus = [pytest.approx(-logprob(lm, *word), rel=1e-5) if word[0] else pytest.approx(math.nan, nan_ok=True)
             for word in WORDS]
    assert found.pop("reading") == {"reading": {"predictions": [{"id": 0, "pred": minus[0], "prev_pred": minus[1]},
                                                                {"id": 1, "pred": minus[2], "prev_pred": minus[3]}]}}
    assert not found                               # and none of glue_filtered; that of aoa is not of one revision
    result = json.loads(next(path for path in model.parent.glob("*.babylm.*.result.json")).read_text())["babylm"]
    assert result["comps"]["accuracy"] == right["comps/comps"][0] and result["reading"] == {"items": 3}
    assert result["blimp_fast"]["subtasks"] == {"order": sum(right["blimp/blimp_fast"]) / 2}


def test_surprisals_of_all_revisions_are_in_one_file(trained, data, tmp_path, call):
    path = tmp_path / "results" / "mine" / "main" / "zero_shot" / "causal" / "AoA_word" / "surprisal.json"
    lm = LanguageModel.load(trained / "toy.pt", device="cpu")
    for revision in "chck_1M", "chck_20M", "chck_1M", "main":
        out = call("evaluate.py", "--checkpoint", trained / "toy.pt", "--babylm", data / "aoa", "--predictions",
                   f"results/mine/{revision}", "--device", "cpu")
    assert "aoa left out" in out
    found = json.loads(path.read_text())
    assert found["metadata"]["completed_steps"] == 2 and found["metadata"]["model_name"] == "mine"
    wanted = [{"target_word": "w22", "context_id": i, "context": context,
               "surprisal": pytest.approx(-logprob(lm, text, "w22"), rel=1e-5)}
              for i, (context, text) in enumerate((("w1 w3 ", "w1 w3 w22"), ("w4", "w4 w22")))]
    assert found["results"] == [{"step": step, "word_count": words, **row}
                                for step, words in (("chck_20M", 20_000_000), ("chck_1M", 1_000_000)) for row in wanted]


@pytest.mark.parametrize(("name", "text", "said"), [
    ("blimp_fast/x.jsonl", '{"sentence_good": "a"}', "line 1 is no item"), ("ewok_fast/x.jsonl", "\n[1]", "line 2"),
    ("comps/other.jsonl", json.dumps(COMPS[0]), "line 1"), ("wug_past/x.jsonl", '{"sentences": ""}', "line 1"),
    ("entity_tracking/x.jsonl", '{"numops": 1, "input_prefix": "a", "options": []}', "line 1"),
    ("glue/x.jsonl", "{}", "none of BabyLM's"), ("reading/reading_data.csv", "item,word\na,b\n", "no column prev_item"),
    ("aoa/cdi_childes.json", '{"word": [{"text": "a"}]}', "each with its contexts"),
    ("reading/reading_data.csv", "", "is empty"),
    ("blimp_fast/x.jsonl", '{"sentence_good": 5, "sentence_bad": 6}', "line 1"),
    ("blimp_fast/x.jsonl", r'{"sentence_good": "\udc00", "sentence_bad": "a"}', "line 1"),
    ("ewok_fast/x.jsonl", '{"Domain": [], "Context1": "a", "Target1": "b", "Target2": "c"}', "line 1"),
    ("aoa/cdi_childes.json", "[]", "each with its contexts")])
def test_other_files_are_named(name, text, said, tmp_path):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said) as error:
        babylm.read([str(tmp_path)])
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("words", "said"), [
    (["--babylm", "x"], "--predictions"), (["--predictions", "x"], "--babylm"),
    (["--babylm", "x", "--predictions", "y", "--text", "z"], "--text"),
    (["--babylm", "x", "--predictions", "y", "--minimal-pairs", "y"], "--minimal-pairs and --babylm"),
    (["--babylm", "gone", "--predictions", "y"], "gone")])
def test_flags_that_do_not_go_together(words, said, trained, tmp_path, call):
    with pytest.raises(InputError, match=said):
        call("evaluate.py", "--checkpoint", trained / "toy.pt", *words)


def test_a_place_that_cannot_be_written_is_named_before_the_work(trained, data, tmp_path, call, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("evaluation.minimal_pairs.read", lambda *_: pytest.fail("it read the texts"))
    with pytest.raises(NotADirectoryError):
        call("evaluate.py", "--checkpoint", trained / "toy.pt", "--babylm", data, "--predictions", "file/x")


@pytest.mark.parametrize("context", ["in ", "İn İ "])
def test_characters_that_are_several_in_lower_case(context):
    """The completion is what it is, however long what stands before it has become."""
    tokens = [*Characters(lower=True).encode(f"{context}İt"), "<eos>"]
    reading = Reading(tokens, [-1.0] * len(tokens), [False] * len(tokens), None)
    choice = babylm.Choice(f"{context}İt", len(context), "İt")
    assert len("İt".lower()) == 3 and babylm.logprob(choice, reading, Characters(lower=True)) == -3
