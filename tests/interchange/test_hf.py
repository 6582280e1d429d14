"""A model as Hugging Face's transformers read it, and back."""
import json
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from conftest import run_script

os.environ.setdefault("HF_HOME", tempfile.mkdtemp())       # where it copies the modelling file; read at the import
os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
for package in ("safetensors", "tokenizers"):
    pytest.importorskip(package)
from models import SHAPES, WORDS, contents_of, logprobs, same_model  # noqa: E402

import checkpoint  # noqa: E402
import export  # noqa: E402
from corpus.tokenizers import EOS, TOKENIZERS, visible  # noqa: E402
from interchange import hf, settings  # noqa: E402
from model import build  # noqa: E402
from runtime.errors import InputError  # noqa: E402

TEXT = "w3 w1 <unk> café w9 w20 w2"


@pytest.fixture(params=SHAPES)
def pair(request, tmp_path):
    """Our model, and the same as transformers read it, with its tokenizer."""
    model, contents = contents_of(**SHAPES[request.param])
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), 1_400_000)
    return model, contents, *load(tmp_path / "out")


def load(folder):
    return (transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval(),
            transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True))


def batch(tokenizer, side):
    tokenizer.padding_side = side
    return tokenizer([TEXT, "w5 w4", "w7 w7 w7 w7"], return_tensors="pt", padding=True)


def test_the_same_log_probabilities_in_batches_padded_on_any_side(pair):
    model, _, theirs, tokenizer = pair
    for side in ("left", "right"):
        given = batch(tokenizer, side)
        with torch.no_grad():
            out = theirs(**given, output_hidden_states=True)
        assert [h.size(2) for h in out.hidden_states] == [5, *(rnn.hidden_size for rnn in model.rnns)]
        for row, mask in enumerate(given["attention_mask"].bool()):
            wanted, features = logprobs(model, given["input_ids"][row][mask].tolist())
            assert torch.allclose(out.logits[row][mask].log_softmax(-1), wanted, atol=1e-5)
            if not model.skip_output:
                assert torch.allclose(out.hidden_states[-1][row][mask], features, atol=1e-5)
    if model.softmax.splits:                                      # they are probabilities already
        assert torch.allclose(out.logits.exp().sum(-1), torch.ones(out.logits.shape[:2]), atol=1e-5)


def test_the_state_stands_for_what_was_read(pair):
    """Also where the second part has padding, and where a row has nothing but padding."""
    _, _, theirs, tokenizer = pair
    given = batch(tokenizer, "left")
    with torch.no_grad():
        whole = theirs(**given).logits
        past = theirs(given["input_ids"][:, :3], attention_mask=given["attention_mask"][:, :3]).past_key_values
        rest = theirs(given["input_ids"][:, 3:], attention_mask=given["attention_mask"], past_key_values=past).logits
    real = given["attention_mask"][:, 3:].bool()
    assert not given["attention_mask"][1, :3].any()
    assert torch.allclose(rest[real], whole[:, 3:][real], atol=1e-6)


