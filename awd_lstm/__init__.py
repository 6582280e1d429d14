"""AWD-LSTM language models, for programs and notebooks: `from awd_lstm import LanguageModel`."""

__all__ = ["NTASGD", "InputError", "LanguageModel", "LockedDropout", "Preference", "Sentence",
           "SplitCrossEntropyLoss", "WeightDrop", "Word", "embedded_dropout", "has_stalled"]


def __getattr__(name):
    """Public names are imported when they are asked for: the command line has work to do before torch is there."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from awd_lstm import public
    return getattr(public, name)


def __dir__():
    return sorted({*globals(), *__all__})
