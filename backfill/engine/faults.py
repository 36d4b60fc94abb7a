"""What can end a batch, a slice or a task early; the loop in work.py decides what follows.

Interruption
 ├── StaleEpochError     the slice is another's now; nothing was written (I3)
 ├── NotAllowedError     the run does not work in this state; nothing was written
 ├── RowsRefusedError    the write of several rows was refused: halve
 ├── LimitedError        the run's limit leaves this slice no row, now or for good
 ├── OutageError         the transform says that the world outside is away: wait
 ├── StopError           nobody's row: the run pauses with this reason
 └── RetriableError      transient: again, with backoff; `timed_out`: with a smaller batch
"""

from __future__ import annotations

from backfill.pg.failure import Fault


class Interruption(Exception):  # noqa: N818 - the root of a tree, not an error by itself
    """Ends a batch before its commit."""


class StaleEpochError(Interruption):
    """The slice is held under a newer epoch."""


class NotAllowedError(Interruption):
    """The run's state does not allow work, or the slice is in another phase."""


class LimitedError(Interruption):
    """Nothing is left of the run's limit; after `seconds` there may be again, 0: never."""

    def __init__(self, reason: str, *, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class RowsRefusedError(Interruption):
    """The write, or `transform_batch`, refused a page of two rows or more."""

    def __init__(self, rows: int, summary: str) -> None:
        super().__init__(f"{rows} rows refused: {summary}")
        self.rows = rows
        self.summary = summary


class OutageError(Interruption):
    """`RetryLater` or one of `retry_on` was raised by the transform."""

    def __init__(self, reason: str, *, seconds: float | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds


class StopError(Interruption):
    """Nobody's row: permissions, a missing column, no space, a job that returns a wrong thing."""

    def __init__(self, reason: str, *, summary: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.summary = summary


class RetriableError(Interruption):
    """Worth trying again."""

    def __init__(self, fault: Fault, *, timed_out: bool) -> None:
        super().__init__(fault.summary)
        self.fault = fault
        self.timed_out = timed_out
