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
from corpus.tokens import EOS, UNK  # noqa: E402
from corpus.vocabulary import TOKENIZERS  # noqa: E402
from interchange import hf, settings  # noqa: E402
from model import build  # noqa: E402
from runtime.errors import InputError  # noqa: E402

TEXT = "w3 w1 <unk> café w9 w20 w2"


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, tmp_path_factory):
    """Our model, and the same as transformers read it in the folder `name_or_path`, with its tokenizer."""
    model, contents = contents_of(**SHAPES[request.param])
    out = tmp_path_factory.mktemp("hf") / "out"
    hf.write(contents, model.state_dict(), str(out), 1_400_000)
    return model, contents, *load(out)


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
            expected, features = logprobs(model, given["input_ids"][row][mask].tolist())
            found = out.logits[row][mask].log_softmax(-1)
            assert torch.allclose(found[:, :-1], expected, atol=1e-5) and (found[:, -1] < -1000).all()  # the padding's
            assert torch.allclose(out.hidden_states[-1][row][mask], features, atol=1e-5)
    if theirs.softmax is not None:                                # they are log-probabilities already
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


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}])
def test_generating_reads_every_token_once(how, pair):
    """And does not begin anew for each word, under whatever name transformers hand the state on."""
    _, _, theirs, tokenizer = pair
    read = []
    hook = theirs.get_input_embeddings().register_forward_hook(lambda module, args, out: read.append(args[0].size(1)))
    theirs.generate(**batch(tokenizer, "left"), max_new_tokens=5, do_sample=False, eos_token_id=None, **how)
    hook.remove()
    assert read == [7, 1, 1, 1, 1]


def test_the_network_without_a_head(pair):
    """As AutoModel reads it: features, of the width that the configuration says."""
    model, _, theirs, tokenizer = pair
    bare = transformers.AutoModel.from_pretrained(theirs.name_or_path, trust_remote_code=True).eval()
    assert bare.config.hidden_size == model.nhidlast and bare.config.num_hidden_layers == model.nlayers
    assert bare.config.vocab_size == len(tokenizer) == bare.get_input_embeddings().num_embeddings
    given = batch(tokenizer, "right")
    with torch.no_grad():
        found = bare(**given, output_hidden_states=True)
        assert torch.equal(found.last_hidden_state, theirs(**given, output_hidden_states=True).hidden_states[-1])
    assert found.last_hidden_state.shape == (3, 7, bare.config.hidden_size)
    assert torch.allclose(found.last_hidden_state[0], logprobs(model, given["input_ids"][0].tolist())[1], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_classifier_reads_the_last_step_that_is_no_padding(side, pair, tmp_path):
    model, _, theirs, tokenizer = pair
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        theirs.name_or_path, trust_remote_code=True, num_labels=3)
    given = batch(tokenizer, side)
    out = theirs(**given, labels=torch.tensor([2, 0, 1]))
    expected = torch.stack([logprobs(model, given["input_ids"][row][mask].tolist())[1][-1]
                            for row, mask in enumerate(given["attention_mask"].bool())])              # (3, F)
    expected = torch.nn.functional.linear(expected, theirs.score.weight, theirs.score.bias)
    assert torch.allclose(out.logits, expected, atol=1e-5)
    unmasked = theirs(given["input_ids"]).logits                                     # padding is known by its token
    assert torch.allclose(unmasked, out.logits, atol=1e-6)
    theirs.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.allclose(again(**given).logits, out.logits, atol=1e-6)
    loss = -expected.double().log_softmax(-1)[range(3), [2, 0, 1]].mean()
    assert out.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in theirs.parameters())


def test_a_classifier_of_tokens(pair):
    model, _, theirs, tokenizer = pair
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(
        theirs.name_or_path, trust_remote_code=True, num_labels=4)
    given = batch(tokenizer, "left")
    labels = (given["input_ids"] % 4).masked_fill(given["attention_mask"] == 0, -100)
    out, terms = theirs(**given, labels=labels), []
    for row, mask in enumerate(given["attention_mask"].bool()):
        features = logprobs(model, given["input_ids"][row][mask].tolist())[1]
        expected = torch.nn.functional.linear(features, theirs.score.weight, theirs.score.bias)
        assert torch.allclose(out.logits[row][mask], expected, atol=1e-5)
        terms += (-expected.double().log_softmax(-1)).gather(1, labels[row][mask][:, None]).flatten().tolist()
    assert out.loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_masks_for_every_step(pair):
    """(B, T, S), as BabyLM's fine-tuning makes them of a batch's mask, and (B, 1, T, S)."""
    _, _, theirs, tokenizer = pair
    for side in ("left", "right"):
        given = batch(tokenizer, side)
        mask, expected = given["attention_mask"], theirs(**given).logits
        causal = mask[:, None].repeat(1, mask.size(1), 1).tril()
        for shape in (causal, causal[:, None], causal.bool(), causal.float()):
            assert torch.equal(theirs(given["input_ids"], shape).logits, expected)
        for shape, says in ((mask[:, 1:], "shape"), (mask[0], "shape"), ((1.0 - causal) * -1e9, "negative")):
            with pytest.raises(ValueError, match=says):
                theirs(given["input_ids"], shape)


