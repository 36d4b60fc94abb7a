"""Commands that only look are ended by SIGTERM and SIGHUP as by Ctrl-C: in order, with a word.

The signal becomes a KeyboardInterrupt in the main thread, so that all that Ctrl-C closes, rolls
back and says is closed, rolled back and said; the exit code tells the two apart.
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec, TypeVar

from backfill.errors import ExitCode
from backfill.streams import mind_no_output

P = ParamSpec("P")
R = TypeVar("R")


class EndedError(KeyboardInterrupt):
    """A signal asks for the end; no Exception, so that nothing keeps it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def code_of(error: BaseException | None) -> int:
    """130 of Ctrl-C; of another signal 128 and its number, as shells have it."""
    if isinstance(error, EndedError):
        return 128 + error.number
    return int(ExitCode.INTERRUPTED)


@contextmanager
def in_order() -> Iterator[None]:
    """Raise an EndedError in the block on SIGTERM, and on SIGHUP unless that is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    is_asked = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal is_asked
        if is_asked:
            return  # it ends already; SIGHUP comes from the shell and from the kernel
        is_asked = True
        if number == signal.SIGHUP:
            mind_no_output()  # the terminal is gone: what is still to be said must not fail
        raise EndedError(signal.Signals(number))

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def ends_in_order(command: Callable[P, R]) -> Callable[P, R]:
    """A command that `in_order` holds for, wholly."""

    @functools.wraps(command)
    def ordered(*args: P.args, **kwargs: P.kwargs) -> R:
        with in_order():
            return command(*args, **kwargs)

    return ordered
