"""Checks of flags' values: a word, or a value from a file -> the value.

Each raises argparse.ArgumentTypeError with what is wanted; argparse puts the name of the flag before it.
"""
import argparse
from functools import partial

LARGEST = 1e30          # of numbers on a command line: what is computed from them is in single precision


def number(text, kind, accepts, description):
    try:
        value = kind(text)
    except (TypeError, ValueError, OverflowError):
        value = None
    if value is None or value != value or not accepts(value) or not (isinstance(text, str) or value == text):
        raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
    if abs(value) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not {description} of at most {LARGEST:g}")
    return value


def _numbers(kind, accepts, description):
    """The check of a flag that takes such numbers."""
    return partial(number, kind=kind, accepts=accepts, description=description)


probability = _numbers(float, lambda p: 0 <= p < 1, "a probability in [0, 1)")
weight = _numbers(float, lambda p: 0 <= p <= 1, "a number in [0, 1]")
positive = _numbers(float, lambda x: x > 0, "a positive number")
real = _numbers(float, lambda x: True, "a number")
non_negative = _numbers(float, lambda x: x >= 0, "a number of at least 0")
size = _numbers(int, lambda n: 0 < n < 2**31, "a positive whole number")
width = _numbers(int, lambda n: 0 < n <= 10**6, "a whole number from 1 to 1,000,000")
few = _numbers(int, lambda n: 0 < n <= 100, "a whole number from 1 to 100")
epochs = _numbers(float, lambda x: 0 <= x <= 10**6, "a number from 0 to 1,000,000")
count = _numbers(int, lambda n: 0 <= n < 2**31, "a whole number of at least 0")
epoch = _numbers(int, lambda n: n == -1 or n > 0, "an epoch (a positive whole number, or -1 for never)")
seed = _numbers(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1")


def words(text):
    """A number of words in whole thousands: 500000, 500K or 10M."""
    factors = {"K": 10**3, "M": 10**6}
    factor = factors.get(text[-1:], 1) if isinstance(text, str) else 1
    try:
        return factor * number(text if factor == 1 else text[:-1], int,
                               lambda n: 0 < n < 2**40 and n * factor % 1000 == 0, "")
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of words in thousands or millions such as 500K or "
                                         "10M") from None


def ascending(numbers):
    """Check of a list: each number is larger than the one before it."""
    if sorted(set(numbers)) != numbers:
        raise argparse.ArgumentTypeError(f"{' '.join(map(str, numbers))} does not grow from number to number")
