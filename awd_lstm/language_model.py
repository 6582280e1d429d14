"""A trained model in Python: how likely sentences are, which words come next, what the layers hold, sampled text.

N words of a text, V size of the vocabulary, H width of a layer.
"""
import argparse
import math
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch

import checkpoint
import model as network
from corpus.vocabulary import Vocabulary
from data import EOS, UNK, short
from evaluation import generation, hidden_states, minimal_pairs, scoring
from evaluation.loss import PLAIN_WINDOW, evaluating
from evaluation.text import by_line, to_text
from runtime import devices, values
from runtime.errors import InputError
from runtime.log import perplexity

PRECISIONS = ("auto", "fp32", "tf32", "bf16")
SEED = partial(values.number, kind=int, accepts=lambda n: -2**63 <= n < 2**64, description="a whole number of 64 bits")


class Word(NamedTuple):
    """A scored word, its log-probability in nats, and whether the model does not know it and read <unk> instead."""
    word: str
    logprob: float
    unknown: bool

    @property
    def surprisal(self):
        """-log2 of its probability, in bits."""
        return -self.logprob / math.log(2)


class Sentence(NamedTuple):
    """A scored sentence: the log-probability of all its words in nats, and the words, the <eos> behind them included.
    """
    logprob: float
    words: list[Word]


class Preference(NamedTuple):
    """Log-probabilities of two texts in nats, and which is the likelier: 1 the good one, 0 the bad one, 0.5 neither.

    None where a word that is not in both is unknown to the model: the comparison says nothing of it.
    """
    good: float
    bad: float
    outcome: float | None


