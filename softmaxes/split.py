"""The full softmax and, where cutoffs split the vocabulary, the adaptive one (splitcross.py)."""
from ops import fused_softmax
from runtime.options import ARCHITECTURE, Flag, size
from softmaxes.softmax import Softmax
from splitcross import SplitCrossEntropyLoss


class SplitSoftmax(SplitCrossEntropyLoss, Softmax):
    """`SplitCrossEntropyLoss` as the softmax of a model."""
    supports = frozenset({"bf16"})
    flags = (Flag("cutoffs", None, "adaptive softmax: where the vocabulary, sorted by frequency, is cut; without "
                  "numbers the full softmax. If not given: 4200 35000 180000 for more than 500,000 words, 2800 20000 "
                  "76000 for more than 75,000, else full", size, "N", nargs="*", kept=ARCHITECTURE),)

    def __init__(self, width, settings=()):
        SplitCrossEntropyLoss.__init__(self, width, dict(settings).get("cutoffs") or [])

    @property
    def can_be_graphed(self):
        """Not with cutoffs: how many targets lie in each part is read on the host."""
        return not self.splits

    @staticmethod
    def resolve(settings, ntoken):
        return {"cutoffs": default_cutoffs(ntoken)} if settings["cutoffs"] is None else {}

    @staticmethod
    def check(settings, ntoken):
        beyond = [cut for cut in settings["cutoffs"] if cut >= ntoken]
        if beyond:
            return f"--cutoffs {' '.join(map(str, beyond))} have no effect: the vocabulary has {ntoken:,} words"
        return None

    @staticmethod
    def sorts_vocabulary(settings):
        return bool(settings["cutoffs"])

    def on_device(self, device):
        available = device.type == "cuda" and fused_softmax.available(device.index or 0)
        self.fused = fused_softmax.fused_softmax if available else None


def default_cutoffs(ntoken):
    """Where the published code cuts a vocabulary of so many words."""
    return [4200, 35000, 180000] if ntoken > 500_000 else [2800, 20000, 76000] if ntoken > 75_000 else []
