"""Standard input, output and error as this process got them: terminals, files, or closed.

A daemon, and some crons, start their commands with closed ones, for which Python has None. A file
or socket that is opened next would then get their number, and whatever a library writes to
"standard error" would go into it: so `open_closed` puts the null device there.
"""

from __future__ import annotations

import os
import sys
from typing import IO

#: By number: the attributes of `sys`, and how each is opened.
_STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def is_terminal(stream: IO[str] | None) -> bool:
    """True of a terminal; a stream that is closed is none."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed by this process itself
        return False


def open_closed() -> None:
    """Open the null device in place of each standard stream that is closed."""
    for number, (name, mode) in enumerate(_STANDARD):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)
        if null != number and not _is_open(number):
            os.dup2(null, number)
            os.close(null)
            null = number
        os.set_inheritable(null, True)
        setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", closefd=False))


def _is_open(number: int) -> bool:
    """True where something else has the number already, which must not lose it."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