class LanguageModel:
    """A trained model and its vocabulary, a list of words.

    Text is a string, which is cut as the training text was (a newline is <eos>), or a list of words; every text is
    read after <eos>, from a zero state. What is called a word is a piece of one where the model reads pieces. Words
    that the model does not know are read as <unk>; with unknown="error" they are refused. The methods draw no random
    numbers but for `generate`, and leave torch's settings as they are.

    All methods raise InputError, a ValueError with one line of text, for what cannot be used.
    """

    def __init__(self, model, vocabulary, precision="fp32", unknown="unk", tokenizer=None):
        """model: an RNNModel on its device, with V words; precision: in which it multiplies matrices; tokenizer: what
        cuts text into words or pieces of them, if not at white space."""
        if unknown not in ("unk", "error"):
            raise InputError(f"unknown={unknown!r}: use 'unk' or 'error'")
        self.model, self.vocabulary, self.unknown = model, Vocabulary(vocabulary, tokenizer), unknown
        self.compute = devices.Compute(model.encoder.weight.device, precision)
        size = len(model.decoder.weight)
        if len(self.vocabulary) != size:
            raise InputError(f"the vocabulary has {len(self.vocabulary):,} words, the model {size:,}")
        if not all(isinstance(word, str) for word in self.vocabulary):
            raise InputError("the vocabulary is no list of words, which are strings")
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}
        if len(self.ids) != size:
            word = Counter(self.vocabulary).most_common(1)[0][0]
            raise InputError(f"the vocabulary has {short(word)} more than once")
        if EOS not in self.ids:
            raise InputError(f"the model does not know {EOS}, which texts are read after")

    @classmethod
    def load(cls, path, device="auto", precision="auto", unknown="unk"):
        """The model in the checkpoint at `path` -> LanguageModel.

        Exactly that file is read: `demo.finetuned.pt` if the fine-tuned model is wanted. device: auto, cpu, cuda,
        cuda:N or mps. precision: fp32, tf32, bf16, or auto: the one in which the model was trained, where the device
        has it.
        """
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision!r}: use one of {', '.join(PRECISIONS)}")
        contents = checkpoint.load(path)
        settings = contents["settings"]
        asked = precision != "auto"
        place = devices.pick_device(str(device))
        precision, _ = devices.pick_precision(precision if asked else settings["precision"], place, asked,
                                              "bf16" in network.ModelConfig.of(settings).supported)
        with torch.random.fork_rng([]):          # a network draws its weights before it is given others
            model = checkpoint.restore(contents, path, devices.Compute(torch.device(place), precision))
        vocabulary = checkpoint.vocabulary_of(contents)
        return cls(model, vocabulary, precision, unknown, vocabulary.tokenizer)

    def score(self, sentences, context="reset"):
        """How likely each of `sentences`, a list of texts, is, with the <eos> that ends it -> list of Sentence.

        context: "reset" scores every sentence by itself, its first word after <eos>; "carry" reads them one after
        another as one text. The figures are those of `evaluate.py --text … --context …`.
        """
        if isinstance(sentences, str) or not isinstance(sentences, Iterable):
            raise InputError("score takes a list of sentences; put the one sentence into a list")
        if context not in ("reset", "carry"):
            raise InputError(f"context={context!r}: use 'reset' or 'carry'")
        lines = [self._known(sentence) for sentence in sentences]
        if not lines:
            return []
        words = [word for line in lines for word in (*line, EOS)]
        ends = [end for line in lines for end in (*[False] * len(line), True)]
        text = to_text(words, ends, self.ids, context, self.compute.device)
        with devices.computing(self.compute):
            logprobs = scoring.score(self.model, text.streams, PLAIN_WINDOW).logprobs          # (N,)
        scored_words = list(map(Word, words, logprobs.tolist(), text.unknown))
        scored = ([scored_words[i] for i in places] for _, places in by_line(ends))
        return [Sentence(math.fsum(word.logprob for word in line), line) for line in scored]

    def perplexity(self, sentences, context="carry"):
        """Perplexity per word, every <eos> counted, of a list of texts that are scored as `score` does."""
        words = [word for sentence in self.score(sentences, context) for word in sentence.words]
        if not words:
            raise InputError("there is no sentence to score")
        return perplexity(-math.fsum(word.logprob for word in words) / len(words))

    def prefer(self, good, bad, normalise=False, eos=True):
        """Which of two texts is the likelier -> Preference; of two lists of texts, for each pair -> list of them.

        normalise: compare log-probabilities per token. eos: whether that of the <eos> behind counts. The same figures
        as of `evaluate.py --minimal-pairs`.
        """
        if isinstance(good, str) and isinstance(bad, str):
            return self.prefer([good], [bad], normalise, eos)[0]
        if any(isinstance(texts, str) or not isinstance(texts, Iterable) for texts in (good, bad)):
            raise InputError("prefer takes two texts, or two lists of them")
        good, bad = list(good), list(bad)
        if len(good) != len(bad):
            raise InputError(f"prefer takes as many good texts as bad ones, not {len(good)} and {len(bad)}")
        return [self._preference(*pair, normalise, eos) for pair in zip(self.score(good), self.score(bad))]

    @staticmethod
    def _preference(good, bad, normalise, eos):
        lines = [sentence.words if eos else sentence.words[:-1] for sentence in (good, bad)]
        scores = [math.fsum(word.logprob for word in line) / (max(1, len(line)) if normalise else 1) for line in lines]
        unknown = minimal_pairs.differ_unknown([minimal_pairs.Reading(
            [word.word for word in sentence.words], None, [word.unknown for word in sentence.words], None)
            for sentence in (good, bad)])
        return Preference(*scores, None if unknown else minimal_pairs.outcome(*scores))

    def next(self, prefix="", k=10):
        """The `k` likeliest words after `prefix` -> list of (word, probability), the likeliest first."""
        k = _number("k", k, values.size)
        with devices.computing(self.compute), evaluating(self.model):
            hidden = self.model.init_hidden(1)
            for window in self._stream(prefix).split(PLAIN_WINDOW):
                features, hidden = self.model(window, hidden)                                # (n, E)
            best = self.model.logprob(features[-1:])[0].exp().topk(min(k, len(self.vocabulary)))
        return [(self.vocabulary[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist())]

    def features(self, text, layer=-1):
        """What a layer puts out as it reads each word of `text` -> tensor (N, H) on the CPU, the N words.

        layer: 0 is the first recurrent layer, -1 the last, whose features the softmax gets. A row depends on its word
        and those before it. Of a model with --skip-output the last layer is the sum of all.
        """
        words, layers = self._known(text), self.model.nlayers
        if layer not in range(-layers, layers):
            raise InputError(f"layer={layer}: the model has {layers} layers, from 0 to {layers - 1}")
        number = int(layer) % layers + 1
        with devices.computing(self.compute):
            states = hidden_states.hidden_states(self.model, [self._stream(words)], PLAIN_WINDOW, [number])
        return states[number], words

    def generate(self, prompt="", words=100, temperature=1.0, top_k=0, seed=None, top_p=1.0):
        """Draw `words` words that go on from `prompt` -> list of words, <eos> where the model ends a line.

        temperature: < 1 sharpens the softmax, > 1 flattens it, 0 takes the likeliest word each time. top_k: draw from
        so many likeliest words, 0 from all. top_p: draw from the likeliest that together have this probability. seed:
        the same seed draws the same words; None takes torch's generator.
        """
        words, top_k = _number("words", words, values.count), _number("top_k", top_k, values.count)
        temperature, top_p = (_number("temperature", temperature, values.non_negative),
                              _number("top_p", top_p, values.weight))
        generator = None if seed is None else torch.Generator().manual_seed(_number("seed", seed, SEED))
        with devices.computing(self.compute):
            ids = generation.sample(self.model, self._ids(prompt), words, temperature, top_k, top_p, generator)
            return [self.vocabulary[i] for i in ids]

    def _known(self, text):
        """The words of a text. InputError where there are unknown ones that are to be refused."""
        if not isinstance(text, Iterable):
            raise InputError(f"{text!r} is no text: give a string or a list of words")
        words = self.vocabulary.tokenizer.encode(text) if isinstance(text, str) else list(text)
        for word in words:
            if not isinstance(word, str):
                raise InputError(f"{word!r} is no word: a text is a string or a list of words, which are strings")
        unknown_words = [word for word in words if word not in self.ids]
        if unknown_words and (self.unknown == "error" or UNK not in self.ids):
            raise InputError(f"the model does not know {', '.join(map(short, dict.fromkeys(unknown_words[:5])))}"
                             + ("; unknown='unk' reads them as <unk>" if UNK in self.ids else ", and has no <unk>"))
        return words

    def _ids(self, text):
        """<eos> and the words of a text, unknown ones as <unk> -> list of ids."""
        return [self.ids[EOS], *(self.ids.get(word, self.ids.get(UNK)) for word in self._known(text))]

    def _stream(self, text):
        """<eos> and a text -> its ids (N + 1, 1)."""
        return torch.tensor(self._ids(text), device=self.compute.device)[:, None]


def _number(name, value, check):
    """The value of an argument, put through a check of `runtime.values`. InputError with its name."""
    try:
        return check(value)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{name}={value!r}: {error}") from None
