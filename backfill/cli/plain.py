"""Text of others made safe for a terminal: names and values may hold escape sequences."""

from __future__ import annotations

import unicodedata

#: Cc: controls, among them ESC; Cf: such as right-to-left overrides; Zl, Zp: line separators;
#: Cs: halves of surrogate pairs.
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def plain(text: str) -> str:
    """The text with everything that could steer a terminal written as an escape, such as \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _UNSAFE else char
        for char in text
    )


def cut(text: str, most: int) -> str:
    """The beginning of a text that is longer than `most` characters, with how long it is."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
