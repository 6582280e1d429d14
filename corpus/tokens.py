"""Tokens: strings without white space, so that tokenised text can be a text file.

Of all tokenizers but words, a token stands for bytes of the text: "▁" for a space, and "⟨09⟩" for bytes that could not
be seen, here a tab.
"""

import re
from functools import cache

EOS, UNK = "<eos>", "<unk>"  # the end of a line, and any token that is not in the vocabulary
SPACE = "▁"


def visible(data):
    """Bytes as a token, of which `data_of` gives them back."""
    token = escaped(data)
    return f"⟨3C⟩{token[1:]}" if token in (EOS, UNK) else token


def escaped(data):
    """Bytes as text, those that could not be seen, and spaces, in the way of a token."""
    return "".join(map(_shown, data.decode("utf-8", "surrogateescape")))


@cache
def _shown(character):
    if character == " ":
        return SPACE
    if character.isspace() or character in "▁⟨\ufeff" or ord(character) < 32 or 127 <= ord(character) < 160 or (
            0xDC80 <= ord(character) <= 0xDCFF):  # which stands for a byte that is not UTF-8 by itself
        return f"⟨{character.encode('utf-8', 'surrogateescape').hex().upper()}⟩"
    return character


@cache
def data_of(token):
    """The bytes that a token, not <eos> or <unk>, stands for."""
    texts = re.split("⟨([0-9A-F]+)⟩", token)  # text and hexadecimal digits by turns
    return b"".join(bytes.fromhex(text) if i % 2 else text.replace(SPACE, " ").encode()
                    for i, text in enumerate(texts))
