"""One line, and a number, for what a library tells again and again while a service is away.

While Redis takes no writes, Celery's consumer connects again five times a second and logs each
attempt, for which it has no setting: an hour of that would bury everything else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Of a message that is told again, one in so many seconds passes.
EVERY_SECONDS = 10.0
#: So many messages are remembered; libraries have few, and a text that is always new is no repeat.
MOST_MESSAGES = 100


@dataclass(slots=True)
class _Told:
    at: float
    left_out: int = 0


class Repeats(logging.Filter):
    """Lets a warning or an error of these libraries through once in EVERY_SECONDS.

    Two records are the same message when logger, level and text without its arguments are. The
    first passes at once; one that follows others says how many were left out before it.

    Args:
        libraries: names of loggers, whose children are meant, too.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self, libraries: Sequence[str], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._libraries = tuple(libraries)
        self._monotonic = monotonic
        self._told: dict[tuple[str, int, str], _Told] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """False for one that is left out."""
        if record.levelno < logging.WARNING or not self._is_of_them(record.name):
            return True
        message = (record.name, record.levelno, str(record.msg))
        now, told = self._monotonic(), self._told.get(message)
        if told is not None and now - told.at < EVERY_SECONDS:
            told.left_out += 1
            return False
        if told is not None and told.left_out:
            text = record.getMessage().rstrip()
            record.msg, record.args = f"{text} ({told.left_out} more like it are left out)", ()
        if len(self._told) >= MOST_MESSAGES:
            self._told.clear()
        self._told[message] = _Told(now)
        return True

    def _is_of_them(self, name: str) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in self._libraries)
