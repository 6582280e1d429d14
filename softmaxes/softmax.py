"""What every softmax is to the model: it makes log-probabilities of words out of the last layer's output.

N predictions, V words, E width of a feature.
"""
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runtime.options import MODEL, Flag
from runtime.values import non_negative

ADVSOFT = Flag("advsoft", 0.0, "adversarial noise on the targets' word vectors in training, of X times their length "
               "(Wang et al. 2019), for each position its own (in the authors' code, all positions of a word have "
               "that of its last)", non_negative, "X", kept=MODEL)
Settings = Mapping[str, Any] | Iterable[tuple[str, Any]]       # flags by name


class Softmax(nn.Module):
    """The softmax of a model. A new one is a subclass and an entry of `softmaxes.SOFTMAXES`.

    It is a module of the model: what it drops in training it does not drop in evaluation, and its parameters are
    trained, saved and counted with the model's. The decoder's weight (V, E) and bias (V,) are given with every call,
    since the weight may be tied to the embedding. `logprob` is enough; `forward` and `target_logprob` are there to be
    overridden by what takes less memory. `supports`, `flags`, `can_be_graphed`: as those of `cells.Cell`. `projects`:
    it takes the last layer's output as it is, of width `settings["nhidlast"]`, and maps it to the decoder's itself.

    width: E, that of the decoder, and of a feature unless it projects. settings: the flags by name; those of its own
    that are not there have their defaults in `self.settings`.
    """
    supports: frozenset[str] = frozenset()
    flags: tuple[Flag, ...] = ()
    can_be_graphed: bool = True
    projects: bool = False

    def __init__(self, width: int = 0, settings: Settings = ()) -> None:
        super().__init__()
        self.settings = self.with_defaults(settings)
        self.matmul_dtype: torch.dtype | None = None        # torch.bfloat16, or None for that of the weights

    @classmethod
    def with_defaults(cls, settings: Settings) -> dict[str, Any]:
        """`settings`, and those of its own flags that are not among them at their defaults -> dict."""
        return {**{flag.name: flag.default for flag in cls.flags}, **dict(settings)}

    @staticmethod
    def resolve(settings: dict[str, Any], ntoken: int) -> dict[str, Any]:
        """Its own settings that are left to be decided by the size of the vocabulary -> dict."""
        return {}

    @staticmethod
    def check(settings: dict[str, Any], ntoken: int) -> str | None:
        """What in its settings has no effect with a vocabulary of so many words, as one line, or None."""
        return None

    @staticmethod
    def sorts_vocabulary(settings: dict[str, Any]) -> bool:
        """Whether ids must be in the order of falling frequency."""
        return False

    def on_device(self, device: torch.device) -> None:
        """Called once the model is on its device, where it may choose what it computes with."""

    def draw_masks(self, rows: int) -> None:
        """Called before a window's features are scored: the place to draw masks that hold for it.

        rows: how many. Row n of the features has the mask n % rows: of its column where this is called with the batch
        size, of its step, too, where it is called with all rows (`per_step_dropout`).
        """

    def logprob(self, weight: Tensor, bias: Tensor, features: Tensor) -> Tensor:
        """Log-probabilities of all words -> (N, V), from features (N, E); every row's exponentials sum to one."""
        raise NotImplementedError

    def target_logprob(self, weight: Tensor, bias: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of each target -> (N,), without a graph."""
        return self.logprob(weight, bias, features).gather(1, targets[:, None])[:, 0].detach()

    def forward(self, weight: Tensor, bias: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of targets (N,) in nats."""
        return -self.logprob(weight, bias, features).gather(1, targets[:, None]).mean()