def test_a_text_without_tokens(pair):
    """It changes no state and gives nothing; generation has nothing to go on from, and says so."""
    model, _, theirs, tokenizer = pair
    empty = tokenizer("", return_tensors="pt")
    out = theirs(**empty)
    assert out.logits.shape == (1, 0, len(WORDS) + 1)
    past = theirs(**tokenizer("w1 w2", return_tensors="pt")).past_key_values
    again = theirs(torch.zeros(1, 0, dtype=torch.long), past_key_values=past).past_key_values
    ids = tokenizer("w3", return_tensors="pt")["input_ids"]
    expected = logprobs(model, [*tokenizer("w1 w2")["input_ids"], ids.item()])[0][-1]
    assert torch.allclose(theirs(ids, past_key_values=again).logits[0, -1].log_softmax(-1)[:-1], expected, atol=1e-5)
    with pytest.raises(ValueError, match="at least one token"):
        theirs.generate(torch.zeros(1, 0, dtype=torch.long), max_new_tokens=2)


def test_a_step_with_its_state_as_an_exported_program(pair):
    """torch.export takes the state; one program serves a text of any length."""
    model, _, theirs, _ = pair
    ids = [3, 0, 7, 7, 20]
    with torch.no_grad():
        past = theirs(torch.tensor([ids[:1]])).past_key_values
        program = torch.export.export(theirs, (torch.tensor([ids[1:2]]),), {"past_key_values": past}).module()
        found = []
        for i in ids[1:]:
            out = program(torch.tensor([[i]]), past_key_values=past)
            found.append(out.logits[0, 0].log_softmax(-1)[:-1])
            past = out.past_key_values
    assert torch.allclose(torch.stack(found), logprobs(model, ids)[0][1:], atol=1e-5) and past.get_seq_length() == 5


def test_padding_is_no_end_of_a_line(pair):
    """The usual collator takes the padding out of the labels, and leaves every <eos> there."""
    model, _, theirs, tokenizer = pair
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    tokenizer.padding_side = "right"
    given = collate([tokenizer(text) for text in ("w1 w2\nw3\n", "w4\n")])
    assert given["labels"].tolist() == [[*tokenizer("w1 w2\nw3\n")["input_ids"]],
                                        [*tokenizer("w4\n")["input_ids"], -100, -100, -100]]
    terms = []
    for text in ("w1 w2\nw3\n", "w4\n"):
        ids = tokenizer(text)["input_ids"]
        terms += [-row[i].item() for row, i in zip(logprobs(model, ids)[0], ids[1:])]
    assert theirs(**given).loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_a_corpus_with_a_word_that_is_called_pad(tmp_path):
    words = [*WORDS[:-1], "<pad>"]
    model, contents = contents_of(words)
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    theirs, tokenizer = load(tmp_path / "out")
    assert tokenizer("w1 <pad>")["input_ids"] == [words.index("w1"), len(words) - 1]
    assert tokenizer.pad_token_id == len(words) == theirs.config.pad_token_id
    assert settings.contents_of(*hf.read(str(tmp_path / "out"), None), "out")["vocabulary"] == words


@pytest.mark.parametrize("kind", ["words", "chars"])
def test_a_pipeline_puts_a_space_before_what_it_writes(kind, tmp_path):
    """Of a model of words; one of characters writes its spaces itself."""
    words = WORDS if kind == "words" else ["<eos>", "<unk>", *(chr(97 + i) for i in range(22)), "▁"]
    model, contents = contents_of(words)
    contents["tokenizer"] = TOKENIZERS[kind]().state()
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    theirs, tokenizer = load(tmp_path / "out")
    write = transformers.pipeline("text-generation", model=theirs, tokenizer=tokenizer)
    prompt = "w1 don't" if kind == "words" else "ab a"
    found = write(prompt, max_new_tokens=5, do_sample=False, eos_token_id=None)[0]["generated_text"]
    ids = tokenizer(prompt)["input_ids"]
    for _ in range(5):
        ids.append(logprobs(model, ids)[0][-1].argmax().item())
    new = [words[i] for i in ids[-5:] if words[i] != "<eos>"]
    assert found == prompt + ("".join(f" {word}" for word in new) if kind == "words" else
                              "".join(new).replace("▁", " "))


