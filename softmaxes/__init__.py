"""The softmaxes that --softmax offers. A new one is a class in a file of its own and an entry here."""
from softmaxes.mixture import MixtureSoftmax
from softmaxes.softmax import Softmax
from softmaxes.split import SplitSoftmax

SOFTMAXES: dict[str, type[Softmax]] = {"split": SplitSoftmax, "mixture": MixtureSoftmax}
