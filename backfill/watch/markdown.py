"""Writes Markdown into which any text may be put: what a database says cannot break it.

GitHub's and CommonMark's rules. A text stays in its line and in its cell, and shows as it is: no
heading, picture, HTML, mathematics or emphasis can come of it, and no link but of a bare address.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# inside of a word an underscore is an underscore
_SPECIAL = re.compile(r"[\\`*~|\[\]$!]|(?<!\w)_|_(?!\w)")
#: What may stand between backticks in any cell: no backtick, no "|", nothing invisible.
_CODE = re.compile(r"(?=\S)[^`|\\]*[^`|\\\s]")
_BARS = "▁▂▃▄▅▆▇█"


def text(value: object) -> str:
    """Any text, to be read as it is, in one line."""
    line = _line(value)
    line = "".join(_ENTITIES.get(character, character) for character in line)
    return _SPECIAL.sub(r"\\\g<0>", line)


def code(value: object) -> str:
    """Any text in the type of code, where that is safe; else as it is."""
    line = _line(value)
    return f"`{line}`" if _CODE.fullmatch(line) else text(line)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; cells are Markdown already."""
    return [
        f"| {' | '.join(headers)} |",
        f"|{'---|' * len(headers)}",
        *(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in rows),
    ]


def bars(values: Sequence[float]) -> str:
    """A line of small bars, the greatest the highest; a point where there is nothing."""
    most = max(values, default=0.0)
    if most <= 0:
        return "·" * len(values)
    return "".join(
        "·" if value <= 0 else _BARS[min(len(_BARS) - 1, int(value / most * len(_BARS)))]
        for value in values
    )


def _line(value: object) -> str:
    shown = "".join(
        " " if unicodedata.category(character) in _INVISIBLE else character
        for character in str(value)
    )
    return " ".join(shown.split())
