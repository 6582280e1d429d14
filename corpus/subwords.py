"""Tokenizers of learnt pieces of words, by the package `tokenizers`: byte pair encoding and unigram."""

import json
import re

from corpus.tokenizers import Tokenizer
from corpus.tokens import EOS, UNK, data_of, visible
from runtime.errors import InputError

CHUNK = 2**16  # characters of a line that are encoded together
BATCH = 2**20  # characters that are encoded at a time
LONGEST_RUN = 32  # characters without white space that a piece is looked for in


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