def test_loss_is_the_mean_over_labels_that_count(pair):
    _, _, theirs, tokenizer = pair
    given = batch(tokenizer, "right")
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    out = theirs(**given, labels=labels)
    terms = [-out.logits[row, t].double().log_softmax(-1)[labels[row, t + 1]]
             for row in range(3) for t in range(labels.size(1) - 1) if labels[row, t + 1] != -100]
    assert out.loss.item() == pytest.approx((sum(terms) / len(terms)).item(), rel=1e-5)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in theirs.parameters())


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}])
def test_generate(how, pair):
    """With the state, without it, and by hand."""
    model, _, theirs, tokenizer = pair
    how = {**how, "max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    given = batch(tokenizer, "left")
    found = theirs.generate(**given, **how)
    assert torch.equal(found, theirs.generate(**given, **how, use_cache=False))
    if not how.get("num_beams"):
        ids = given["input_ids"][1][given["attention_mask"][1].bool()].tolist()
        for _ in range(6):
            ids.append(logprobs(model, ids)[0][-1].argmax().item())
        assert found[1, -6:].tolist() == ids[-6:]


def test_back_bit_for_bit_also_through_save_pretrained(pair, tmp_path):
    _, contents, theirs, tokenizer = pair
    theirs.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    for folder in ("out", "again"):
        found = settings.contents_of(*hf.read(str(tmp_path / folder), None), folder)
        assert same_model(found, contents)
        assert checkpoint.words_seen(found) == checkpoint.words_seen(contents) == 1_400_000
    again, _ = load(tmp_path / "again")
    given = batch(tokenizer, "left")
    assert torch.equal(again(**given).logits, theirs(**given).logits)


def test_the_tokenizer_splits_as_training_did(tmp_path):
    """At all that Python's split() takes for white space and at nothing else; <eos> for the end of a line."""
    model, contents = contents_of()
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    tokenizer = load(tmp_path / "out")[1]
    assert tokenizer.is_fast and tokenizer.vocab_size == len(tokenizer) == len(WORDS)
    assert [tokenizer.convert_tokens_to_ids(word) for word in WORDS] == list(range(len(WORDS)))
    for i in [*range(1, 0xd800), *range(0xe000, 0x11000), *range(0x1f300, 0x1f400), 0xe0001]:
        text = f"w1{chr(i)}w2"
        wanted = text.replace("\r", "\n").replace("\n", " <eos> ").split()
        assert tokenizer(text).tokens() == [word if word in WORDS else "<unk>" for word in wanted], hex(i)
    text = " w3\u3000café\r\n don't strange\n\nw5"
    found = tokenizer(text, return_offsets_mapping=True)
    assert found.tokens() == ["w3", "café", "<eos>", "don't", "<unk>", "<eos>", "<eos>", "w5"]
    words = [text[start:end] for start, end in found["offset_mapping"]]
    assert [word.strip() for word in words] == ["w3", "café", "", "don't", "strange", "", "", "w5"]
    assert tokenizer("<eos>w1 w2<eos>").tokens() == ["<eos>", "w1", "w2", "<eos>"]
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<eos>"


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("kind", ["bpe", "unigram", "words"])
def test_the_tokenizer_of_a_text_of_ones_own(kind, lower, tmp_path):
    """The same ids as ours, and from there back; ends of lines are <eos>."""
    lines = ["Der Hund sieht die Katze.", "die Katze\tsieht  ihn nicht", "Привет, мир!", "世界 <eos> x"]
    cut = TOKENIZERS[kind].train(lines * 5, 290, lower)
    words = [*dict.fromkeys(token for line in cut.cut(lines) for token in line), EOS] if kind == "words" else [
        *cut.known(), EOS]
    _, contents = contents_of()
    contents.update(vocabulary=[word for i, word in enumerate(words) if word not in words[:i]], tokenizer=cut.state())
    model = build(contents["settings"], len(contents["vocabulary"]))
    contents.update(model=model.state_dict(), criterion={})
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    tokenizer = load(tmp_path / "out")[1]
    text = "\n".join(lines[:3]) + "\n"
    wanted = [contents["vocabulary"].index(token) for line in cut.cut(lines[:3]) for token in (*line, EOS)]
    assert tokenizer(text)["input_ids"] == wanted
    if kind != "words":
        assert tokenizer.decode(tokenizer(lines[0])["input_ids"]) == (lines[0].lower() if lower else lines[0])
    back = settings.contents_of(*hf.read(str(tmp_path / "out"), None), "out")
    assert back["vocabulary"] == contents["vocabulary"] and back["tokenizer"] == contents["tokenizer"]


def test_characters_are_refused_by_name(tmp_path):
    model, contents = contents_of()
    words = [visible(chr(256 + i).encode()) for i in range(len(contents["vocabulary"]))]
    with pytest.raises(InputError, match="chars"):
        hf.write({**contents, "vocabulary": words, "tokenizer": {"kind": "chars", "lower": False}}, model.state_dict(),
                 str(tmp_path / "out"), None)


def test_without_unk_an_unknown_word_is_an_error(tmp_path):
    model, contents = contents_of(["<eos>", "a", "b"])
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    tokenizer = load(tmp_path / "out")[1]
    assert tokenizer("a b\n").tokens() == ["a", "b", "<eos>"]
    with pytest.raises(Exception, match="unk|UNK"):
        tokenizer("a c")


ALONE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
theirs = AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained("out", trust_remote_code=True)
assert not {"model", "cells", "interchange", "data"} & set(sys.modules)
text, wanted = json.load(open("wanted.json"))
given = tokenizer(text, return_tensors="pt")
with torch.no_grad():
    assert (theirs(**given).logits.log_softmax(-1)[0] - torch.tensor(wanted)).abs().max() < 1e-5
assert theirs.generate(**given, max_new_tokens=4, eos_token_id=None).size(1) == given["input_ids"].size(1) + 4
print("the same")
"""


def test_in_a_process_without_this_project(tmp_path):
    model, contents = contents_of(cutoffs=[6, 15])
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    wanted = logprobs(model, [WORDS.index(word) for word in TEXT.split()])[0]
    (tmp_path / "wanted.json").write_text(json.dumps([TEXT, wanted.tolist()]))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


MINICONS = """
import json
from minicons import scorer
from transformers import AutoModelForCausalLM, AutoTokenizer
lines = open("text.txt").read().splitlines()
tokenizer = AutoTokenizer.from_pretrained("out", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True)
model = scorer.IncrementalLMScorer(model, "cpu", tokenizer=tokenizer)
found = model.token_score(lines, bos_token=True, eos_token=True, surprisal=True)
print(json.dumps([pair for line in found for pair in line[1:]]))
"""


@pytest.mark.slow
def test_minicons_scores_as_evaluate_does(trained, tmp_path, own_packages):
    env = own_packages("minicons", "minicons wonderwords accelerate", "pillow pandas psutil pyyaml")
    (tmp_path / "text.txt").write_text("w1 w8 w27 w3\nw5\nw4 w29 w2\n")
    model = ["--checkpoint", trained / "toy.pt", "--device", "cpu"]
    run_script("evaluate.py", *model, "--text", "text.txt", "--context", "reset", "--per-token", "found.json",
               "--format", "json", cwd=tmp_path)
    run_script("export.py", *model[:2], "--to", "hf", "out", cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "found.json").read_text().splitlines()]
    done = subprocess.run([sys.executable, "-c", MINICONS], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [word for word, _ in found] == [row["word"] for row in rows] and len(rows) == 11
    assert [score for _, score in found] == pytest.approx([-row["logprob"] for row in rows], abs=1e-4)


@pytest.mark.parametrize(("name", "change", "says"), [
    ("config.json", {"model_type": "gpt2"}, "model_type"), ("config.json", {"cell": "QRNN"}, "out"),
    ("config.json", {"nhid": 10}, "weight"), ("config.json", {"nhid": "wide"}, "--nhid"),
    ("config.json", {"nlayers": 3}, "layers"), ("config.json", {"cutoffs": "x"}, "--cutoffs"),
    ("config.json", {"words_seen": "many"}, "words_seen"), ("config.json", {"settings": {"wdrop": 7}}, "--wdrop"),
    ("config.json", {"settings": 3, "emsize": None}, "--emsize"), ("tokenizer.json", {"model": 3}, "tokenizer.json"),
    ("tokenizer.json", {"model": {"vocab": {"a": 0, "b": 2}}}, "tokenizer.json"), ("config.json", None, "config.json"),
    ("model.safetensors", b"junk" * 9, "model.safetensors"), ("model.safetensors", None, "model.safetensors"),
    ("config.json", b"{", "config.json"), ("config.json", b"[1]", "config.json")])
def test_a_bad_folder_is_refused_in_one_line(name, change, says, tmp_path):
    model, contents = contents_of()
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    file = tmp_path / "out" / name
    if change is None:
        file.unlink()
    elif isinstance(change, bytes):
        file.write_bytes(change)
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=says):
        export.main(["--from", "hf", str(tmp_path / "out"), "--save", str(tmp_path / "new.pt")])
    assert not (tmp_path / "new.pt").exists()
