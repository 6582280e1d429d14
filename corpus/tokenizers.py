"""Text ↔ tokens: words, characters, or learnt pieces of words (BPE, unigram), by name in TOKENIZERS.

A token is a string without white space, so that tokenised text can be a text file. Of all tokenizers but words, a token
stands for bytes of the text: "▁" for a space, and "⟨09⟩" for bytes that could not be seen, here a tab.
"""

import codecs
import json
import math
import re
from functools import cache

from corpus.word_parts import WORD_SPLITS, parts
from runtime.errors import InputError

EOS, UNK = "<eos>", "<unk>"  # the end of a line, and any token that is not in the vocabulary
SPACE = "▁"
LONGEST_WORD = 1_000_000  # characters; anything longer is no tokenised text
CHUNK = 2**16  # characters of a line that are encoded together
BATCH = 2**20  # characters that are encoded at a time
LONGEST_RUN = 32  # characters without white space that a piece is looked for in


# ---- bytes ↔ token


def visible(data):
    """Bytes as a token, of which `data_of` gives them back."""
    token = _escaped(data)
    return f"⟨3C⟩{token[1:]}" if token in (EOS, UNK) else token


def _escaped(data):
    return "".join(map(_shown, data.decode("utf-8", "surrogateescape")))


@cache
def _shown(character):
    if character == " ":
        return SPACE
    if character.isspace() or character in "▁⟨\ufeff" or ord(character) < 32 or 127 <= ord(character) < 160 or (
            0xDC80 <= ord(character) <= 0xDCFF):  # which stands for a byte that is not UTF-8 by itself
        return f"⟨{character.encode('utf-8', 'surrogateescape').hex().upper()}⟩"
    return character


@cache
def data_of(token):
    """The bytes that a token, not <eos> or <unk>, stands for."""
    texts = re.split("⟨([0-9A-F]+)⟩", token)  # text and hexadecimal digits by turns
    return b"".join(bytes.fromhex(text) if i % 2 else text.replace(SPACE, " ").encode()
                    for i, text in enumerate(texts))


# ---- text ↔ tokens


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
        return _escaped(data).replace(SPACE, " ")

    def known(self):
        """All its tokens, where it is `complete` -> list."""

    def state(self):
        """What `restore` makes the same tokenizer of: plain data."""
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


# ---- learnt pieces, by the package `tokenizers`


def package():
    """The package that learns and finds pieces."""
    try:
        import tokenizers
    except ImportError:
        raise InputError("bpe and unigram need the package tokenizers: pip install tokenizers") from None
    return tokenizers


def _byte_symbols():
    """The package's character for each byte: itself where it can be seen, else one from 256 on (as of GPT-2)."""
    printable, others = {*range(33, 127), *range(161, 173), *range(174, 256)}, iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


SYMBOLS = _byte_symbols()
BYTES = {symbol: byte for byte, symbol in enumerate(SYMBOLS)}


def symbols(token):
    """A token as the package writes it."""
    return token if token in (EOS, UNK) else "".join(SYMBOLS[byte] for byte in data_of(token))


def token_of(text):
    """A token from what the package writes."""
    return visible(bytes(BYTES[symbol] for symbol in text))


class Pieces(Tokenizer):
    """Tokens are sequences of bytes that were found in a text; all 256 bytes are among them.

    They are looked for within words, as GPT-2 finds them (a space belongs to the word after it), and within LONGEST_RUN
    characters, or a text without white space would take for ever.
    """
    complete = True
    FEWEST = 257  # the bytes and <eos>

    def __init__(self, lower=False):
        super().__init__(lower)
        self._library = self._known = None

    @classmethod
    def train(cls, lines, size, lower):
        if size < cls.FEWEST:
            raise InputError(f"{cls.name} needs a vocabulary of at least {cls.FEWEST}: the 256 bytes and {EOS}")
        model, trainer = cls._trainer(vocab_size=size - 1, show_progress=False,
                                      initial_alphabet=package().pre_tokenizers.ByteLevel.alphabet())
        library = _library(model, lower)
        library.train_from_iterator((chunk for chunk, _ in chunks(lines)), trainer)
        return cls._from_library(json.loads(library.to_str())["model"], lower)

    def library(self, vocabulary):
        """The same as a Tokenizer of the package, with the ids that its tokens have in `vocabulary`."""
        return _library(self._model({symbols(token): i for i, token in enumerate(vocabulary)}), self.lower)

    def cut(self, lines):
        if self._library is None:
            self._known = self.known()
            self._library = self.library(self._known)
        tokens = []
        for batch in batches(chunks(lines)):
            for encoding, (_, ends) in zip(self._library.encode_batch([chunk for chunk, _ in batch]), batch):
                tokens += [self._known[i] for i in encoding.ids]
                if ends:
                    yield tokens
                    tokens = []


def _library(model, lower):
    made = package().Tokenizer(model)
    pre = package().pre_tokenizers
    runs = package().Regex(rf" ?\S{{1,{LONGEST_RUN}}}|\s+(?!\S)|\s+")
    made.pre_tokenizer = pre.Sequence([pre.Split(runs, "isolated"), pre.ByteLevel(add_prefix_space=False)])
    made.decoder = package().decoders.ByteLevel()
    if lower:
        made.normalizer = package().normalizers.Lowercase()
    return made


