"""What a trained model makes of a text: loss, log-probabilities, the cache, dynamic evaluation."""
from evaluation.stalling import has_stalled

__all__ = ["has_stalled"]
