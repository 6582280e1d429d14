"""Tokenizers, vocabularies and reading text: what goes in comes out, whatever it is; and nothing else is restored."""
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import reading, subwords
from corpus.subwords import BPE
from corpus.tokenizers import Characters, Words
from corpus.tokens import EOS, UNK, data_of, visible
from corpus.vocabulary import TOKENIZERS, restore_tokenizer
from runtime.errors import InputError

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
ODD = ("a  b\t c \u00a0\u2028\u3000d\x0b\x1c\x85", "▁ ▁▁", "⟨09⟩ ⟨⟩⟨", "<eos> <unk>", "<eos>", "<unk>", "", "\n",
       "\n\n a\n", "\ufeffa\ufeff", "\r\r\n", "Съешь же ещё этих мягких булок", "天地玄黃，宇宙洪荒。",
       "\U0001f469\u200d\U0001f467 e\u0301", "\x7f\x01\x9f", " " * 70, "x" * 200,
       "word " * 20_000, "天" * 70_000)  # these two are of several chunks
TRAINING = ["the cat sat on the mat", "Съешь же ещё этих мягких французских булок", "天地玄黃 宇宙洪荒",
            "the hat  of the rat"]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def learnt(request):
    pytest.importorskip("tokenizers")
    return TOKENIZERS[request.param].train(TRAINING, 300, False)


def everything(tokenizer, text):
    """The tokens of a text, after what must be true of them for any."""
    tokens = tokenizer.encode(text)
    assert "".join(tokenizer.pieces(tokens)) == text
    assert " ".join(tokens).split() == tokens  # as the reader of a tokenised text finds them
    assert tokens.count(EOS) == text.count("\n") and UNK not in tokens
    return tokens


# ---- bytes ↔ token


@given(st.binary())
def test_any_bytes_are_a_visible_token_and_back(data):
    token = visible(data)
    assert data_of(token) == data and len(token.split()) == bool(data)
    assert not any(c.isspace() or unicodedata.category(c) == "Cc" for c in token) and token not in (EOS, UNK)


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_two_sequences_of_bytes_are_two_tokens(first, second):
    assert (visible(first) == visible(second)) == (first == second)


def test_what_tokens_look_like():
    shown = {" the": "▁the", "булок": "булок", "\t": "⟨09⟩", "▁": "⟨E29681⟩", "⟨": "⟨E29FA8⟩", "\ufeff": "⟨EFBBBF⟩"}
    assert {text: visible(text.encode()) for text in shown} == shown
    assert visible("天".encode()[:2]) == "⟨E5⟩⟨A4⟩"


# ---- text ↔ tokens


@given(texts)
def test_characters_give_any_text_back(text):
    tokens = everything(Characters(), text)
    assert len(tokens) == len(text)


@given(text=texts)
def test_learnt_pieces_give_any_text_back(learnt, text):
    everything(learnt, text)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_come_back(text):
    everything(Characters(), text)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_come_back_from_pieces(text, learnt):
    everything(learnt, text)


@given(texts)
def test_words_are_those_between_white_space(text):
    expected = " <eos> ".join(text.split("\n")).split()
    assert Words().encode(text) == expected


def test_bpe_merges_what_is_frequent():
    pytest.importorskip("tokenizers")
    tokenizer = BPE.train(["ab ab ab ab cd", "ab cd"], 259, False)
    assert tokenizer.merges[0] == ("a", "b") and tokenizer.encode("ab abc") == ["ab", "▁ab", "c"]
    naive = [["a", "b"], ["▁", "a", "b", "c"]]  # the merges applied one by one
    for first, second in tokenizer.merges:
        for word in naive:
            for i in reversed(range(len(word) - 1)):
                if word[i:i + 2] == [first, second]:
                    word[i:i + 2] = [first + second]
    assert [token for word in naive for token in word] == tokenizer.encode("ab abc")


def test_chunks_cut_no_word(learnt, monkeypatch):
    text = "the  cat sat " * 30 + " \t булок " * 20
    whole = learnt.encode(text)
    for chunk in (10, 16, 31):
        monkeypatch.setattr(subwords, "CHUNK", chunk)
        monkeypatch.setattr(subwords, "BATCH", 3 * chunk)
        assert learnt.encode(text) == whole