def chunks(lines):
    """Yield (text, whether its line ends there), CHUNK characters of a line at most; words that fit are not cut."""
    for line in lines:
        start = 0
        while len(line) - start > CHUNK:
            words = re.match(r"(?s).+(?= \S)", line[start:start + CHUNK + 1])  # all but the last, which may go on
            stop = start + (words.end() if words else CHUNK)
            yield line[start:stop], False
            start = stop
        yield line[start:], True


def batches(parts):
    """Some (text, …) at a time -> lists, of BATCH characters and what the last one has more."""
    batch, size = [], 0
    for part in parts:
        batch.append(part)
        size += len(part[0]) + 1
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class BPE(Pieces):
    """Byte-level byte pair encoding (Sennrich et al. 2016; Radford et al. 2019). merges: pairs of tokens, in order."""
    name = "bpe"

    def __init__(self, lower=False, merges=()):
        super().__init__(lower)
        self.merges = [tuple(pair) for pair in merges]

    @staticmethod
    def _trainer(**options):
        return package().models.BPE(), package().trainers.BpeTrainer(**options)

    @classmethod
    def _from_library(cls, model, lower):
        return cls(lower, [tuple(map(token_of, pair)) for pair in model["merges"]])

    def _model(self, ids):
        return package().models.BPE(ids, [(symbols(first), symbols(second)) for first, second in self.merges])

    def known(self):
        merged = [visible(data_of(first) + data_of(second)) for first, second in self.merges]
        return list(dict.fromkeys([*map(token_of, SYMBOLS), *merged]))

    def state(self):
        return {**super().state(), "merges": [list(pair) for pair in self.merges]}


class Unigram(Pieces):
    """The likeliest of all ways to cut a word, by a probability of each piece (Kudo 2018). scores: token → nats."""
    name = "unigram"

    def __init__(self, lower=False, scores=()):
        super().__init__(lower)
        self.scores = dict(scores)

    @staticmethod
    def _trainer(**options):
        return package().models.Unigram(), package().trainers.UnigramTrainer(unk_token=None, **options)

    @classmethod
    def _from_library(cls, model, lower):
        return cls(lower, {token_of(piece): score for piece, score in model["vocab"]})

    def _model(self, ids):
        least = min(self.scores.values()) - 100  # of <eos>, which no text is cut into
        scores = {symbols(token): score for token, score in self.scores.items()}
        return package().models.Unigram([(piece, scores.get(piece, least)) for piece in ids])

    def known(self):
        return list(self.scores)

    def state(self):
        return {**super().state(), "scores": self.scores}


TOKENIZERS = {kind.name: kind for kind in (Words, Characters, BPE, Unigram)}


# ---- a vocabulary and its tokenizer


class Vocabulary(list):
    """A model's tokens in the order of their ids, and the tokenizer that cuts text into them.

    counts: `WordCounts` of the training text, None where they are not known.
    """

    def __init__(self, tokens, tokenizer=None, counts=None):
        super().__init__(tokens)
        self.tokenizer, self.counts = tokenizer or Words(), counts


def read_as(vocabulary, split=None, lower=None):
    """The same vocabulary, whose tokenizer splits words or puts text into lower case as told; None leaves it as it is.

    Raises InputError where it is not one of words.
    """
    if split is None and not lower:
        return vocabulary
    tokenizer = vocabulary.tokenizer
    if not isinstance(tokenizer, Words):
        raise InputError(f"--split-words and --lower are of models of words; this one reads {tokenizer.name}")
    return Vocabulary(vocabulary, Words(lower or tokenizer.lower, split or tokenizer.split), vocabulary.counts)


def restore(state, vocabulary):
    """The tokenizer of a `Tokenizer.state`, None being that of models from before there were several -> Tokenizer.

    It may come from anywhere. Raises InputError where it is none, or not one that makes these tokens.
    """
    if state is None:
        return Words()
    try:
        options = dict(state)
        tokenizer = TOKENIZERS[options.pop("kind")](**options)
        if type(tokenizer.lower) is not bool:
            raise TypeError("lower")
        tokens = [token for token in vocabulary if token not in (EOS, UNK)]
        if tokenizer.name != "words" and any(visible(data_of(token)) != token for token in tokens):
            raise ValueError("a token that stands for nothing")
        if tokenizer.complete:
            known = tokenizer.known()
            if set(known) != set(tokens) or not set(map(token_of, SYMBOLS)) <= set(known):
                raise ValueError("other tokens")
        if not all(math.isfinite(score) for score in getattr(tokenizer, "scores", {}).values()):
            raise ValueError("scores")
        pairs = {token for pair in getattr(tokenizer, "merges", ()) for token in pair}
        if not pairs <= set(tokens):
            raise ValueError("merges")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        raise InputError("its tokenizer is none of this program, or not that of its vocabulary") from None
    return tokenizer
