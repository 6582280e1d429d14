"""LanguageModel: against naive float64 reading, and against the scripts, which a user may have asked the same."""
import csv
import math

import pytest
import torch
from conftest import ROOT, run_script

import awd_lstm
from awd_lstm import InputError, LanguageModel, language_model
from model import RNNModel

WORDS = ["<eos>", "<unk>", *"abcdefghij"]
SENTENCES = ["w1 w8 w15", "", "w3 w22 w0 w1"]


@pytest.fixture(params=["LSTM", "QRNN"])
def made(request):
    """A random model in float64 with all dropouts, still in training mode."""
    torch.manual_seed(3)
    model = RNNModel(request.param, len(WORDS), 6, 9, 3, wdrop=0.5)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return LanguageModel(model.double(), WORDS)


def read(lm, words):
    """Naively: log-probabilities (N + 1, V) after <eos> and each of `words`, outputs of each layer (N + 1, H)."""
    model = lm.model.eval()
    hidden, logprobs, outputs = model.init_hidden(1), [], []
    with torch.no_grad():
        for word in ["<eos>", *words]:
            features, hidden, raw, _ = model(torch.tensor([[WORDS.index(word)]]), hidden, return_h=True)
            logprobs.append(model.logprob(features)[0])
            outputs.append([layer[0, 0] for layer in raw])
    return torch.stack(logprobs), [torch.stack(layer) for layer in zip(*outputs)]


def test_scores_against_a_naive_loop(made):
    for sentence, scored in zip(["a b j", "", "c"], made.score(["a b j", "", ["c"]])):
        words = sentence.split()
        logprobs, _ = read(made, words)
        expected = [logprobs[i, WORDS.index(word)].item() for i, word in enumerate([*words, "<eos>"])]
        assert [word.word for word in scored.words] == [*words, "<eos>"]
        assert [word.logprob for word in scored.words] == pytest.approx(expected, rel=1e-12)
        assert scored.logprob == pytest.approx(sum(expected))
        assert scored.words[0].surprisal == pytest.approx(-math.log2(math.exp(expected[0])))


def test_carried_scores_are_those_of_one_text(made):
    words = ["a", "b", "<eos>", "c", "<eos>"]
    logprobs, _ = read(made, words)
    expected = [logprobs[i, WORDS.index(word)].item() for i, word in enumerate(words)]
    first, second = made.score(["a b", "c"], context="carry")
    assert [word.logprob for word in (*first.words, *second.words)] == pytest.approx(expected, rel=1e-12)
    assert made.perplexity(["a b", "c"]) == pytest.approx(math.exp(-sum(expected) / 5))
    assert made.perplexity(["a b", "c"], context="reset") != pytest.approx(math.exp(-sum(expected) / 5))


def test_unknown_words_are_read_as_unk_and_flagged(made):
    found, = made.score(["a zebra b"])
    expected, = made.score(["a <unk> b"])
    assert [word.logprob for word in found.words] == [word.logprob for word in expected.words]
    assert [word.word for word in found.words] == ["a", "zebra", "b", "<eos>"]
    assert [word.unknown for word in found.words] == [False, True, False, False]
    assert not any(word.unknown for word in expected.words)


def test_next_words_against_a_naive_loop(made):
    logprobs, _ = read(made, ["d", "a"])
    found = made.next("d a", k=100)
    assert sum(p for _, p in found) == pytest.approx(1)
    assert [WORDS.index(word) for word, _ in found] == logprobs[-1].argsort(descending=True).tolist()
    assert [p for _, p in found] == pytest.approx(logprobs[-1].sort(descending=True).values.exp().tolist())
    assert made.next("d a", k=2) == found[:2]
    assert made.next(k=1)[0][0] == WORDS[read(made, [])[0][0].argmax()]


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_features_against_a_naive_loop(layer, made, monkeypatch):
    monkeypatch.setattr(language_model, "PLAIN_WINDOW", 4)                 # several windows
    text = "a b c d e f g h i j"
    found, words = made.features(text, layer)
    assert words == text.split()
    torch.testing.assert_close(found, read(made, words)[1][layer][1:].float())