def test_lower_case(learnt):
    for kind in (Words, Characters):
        assert kind(lower=True).encode("ÄB Жж") == kind().encode("äb жж")
    options = {name: value for name, value in learnt.state().items() if name not in ("kind", "lower")}
    assert type(learnt)(lower=True, **options).encode("THE ЕЩЁ") == learnt.encode("the ещё")


def test_pieces_come_with_the_last_of_their_bytes():
    assert list(Characters().pieces([visible(b"\xd0"), visible(b"\x96"), "a", visible(b"\xe5"), EOS, UNK])) == [
        "", "Ж", "a", "", "�\n", UNK, ""]
    assert "".join(Words().pieces(["a", "b", EOS, "c"])) == "a b <eos>\nc "
    assert Characters().show([*Characters().encode("a\tb c"), UNK, EOS]) == "a⟨09⟩b c<unk>"


# ---- saved and restored


@pytest.mark.parametrize("kind", [Words, Characters])
def test_a_state_is_plain_and_makes_the_same(kind):
    tokenizer = kind(lower=True)
    again = restore_tokenizer(json.loads(json.dumps(tokenizer.state())), ["a", EOS, UNK])
    assert type(again) is kind and again.lower


def test_a_learnt_state_is_plain_and_makes_the_same(learnt):
    again = restore_tokenizer(json.loads(json.dumps(learnt.state())), [*reversed(learnt.known()), EOS])
    text = "the hat, булок 天地玄x"
    assert again.encode(text) == learnt.encode(text)
    vocabulary = [EOS, *sorted(learnt.known())]
    library = learnt.library(vocabulary)  # what an export takes
    ids = library.encode(text).ids
    assert [vocabulary[i] for i in ids] == learnt.encode(text) and library.decode(ids) == text


def test_no_state_is_that_of_words():
    assert type(restore_tokenizer(None, ["a"])) is Words


def bad_states(state):
    """States that differ from a sound one in one thing."""
    yield from ("bpe", 3, [], {}, {"kind": "bert", "lower": False}, {"kind": [], "lower": False})
    yield {**state, "lower": 1}
    yield {**state, "more": 1}
    for name in {"merges", "scores"} & set(state):
        yield {**state, name: state[name][:-1] if name == "merges" else dict(list(state[name].items())[1:])}
        yield {**state, name: 7}
        yield {**state, name: [["a", "b", "c"]]}
        yield {**state, name: [["\ud800", "b"]]}
        yield {**state, name: [*state[name], ["a", "q"]] if name == "merges" else {**state[name], "a": float("nan")}}


def test_a_bad_state_is_refused_in_one_line(learnt):
    vocabulary = [*learnt.known(), EOS]
    restore_tokenizer(learnt.state(), vocabulary)
    for state in bad_states(learnt.state()):
        with pytest.raises(InputError, match="tokenizer"):
            restore_tokenizer(state, vocabulary)
    for other in ([*vocabulary, "more"], vocabulary[1:], [*vocabulary[:-1], "⟨9⟩"]):
        with pytest.raises(InputError, match="tokenizer"):
            restore_tokenizer(learnt.state(), other)


def test_without_the_package_one_is_told_its_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(InputError, match="pip install tokenizers"):
        BPE.train(["a"], 300, False)


def test_too_small_a_vocabulary():
    with pytest.raises(InputError, match="257"):
        BPE.train(["a"], 256, False)


def test_too_long_a_word():
    with pytest.raises(InputError, match="1,000,000"):
        list(Words().cut(["a " + "b" * 1_000_001]))


# ---- files


@given(texts, st.integers(1, 9))
def test_lines_are_those_that_python_finds(tmp_path_factory, text, block):
    file = tmp_path_factory.getbasetemp() / "text"
    file.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        found = list(reading.lines(str(file)))
    expected = list(io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8-sig", newline=None))
    assert found == [line.removesuffix("\n") for line in expected]
    ended = "".join(f"{line}\n" for line in found)
    words = ended.replace("\n", " <eos> ").split()
    assert reading.size_of(found) == {"bytes": len(ended.encode()), "words": len(words)}


def test_too_long_a_line(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x" * 50 + "\n" + "y" * 70)
    monkeypatch.setattr(reading, "LONGEST_LINE", 60)
    monkeypatch.setattr(reading, "BLOCK", 20)
    with pytest.raises(InputError, match="a: a line of more than 60 characters"):
        list(reading.lines(str(tmp_path / "a")))
