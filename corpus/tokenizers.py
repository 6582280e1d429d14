"""Text ↔ tokens: the interface of all tokenizers, and those that need not learn: words and characters."""

import codecs
from functools import cache

from corpus.tokens import EOS, SPACE, UNK, data_of, escaped, visible
from corpus.word_parts import WORD_SPLITS, parts
from runtime.errors import InputError

LONGEST_WORD = 1_000_000  # characters; anything longer is no tokenised text


class Tokenizer:
    """Cuts the lines of a text into tokens.

    name: in the registry. complete: whether all texts are made of tokens that it knows, so that there is no <unk>.
    lower: whether text is put into lower case first. separator: what stands between two tokens of a line.
    """
    name, complete, separator = "", False, ""

    def __init__(self, lower=False):
        self.lower = lower

    @classmethod
    def train(cls, lines, size, lower):
        """The tokenizer for a text -> Tokenizer. size: of the vocabulary, <eos> included, where it is learnt."""
        return cls(lower)

    def cut(self, lines):
        """Yield the tokens of each line, a list; the line's end is not among them."""
        for line in lines:
            yield self.cut_line(line.lower() if self.lower else line)

    def encode(self, text):
        """The tokens of a text, <eos> for every newline -> list."""
        tokens = []
        for line in self.cut(text.split("\n")):
            tokens += [*line, EOS]
        return tokens[:-1]  # as many newlines as there are between the lines

    def pieces(self, tokens):
        """Yield what each of the tokens adds to the text; a character that several make comes with the last of them.

        All together are the text that was encoded, but for words and lower case.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if token in (EOS, UNK):
                yield decoder.decode(b"", final=True) + ("\n" if token == EOS else UNK)
            else:
                yield decoder.decode(data_of(token))
        yield decoder.decode(b"", final=True)

    def show(self, tokens):
        """Tokens as one line to be read."""
        data = b"".join(token.encode() if token == UNK else data_of(token) for token in tokens if token != EOS)
        return escaped(data).replace(SPACE, " ")

    def known(self):
        """All its tokens, where it is `complete` -> list."""

    def state(self):
        """What `restore_tokenizer` makes the same tokenizer of: plain data."""
        return {"kind": self.name, "lower": self.lower}


class Words(Tokenizer):
    """What stands between white space. How much white space there was is lost."""
    name, separator = "words", " "

    def __init__(self, lower=False, split="none"):
        super().__init__(lower)
        if split not in WORD_SPLITS:
            raise ValueError(split)
        self.split = split

    @classmethod
    def train(cls, lines, size, lower, split="none"):
        return cls(lower, split)

    def cut_line(self, line):
        words = line.split()
        if len(line) > LONGEST_WORD and max(map(len, words), default=0) > LONGEST_WORD:
            raise too_long()
        return words if self.split == "none" else [part for word in words for part in parts(word, self.split)]

    def word_numbers(self, lines):
        """The number of the word between white space, from 0 on, that each token of some lines, with an <eos> behind
        each of them, is a part of -> list; <eos> is a word."""
        numbers, first = [], 0
        for line in lines:
            words = (line.lower() if self.lower else line).split()
            numbers += [first + i for i, word in enumerate(words) for _ in parts(word, self.split)]
            numbers.append(first + len(words))
            first = numbers[-1] + 1
        return numbers

    def state(self):
        return {**super().state(), **({"split": self.split} if self.split != "none" else {})}

    def pieces(self, tokens):
        for token in tokens:
            yield token + ("\n" if token == EOS else self.separator)

    def show(self, tokens):
        return " ".join(tokens)


def too_long():
    return InputError(f"a word of more than {LONGEST_WORD:,} characters; put white space between the words")


class Characters(Tokenizer):
    """Every character of Unicode is a token."""
    name = "chars"

    def cut_line(self, line):
        return [_character(c) for c in line]


@cache
def _character(character):
    return visible(character.encode())
