"""Standard input, output and error as this process got them: terminals, files, or closed.

1. What cannot be written to standard output is an error of ours that says so, once and for all.
2. What cannot be written to standard error is lost, and nothing else: it changes neither what is
   done nor the exit code.

A daemon, and some crons, start their commands with closed ones, for which Python has None. A file
or socket that is opened next would then get their number, and whatever a library writes to
"standard error" would go into it: so `open_closed` puts the null device there.
"""

from __future__ import annotations

import io
import os
import sys
from typing import IO, Any

from backfill.errors import OutputError

#: By number: the attributes of `sys`, and how each is opened.
_STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class _Output(io.FileIO):
    """The file beneath a standard stream.

    Attributes:
        is_minded: raise an OutputError where it cannot be written; else what is written is lost.
    """

    is_minded = True

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            if self.is_minded:
                raise OutputError(error) from error
            return len(data)


def make_writable(*, errors: str) -> None:
    """Let standard output and error behave as the module says, from now on.

    Args:
        errors: what becomes of characters that their encoding does not have, as for `open`.
    """
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        if not isinstance(before, io.TextIOWrapper):
            continue  # somebody has put something else there
        before.flush()
        output = _Output(before.fileno(), "w", closefd=False)
        output.is_minded = name == "stdout"
        unbuffered = before.write_through
        stream = io.TextIOWrapper(
            output if unbuffered else io.BufferedWriter(output),
            encoding=before.encoding,
            errors=errors,
            line_buffering=before.line_buffering,
            write_through=unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def mind_no_output() -> None:
    """From now on what cannot be written is lost: the process ends, or nobody is there to read."""
    stream = sys.stdout
    raw = getattr(stream.buffer, "raw", stream.buffer) if hasattr(stream, "buffer") else None
    if isinstance(raw, _Output):
        raw.is_minded = False


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
        stream = os.fdopen(null, mode, encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _is_open(number: int) -> bool:
    """True where something else has the number already, which must not lose it."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
