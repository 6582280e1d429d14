"""Scores of words out of those of the pieces that they were read in."""
from itertools import accumulate, groupby

from corpus.tokenizers import Words
from corpus.tokens import data_of
from data import EOS, UNK
from evaluation.scoring import Scores


def word_index(tokens):
    """The number of the word, between white space, that each of `tokens` (N,) is a piece of, from 0 on -> list.

    White space belongs to the word after it; <eos> is a word.
    """
    index, number, blank = [], -1, False                 # blank: whether the last word is white space so far
    for ends, line in groupby(tokens, lambda token: token == EOS):
        parts = [b"" if ends else bytes_of(token) for token in line]
        data = b"".join(parts)
        of_byte, starts = list(_word_of_each_byte(data)), accumulate(map(len, parts), initial=0)
        numbers = range(-blank, len(parts) - blank) if ends else [of_byte[start] for start, _ in zip(starts, parts)]
        blank = not ends and numbers[-1] == of_byte[-1] and data.decode(errors="replace")[-1].isspace()
        index += [number + 1 + number_in_line for number_in_line in numbers]
        number = index[-1]
    return index


def bytes_of(token):
    """The bytes of the text that a token stands for; of <unk> and <eos> those of their names."""
    return token.encode() if token in (EOS, UNK) else data_of(token)


def _word_of_each_byte(data):
    number, before = 0, ""
    for i, character in enumerate(data.decode("utf-8", "surrogateescape")):
        number += bool(i) and character.isspace() and not before.isspace()
        before = character
        yield from [number] * len(character.encode("utf-8", "surrogateescape"))


def whole_words(text, scores):
    """A `Text` of any tokenizer with its `Scores`, lists (N,) -> the same of the words between white space."""
    if isinstance(text.tokenizer, Words):
        return text, scores
    index = word_index(text.words)
    pieces = (map(text.words.__getitem__, group) for _, group in groupby(range(len(index)), index.__getitem__))
    words = [b"".join(map(bytes_of, word_pieces)).decode("utf-8", "replace").strip() for word_pieces in pieces]
    return join_pieces(text._replace(tokenizer=Words()), scores, index, words)


def typed_words(text, scores):
    """A `Text` with its `Scores`, lists (N,) -> the same of the words as they were typed, where those were split."""
    if text.written is None:
        return text, scores
    (index, words), text = text.written, text._replace(written=None)
    return (text._replace(words=words), scores) if len(words) == len(index) else join_pieces(text, scores, index, words)


def join_pieces(text, scores, index, words):
    """A `Text` of pieces with their `Scores`, lists (N,) -> a Text and Scores of its words.

    index (N,): the number of each piece's word, from 0 on, never falling; `words`: what each of them is written as. By
    the chain rule a word's log-probability is the sum of its pieces'. Its entropy is that of its first piece's
    distribution: what is open before anything of the word is read. It has no rank, since no distribution over words was
    made. It is unknown where a piece of it is, and ends a line where its last piece does.
    """
    groups = [list(pieces) for _, pieces in groupby(range(len(index)), index.__getitem__)]
    joined = Scores([sum(scores.logprobs[i] for i in pieces) for pieces in groups], None,
                    scores.entropies and [scores.entropies[pieces[0]] for pieces in groups])
    return text._replace(words=words, ends=[text.ends[pieces[-1]] for pieces in groups],
                         unknown=[any(text.unknown[i] for i in pieces) for pieces in groups]), joined
