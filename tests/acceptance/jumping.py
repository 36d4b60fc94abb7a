"""A wall clock that a test may set, for a worker's every process; see worker_process.py.

`follow(path)` lets this process's wall clock, and that of whoever it forks, be ahead by the seconds
that stand in the file, behind where they are negative. What Python code asks is replaced wherever a
module has kept it: `time.time`, and `now`, `utcnow` and `today` of `datetime`. The monotonic clock
goes on as it is, as it does when somebody sets a machine's clock.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

#: Packages whose modules have their own names for the clock.
OURS = ("backfill", "billiard", "celery", "kombu", "redis", "structlog")


def follow(path: Path) -> None:
    """From now on the wall clock goes by the file."""
    true_time = time.time

    def ahead() -> float:
        try:
            return float(path.read_text() or 0)
        except FileNotFoundError:
            return 0.0

    def set_time() -> float:
        return true_time() + ahead()

    class IsDatetime(type):
        """What others made is a datetime, too."""

        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class SetDatetime(datetime, metaclass=IsDatetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=ahead())

        @classmethod
        def utcnow(cls) -> datetime:  # type: ignore[override]
            return datetime.now(dt.UTC).replace(tzinfo=None) + timedelta(seconds=ahead())

        @classmethod
        def today(cls) -> datetime:  # type: ignore[override]
            return cls.now()

    time.time = set_time
    dt.datetime = SetDatetime  # type: ignore[misc]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in OURS:
            _replace(vars(module), {true_time: set_time, datetime: SetDatetime})


def _replace(names: dict[str, Any], kept: dict[Any, Any]) -> None:
    for name, value in list(names.items()):
        for old, new in kept.items():
            if value is old:
                names[name] = new