def test_back_bit_for_bit_also_through_save_pretrained(pair, tmp_path):
    _, contents, theirs, tokenizer = pair
    theirs.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    for folder in (theirs.name_or_path, str(tmp_path / "again")):
        found = settings.contents_of(*hf.read(folder, None), folder)
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
    assert tokenizer.is_fast and len(tokenizer) == len(WORDS) + 1
    assert [tokenizer.convert_tokens_to_ids(word) for word in WORDS] == list(range(len(WORDS)))
    for i in [*range(1, 0xd800), *range(0xe000, 0x11000), *range(0x1f300, 0x1f400), 0xe0001]:
        text = f"w1{chr(i)}w2"
        expected = text.replace("\r", "\n").replace("\n", " <eos> ").split()
        assert tokenizer(text).tokens() == [word if word in WORDS else "<unk>" for word in expected], hex(i)
    text = " w3\u3000café\r\n don't strange\n\nw5"
    found = tokenizer(text, return_offsets_mapping=True)
    assert found.tokens() == ["w3", "café", "<eos>", "don't", "<unk>", "<eos>", "<eos>", "w5"]
    words = [text[start:end] for start, end in found["offset_mapping"]]
    assert [word.strip() for word in words] == ["w3", "café", "", "don't", "strange", "", "", "w5"]
    assert tokenizer("<eos>w1 w2<eos>").tokens() == ["<eos>", "w1", "w2", "<eos>"]
    assert tokenizer.bos_token == tokenizer.eos_token == "<eos>" and tokenizer.pad_token == "<pad>"


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("kind", ["bpe", "unigram", "words", "chars"])
def test_the_tokenizer_of_a_text_of_ones_own(kind, lower, tmp_path):
    """The same ids as ours, and from there back; ends of lines are <eos>. Of chars some are unknown."""
    lines = ["Der Hund sieht die Katze.", "die Katze\tsieht  ihn nicht", "Привет, мир!", "世界 <eos> x"]
    cut = TOKENIZERS[kind].train(lines * 5, 290, lower)
    read = [token for line in cut.cut(lines[:1] if kind == "chars" else lines) for token in line]
    words = [*cut.known(), EOS] if cut.complete else [*dict.fromkeys(read), UNK, EOS]
    _, contents = contents_of()
    contents.update(vocabulary=[word for i, word in enumerate(words) if word not in words[:i]], tokenizer=cut.state())
    model = build(contents["settings"], len(contents["vocabulary"]))
    contents.update(model=model.state_dict(), criterion={})
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    tokenizer = load(tmp_path / "out")[1]
    text = "\n".join(lines[:3]) + "\n"
    ids = {word: i for i, word in enumerate(contents["vocabulary"])}
    expected = [ids[token] if token in ids else ids[UNK] for line in cut.cut(lines[:3]) for token in (*line, EOS)]
    assert tokenizer(text)["input_ids"] == expected
    if kind != "words":
        assert tokenizer.decode(tokenizer(lines[0])["input_ids"]) == (lines[0].lower() if lower else lines[0])
    back = settings.contents_of(*hf.read(str(tmp_path / "out"), None), "out")
    assert back["vocabulary"] == contents["vocabulary"] and back["tokenizer"] == contents["tokenizer"]


