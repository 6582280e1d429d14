"""Words as they are written → the parts that corpora of words have them in: punctuation, contractions.

The parts of a word, joined, are the word. One regular expression finds them, which other programs can use, too.
"""
import re
import sys
import unicodedata
from functools import cache

APOSTROPHE = "['\u2019]"
CONTRACTED = f"(?i:{APOSTROPHE}(?:s|m|d|re|ve|ll))"
NEGATED = f"(?i:n{APOSTROPHE}t)"
ABBREVIATIONS = "Mr|Mrs|Ms|Dr|Prof|Sen|Rep|Gov|Gen|Col|Lt|Sgt|Rev|Hon|St|Jr|Sr|Inc|Corp|Co|Ltd|Bros|Cos|vs|etc"
WHOLE = r"<\w+>|@[-,.]@|\.{2,}|-{2,}|`{2}|'{2}"           # special tokens, WikiText's @-@, dashes, quotes
WORD_SPLITS = ("none", "punctuation", "ptb")


@cache
def pattern(split):
    """The regular expression, as text, that finds the parts of a word by a split in WORD_SPLITS but none.

    punctuation: what stands before and behind a word is a part by itself, character by character; what stands within it
    (3.5, well-known, don't) stays. ptb: besides, contractions as in Penn Treebank (do n't, he 's, can not), while
    abbreviations keep their dot.
    """
    letter = f"[\\w{marks()}]"
    other = f"[^\\w\\s{marks()}]"
    inner = f"(?:{letter}|{other}+(?={letter}))"
    if split == "punctuation":
        return f"{WHOLE}|{letter}{inner}*|{other}"
    no_letter = f"(?!{letter})"
    ends = f"{NEGATED}{no_letter}|{CONTRACTED}{no_letter}"
    abbreviation = f"(?i:{ABBREVIATIONS})\\.{no_letter}|(?:[A-Za-z]\\.){{2,}}(?:-{letter}+)*"
    return (f"{WHOLE}|{ends}|{abbreviation}|(?i:can)(?=(?i:not){no_letter})"
            f"|{letter}{inner}*?(?={ends}|(?!{inner}))|{other}")


@cache
def marks():
    """All combining marks, which belong to the letter before them, as ranges of a set of characters."""
    ranges = []
    for code in range(0x300, min(sys.maxunicode, 0x1FFFF)):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def parts(word, split):
    """The parts of a word, without white space in it -> list of strings that, joined, are the word."""
    return [word] if split == "none" else re.findall(pattern(split), word)
