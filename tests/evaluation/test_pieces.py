"""Scores of words out of those of the pieces that a tokenizer cut them into."""
import pytest

from corpus.tokens import EOS
from corpus.vocabulary import TOKENIZERS
from evaluation.pieces import whole_words, word_index
from evaluation.scoring import Scores
from evaluation.text import Text

LINES = ["the  cat sat.", " on\u3000the mat ", "", "Привет, мир", " ", "x\t\t"]


@pytest.mark.parametrize("kind", ["chars", "bpe", "unigram"])
def test_words_are_what_stands_between_white_space(kind):
    if kind != "chars":
        pytest.importorskip("tokenizers")
    tokenizer = TOKENIZERS[kind].train(LINES * 5, 300, False)
    cut = list(tokenizer.cut(LINES))
    pieces = [token for line in cut for token in (*line, EOS)]
    ends = [end for line in cut for end in (*[False] * len(line), True)]
    logprobs = [-float(i + 1) for i in range(len(pieces))]
    text = Text("text", pieces, ends, [i == 2 for i in range(len(pieces))], [], tokenizer=tokenizer)
    joined, scores = whole_words(text, Scores(logprobs, None, logprobs))

    expected = [word for line in LINES for word in (*line.split(), EOS)]
    assert joined.words == expected                         # white space at a line's end is read with its <eos>
    assert sum(scores.logprobs) == sum(logprobs) and len(scores.logprobs) == len(joined.words) == len(joined.ends)
    assert [word for word, end in zip(joined.words, joined.ends) if end] == [EOS] * len(LINES)
    first = sum(word_index(pieces)[i] == 0 for i in range(len(pieces)))
    assert scores.logprobs[0] == sum(logprobs[:first]) and scores.entropies[0] == logprobs[0]
    assert joined.unknown[0] == (first > 2)


def test_words_stay_as_they_are():
    text = Text("text", ["a", EOS], [False, True], [False, False], [])
    scores = Scores([-1.0, -2.0], None, None)
    assert whole_words(text, scores) == (text, scores)


def test_a_newline_is_a_word_of_its_own():
    split = TOKENIZERS["words"](split="ptb")
    assert split.word_numbers(["I don't.", "", "no"]) == [0, 1, 1, 1, 2, 3, 4, 5]
    assert split.word_numbers([""]) == [0]