def test_a_folder_of_an_earlier_version(tmp_path):
    """Without a token of padding, the network without a name of its own, and with the settings that there were."""
    model, contents = contents_of(tied=False)
    hf.write(contents, model.state_dict(), str(tmp_path), None)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("gate", "rhn_depth", "mogrifier_rounds", "mogrifier_rank", "mixtures"):
        del config[name]
    config.update(vocab_size=len(WORDS), pad_token_id=0,
                  settings={name: value for name, value in config["settings"].items() if name != "forget_bias"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    hf.packages()[0].save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert same_model(settings.contents_of(*hf.read(str(tmp_path), None), "old"), contents)


def test_without_unk_an_unknown_word_is_an_error(tmp_path):
    model, contents = contents_of(["<eos>", "a", "b"])
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    tokenizer = load(tmp_path / "out")[1]
    assert tokenizer("a b\n").tokens() == ["a", "b", "<eos>"]
    with pytest.raises(Exception, match="unk|UNK"):
        tokenizer("a c")


def test_a_tokenizer_that_puts_the_end_of_a_line_before_a_text(tmp_path):
    """So that a loss over the text is that of all its words, as with `--context reset`."""
    model, contents = contents_of()
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None, prepend_eos=True)
    theirs, tokenizer = load(tmp_path / "out")
    ids = [WORDS.index(word) for word in TEXT.split()]
    given = tokenizer(TEXT, return_tensors="pt")
    assert given["input_ids"].tolist() == [[0, *ids]]
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == ids
    assert tokenizer("w1", "w2")["input_ids"] == [0, WORDS.index("w1"), 0, WORDS.index("w2")]
    scores = logprobs(model, [0, *ids])[0][:-1].gather(1, torch.tensor(ids)[:, None])
    assert theirs(**given, labels=given["input_ids"]).loss.item() == pytest.approx(-scores.mean().item(), rel=1e-5)
    tokenizer.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(TEXT)["input_ids"] == [0, *ids]
    assert again.decode([0, *ids]).split() == ["<eos>", *TEXT.split()]
    back = settings.contents_of(*hf.read(str(tmp_path / "out"), None), "out")
    assert same_model(back, contents)
    model, contents = contents_of(["a", "b"])
    with pytest.raises(InputError, match="--prepend-eos"):
        hf.write(contents, model.state_dict(), str(tmp_path / "none"), None, prepend_eos=True)


ALONE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
theirs = AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained("out", trust_remote_code=True)
assert not {"model", "cells", "interchange", "data"} & set(sys.modules)
text, expected = json.load(open("expected.json"))
given = tokenizer(text, return_tensors="pt")
with torch.no_grad():
    assert (theirs(**given).logits.log_softmax(-1)[0, :, :-1] - torch.tensor(expected)).abs().max() < 1e-5
assert theirs.generate(**given, max_new_tokens=4, eos_token_id=None).size(1) == given["input_ids"].size(1) + 4
print("the same")
"""


def test_in_a_process_without_this_project(tmp_path):
    model, contents = contents_of(cutoffs=[6, 15])
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    expected = logprobs(model, [WORDS.index(word) for word in TEXT.split()])[0]
    (tmp_path / "expected.json").write_text(json.dumps([TEXT, expected.tolist()]))
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
    ("config.json", {"model_type": "gpt2"}, "model_type"),
    ("config.json", {"architectures": ["AWDLSTMForSequenceClassification"]}, "AWDLSTMForSeq.*AutoModelForCausalLM"),
    ("config.json", {"architectures": 3}, "architectures are 3"), ("config.json", {"cell": "QRNN"}, "out"),
    ("config.json", {"nhid": 10}, "weight"), ("config.json", {"nhid": "wide"}, "--nhid"),
    ("config.json", {"nlayers": 3}, "layers"), ("config.json", {"cutoffs": "x"}, "--cutoffs"),
    ("config.json", {"words_seen": "many"}, "words_seen"), ("config.json", {"settings": {"wdrop": 7}}, "--wdrop"),
    ("config.json", {"settings": 3, "emsize": None}, "--emsize"), ("tokenizer.json", {"model": 3}, "tokenizer.json"),
    ("tokenizer.json", {"model": {"vocab": {"a": 0, "b": 2}}}, "tokenizer.json"), ("config.json", None, "config.json"),
    ("model.safetensors", b"junk" * 9, "model.safetensors"), ("model.safetensors", None, "model.safetensors"),
    ("config.json", b"{", "config.json"), ("config.json", b"[1]", "config.json"),
    ("config.json", b'{"model_type": "awd_lstm"}', "--model")])
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


@pytest.fixture
def sharded(tmp_path):
    """A folder that transformers wrote with the weights in several files, and the checkpoint that it is of."""
    model, contents = contents_of()
    hf.write(contents, model.state_dict(), str(tmp_path / "out"), None)
    theirs, tokenizer = load(tmp_path / "out")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="1KB")
    tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("model-0*.safetensors"))) > 1
    return tmp_path / "shards", contents


def test_weights_in_several_files(sharded):
    folder, contents = sharded
    assert same_model(settings.contents_of(*hf.read(str(folder), None), "shards"), contents)


@pytest.mark.parametrize(("weight_map", "says"), [
    ({"a": "../out/model.safetensors"}, "folder"), ({"a": "/etc/passwd"}, "folder"),
    ({"a": "x\ud800.safetensors"}, "folder"), ({"a": "config.json"}, "folder"),
    ({"a": "model-9.safetensors"}, "model-9.*missing"), ({"a": 3}, "weight_map"), ({}, "weight_map"),
    (["a"], "weight_map"), (None, "index.json: is not JSON"),
    ("a tensor more", "says something else"), ("a tensor less", "says something else")])
def test_a_bad_index_is_refused_in_one_line(weight_map, says, sharded, tmp_path):
    folder, _ = sharded
    index = folder / hf.INDEX
    given = json.loads(index.read_text())
    if isinstance(weight_map, str):
        name, file = next(iter(given["weight_map"].items()))
        weight_map = {**given["weight_map"], "b": file} if "more" in weight_map else {
            other: file for other, file in given["weight_map"].items() if other != name}
    index.write_text("{" if weight_map is None else json.dumps({**given, "weight_map": weight_map}))
    with pytest.raises(InputError, match=says):
        export.main(["--from", "hf", str(folder), "--save", str(tmp_path / "new.pt")])
    assert not (tmp_path / "new.pt").exists()
