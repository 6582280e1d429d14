"""The public names of the package, from where they are."""
from awd_lstm.language_model import LanguageModel, Preference, Sentence, Word
from embed_regularize import embedded_dropout
from evaluation import has_stalled
from locked_dropout import LockedDropout
from nt_asgd import NTASGD
from runtime.errors import InputError
from splitcross import SplitCrossEntropyLoss
from weight_drop import WeightDrop
