"""An exported folder under the calls that BabyLM's evaluation code makes; our prediction files say the same."""
import json
import math
import os
import tempfile

import pytest
import torch
from conftest import SMALL, run_script

os.environ.setdefault("HF_HOME", tempfile.mkdtemp())       # where transformers copy the modelling file
os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
for package in ("safetensors", "tokenizers"):
    pytest.importorskip(package)

PAIRS = [("w3 w22 w5.", "w3 w7 w5."), ("A: w3 w22?\nB: w9.", "A: w3 w22?\nB: w29."), ("naïve w1", "w1 naïve w2")]
ENDS = [("w3 w22.", (" w5 w6.", " w9.")), ("w4 w29.", (" w1.", " w2 w4 w15."))]
WORDS = [("w3 w22", " w5,"), ("w3", " w22w5"), ("w3 w22 w5", " w6.")]


@pytest.fixture(scope="module", params=["bpe", "chars", "words"])
def folders(request, toy, tmp_path_factory):
    """A model as a folder of transformers', and the folder of our predictions."""
    folder = tmp_path_factory.mktemp(request.param)
    size = ["--vocab-size", 300] if request.param == "bpe" else []
    (folder / "text.txt").write_text((toy / "train.txt").read_text() + "naïve A: B: .?\nonce\n")
    run_script("prepare.py", "text", "text.txt", "--out", "data", "--tokenizer", request.param, *size, cwd=folder)
    run_script("main.py", "--data", "data", *SMALL, "--epochs", 1, "--save", "m.pt", cwd=folder)
    run_script("export.py", "--save", "m.pt", "--to", "hf", "hf", "--prepend-eos", cwd=folder)
    for name in ("blimp_fast", "wug_past_tense", "ewok_fast", "reading"):
        (folder / "data" / name).mkdir()
    rows = [{"sentence_good": good, "sentence_bad": bad, "UID": "u", "field": "f"} for good, bad in PAIRS]
    (folder / "data/blimp_fast/u.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"sentences": "\t".join(pair), "ratio": 0.5} for pair in PAIRS]
    (folder / "data/wug_past_tense/w.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"Domain": "d", "Context1": context, "Target1": first[1:], "Target2": second[1:]}
            for context, (first, second) in ENDS]
    (folder / "data/ewok_fast/e.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [f'{before},"{word}",,\n' for before, word in WORDS]
    (folder / "data/reading/reading_data.csv").write_text("item,word,prev_item,prev_word\n" + "".join(rows))
    run_script("evaluate.py", "--save", "m.pt", "--babylm", "data", "--predictions", "out", "--device", "cpu",
               cwd=folder)
    return folder / "hf", folder / "out" / "zero_shot" / "causal"


@pytest.fixture(scope="module")
def theirs(folders):
    """The model and the tokenizer, which is asked for as a processor."""
    given = {"trust_remote_code": True, "revision": None}
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folders[0]), **given)
    return model.eval(), transformers.AutoProcessor.from_pretrained(str(folders[0]), padding_side="right", **given)


def choose(texts, ends, theirs):
    """Sums of the log-probabilities of the tokens that reach into each end, in a batch padded on the right (N,)."""
    model, tokenizer = theirs
    rows = []
    for text, end in zip(texts, ends):
        cut = tokenizer(text=text, return_offsets_mapping=True)
        rows.append((torch.tensor(cut["input_ids"]), torch.tensor(cut["attention_mask"]),
                     torch.tensor([int(stop > len(text) - len(end)) for _, stop in cut["offset_mapping"]])))
    padding = (tokenizer.pad_token_id, 0, 0)
    ids, mask, inside = (torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=value)
                         for part, value in zip(zip(*rows), padding))
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1])["logits"]
    found = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (found * inside[:, 1:]).sum(1)


def read(folder, name):
    (only,) = json.loads((folder / name / "predictions.json").read_text()).values()
    return only["predictions"]


def test_sentences(folders, theirs):
    for name, key in ("blimp/blimp_fast", None), ("wug_past/wug_past_tense", "prob"):
        for pair, found in zip(PAIRS, read(folders[1], name), strict=True):
            sums = choose(pair, pair, theirs)
            assert found["pred"] == pair[sums.argmax()]
            assert key is None or found[key] == pytest.approx(sums.softmax(0)[0].item(), abs=1e-5)


def test_completions(folders, theirs):
    for (context, ends), found in zip(ENDS, read(folders[1], "ewok/ewok_fast"), strict=True):
        assert found["pred"] == ends[choose([context + end for end in ends], ends, theirs).argmax()]


def test_words_of_a_reading_study(folders, theirs):
    """Token by token: each as the first of its own text, behind the sentence as it has been written out by then."""
    model, tokenizer = theirs
    for (sentence, word), found in zip(WORDS, read(folders[1], "reading"), strict=True):
        total = 0.0
        for token in tokenizer(word, add_special_tokens=False)["input_ids"]:
            piece = tokenizer.decode(token)
            with torch.no_grad():
                logits = model(**tokenizer(sentence, return_tensors="pt")).logits[0, -1]
            wanted = tokenizer(piece, add_special_tokens=False)["input_ids"][0]
            total -= logits.softmax(-1)[wanted].log().item()
            sentence += piece
        assert found["pred"] == pytest.approx(total, rel=1e-4) and math.isnan(found["prev_pred"])
