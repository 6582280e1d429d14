"""The full softmax and, where cutoffs split the vocabulary, the adaptive one (splitcross.py)."""
from torch.nn import functional as F

from ops import few
from ops.fused_softmax import kernel_on
from runtime.errors import InputError
from runtime.options import ARCHITECTURE, Flag
from runtime.values import ascending, size
from softmaxes.softmax import ADVSOFT, Softmax
from splitcross import SplitCrossEntropyLoss


class SplitSoftmax(SplitCrossEntropyLoss, Softmax):
    """`SplitCrossEntropyLoss` as the softmax of a model."""
    supports = frozenset({"bf16"})
    flags = (Flag("cutoffs", None, "cuts of the adaptive softmax through the vocabulary, sorted by frequency; without "
                  "numbers the full softmax. If not given: 4200 35000 180000 for more than 500,000 words, 2800 20000 "
                  "76000 for more than 75,000, else full", size, "N", nargs="*", whole=ascending, kept=ARCHITECTURE),
             ADVSOFT)

    def __init__(self, width=0, settings=()):
        settings = self.with_defaults(settings)
        super().__init__(width, settings["cutoffs"] or [])       # the loss's, which calls that of Softmax without any
        self.settings, self.advsoft = settings, settings["advsoft"]
        if self.advsoft and self.splits:
            raise InputError("--advsoft is for a full softmax, not for one with --cutoffs; leave it out, or give "
                             "--cutoffs without numbers")

    def forward(self, weight, bias, hiddens, targets):
        if few.is_unformed(weight) and not self.splits and not self.training:
            return F.cross_entropy(few.linear(hiddens, weight, bias), targets)
        return super().forward(weight, bias, hiddens, targets)

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
        self.fused = kernel_on(device)


def default_cutoffs(ntoken):
    """Where the published code cuts a vocabulary of so many words."""
    return [4200, 35000, 180000] if ntoken > 500_000 else [2800, 20000, 76000] if ntoken > 75_000 else []