def test_the_mode_the_generator_and_the_switches_stay(made):
    made.model.train()
    torch.manual_seed(1)
    before = torch.get_rng_state(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    made.score(["a"]), made.next("a"), made.features("a"), made.generate("a", 3, seed=2), made.perplexity(["a"])
    assert made.model.training
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


@pytest.mark.parametrize("context", ["reset", "carry"])
def test_scores_are_those_of_evaluate(context, trained, tmp_path, call):
    (tmp_path / "text").write_text("\n".join(SENTENCES) + "\n")
    call("evaluate.py", "--checkpoint", trained / "toy.pt", "--text", "text", "--context", context,
         "--per-token", "out.tsv", cwd=tmp_path)
    with open(tmp_path / "out.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = LanguageModel.load(trained / "toy.pt").score(SENTENCES, context)
    assert [word.word for sentence in found for word in sentence.words] == [row["word"] for row in rows]
    assert [word.logprob for sentence in found for word in sentence.words] == pytest.approx(
        [float(row["logprob"]) for row in rows], rel=1e-5)


def test_the_likeliest_sample_is_that_of_generate(trained, tmp_path, call):
    call("generate.py", "--checkpoint", trained / "toy.pt", "--words", 40, "--prompt", "w1 w2", "--temperature", 0.001,
         "--outf", tmp_path / "out")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = LanguageModel.load(trained / "toy.pt").generate("w1 w2", 40, temperature=0.001, seed=7)
    assert ["w1", "w2", *found] == (tmp_path / "out").read_text().split()
    assert torch.equal(before, torch.get_rng_state())


def test_a_sample_goes_by_its_seed_and_top_k(made):
    first = made.generate("a", 30, seed=1)
    assert made.generate("a", 30, seed=1) == first != made.generate("a", 30, seed=2)
    drawn = {made.generate("a", 1, top_k=2, seed=seed)[0] for seed in range(40)}
    assert drawn == {word for word, _ in made.next("a", k=2)}


def test_a_sample_without_a_seed_follows_torch(made):
    torch.manual_seed(5)
    first = made.generate(words=30)
    assert made.generate(words=30) != first
    torch.manual_seed(5)
    assert made.generate(words=30) == first


@pytest.mark.parametrize(("asked", "named"), [
    (lambda lm: lm.score("a b"), "list of sentences"), (lambda lm: lm.score(["a"], context="line"), "line"),
    (lambda lm: lm.next("a", k=0), "k=0"), (lambda lm: lm.next("a", k=2.5), "k=2.5"),
    (lambda lm: lm.next(None), "None is no text"), (lambda lm: lm.score(None), "list of sentences"),
    (lambda lm: lm.score([5]), "5 is no text"), (lambda lm: lm.score([["a", 5]]), "5 is no word"),
    (lambda lm: lm.prefer(None, None), "two lists"), (lambda lm: lm.features("a", layer="1"), "3 layers"),
    (lambda lm: lm.generate(words=2.5), "words=2.5"), (lambda lm: lm.generate(top_k="a"), "top_k='a'"),
    (lambda lm: lm.generate(temperature=None), "temperature=None"), (lambda lm: lm.generate(seed=0.5), "seed=0.5"),
    (lambda lm: lm.features("a", layer=3), "3 layers"),
    (lambda lm: lm.features("a", layer=-4), "3 layers"), (lambda lm: lm.generate(temperature=-1), "temperature"),
    (lambda lm: lm.generate(top_p=1.5), "top_p"),
    (lambda lm: lm.perplexity([]), "no sentence"),
    (lambda lm: LanguageModel(lm.model, WORDS, unknown="skip"), "skip"),
    (lambda lm: LanguageModel(lm.model, ["x", *WORDS[1:]]), "<eos>"),
    (lambda lm: LanguageModel(lm.model, WORDS[:-1]), "has 11 words, the model 12"),
    (lambda lm: LanguageModel(lm.model, [*WORDS, "k"]), "has 13 words, the model 12"),
    (lambda lm: LanguageModel(lm.model, [*WORDS[:-1], "a"]), "has 'a' more than once"),
    (lambda lm: LanguageModel(lm.model, [*WORDS[:-1], 5]), "no list of words"),
    (lambda lm: LanguageModel(lm.model, WORDS, unknown="error").score(["a zebra"]), "zebra.*unknown='unk'"),
    (lambda lm: LanguageModel(lm.model, ["<eos>", "x", *WORDS[2:]]).next("zebra"), "zebra.*no <unk>")])
def test_what_cannot_be_used_is_an_input_error(asked, named, made):
    with pytest.raises(InputError, match=named):
        asked(made)


@pytest.mark.parametrize(("how", "named"), [
    ({"precision": "fp16"}, "fp16"), ({"device": "abacus"}, "abacus"), ({"device": 5}, "5"),
    ({"precision": "tf32", "device": "cpu"}, "tf32")])
def test_a_model_that_cannot_be_loaded_is_an_input_error(how, named, trained):
    with pytest.raises(ValueError, match=named):
        LanguageModel.load(trained / "toy.pt", **how)
    with pytest.raises(ValueError, match=r"no\.pt"):
        LanguageModel.load("no.pt")


def test_numbers_and_lists_of_other_types(made):
    assert made.next("a", k=torch.tensor(3)) == made.next("a", k=3)
    assert torch.equal(made.features("a", layer=1.0)[0], made.features("a", layer=1)[0])
    assert made.generate(words=3.0, seed=torch.tensor(4)) == made.generate(words=3, seed=4)
    assert made.prefer(iter(["a b"]), (text for text in ["b a"])) == made.prefer(["a b"], ["b a"])


def test_nothing_to_score_is_an_empty_list(made):
    assert made.score([]) == []
    assert made.features("")[0].shape == (0, 6)
    assert made.generate(words=0) == []


def test_all_public_names_are_there():
    assert all(getattr(awd_lstm, name).__name__ == name for name in awd_lstm.__all__)
    assert set(awd_lstm.__all__) <= set(dir(awd_lstm))
    with pytest.raises(AttributeError, match="nothing"):
        awd_lstm.nothing  # noqa: B018


def test_torch_waits_until_it_is_needed(tmp_path):
    (tmp_path / "look.py").write_text("import sys\nimport awd_lstm.command\nassert 'torch' not in sys.modules\n"
                                      "from awd_lstm import LanguageModel\nassert 'torch' in sys.modules\n")
    run_script(tmp_path / "look.py", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
