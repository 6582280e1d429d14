"""Words as typed -> parts: by hand, and that they always make up the word."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.tokenizers import Words
from corpus.vocabulary import Vocabulary, read_as, restore_tokenizer
from corpus.word_parts import parts
from runtime.errors import InputError

PTB = {"Richard?": "Richard ?", "don't": "do n't", "don\u2019t": "do n\u2019t", "CAN'T": "CA N'T", "cannot": "can not",
       "he's": "he 's", "they're": "they 're", "'s": "'s", "n't": "n't", "Mr.": "Mr.", "U.S.": "U.S.",
       "U.S.-based": "U.S.-based", "end.": "end .", "3.5%": "3.5 %", "$3,000,": "$ 3,000 ,", "(well-known),":
       "( well-known ) ,", '"Yes!"': '" Yes ! "', "wait...": "wait ...", "<unk>": "<unk>", "@-@": "@-@", "--": "--",
       "rock'n'roll": "rock'n'roll", "o'clock": "o'clock", "\u0939\u093f\u0928\u094d\u0926\u0940\u0964":
       "\u0939\u093f\u0928\u094d\u0926\u0940 \u0964", "dogs'": "dogs '", "company's.": "company 's ."}


@pytest.mark.parametrize("word", PTB)
def test_as_penn_treebank_has_them(word):
    assert parts(word, "ptb") == PTB[word].split()


def test_punctuation_alone():
    assert parts("don't", "punctuation") == ["don't"] and parts("(he's!)", "punctuation") == ["(", "he's", "!", ")"]
    assert parts("Mr.", "punctuation") == ["Mr", "."] and parts("a.b,", "none") == ["a.b,"]


@given(st.text(min_size=1).map(lambda text: "".join(text.split())).filter(bool),
       st.sampled_from(["ptb", "punctuation"]))
def test_parts_make_up_the_word(word, split):
    assert "".join(parts(word, split)) == word and all(parts(word, split))


def test_a_tokenizer_of_parts_is_kept_and_numbers_its_words():
    cut = Words(True, "ptb")
    assert cut.cut_line("I don't.".lower()) == ["i", "do", "n't", "."]
    assert cut.word_numbers(["I Don't."]) == [0, 1, 1, 1, 2]
    again = restore_tokenizer(cut.state(), ["i", "<eos>"])
    assert (again.split, again.lower) == ("ptb", True) and "split" not in Words().state()
    with pytest.raises(InputError):
        restore_tokenizer({"kind": "words", "lower": False, "split": "other"}, ["i"])
    assert read_as(Vocabulary(["a"]), "ptb").tokenizer.split == "ptb"
    assert read_as(Vocabulary(["a"], cut), "none").tokenizer.state() == {"kind": "words", "lower": True}
