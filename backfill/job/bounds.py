"""Which part of its rows a run takes: from a key on, up to a key, at most so many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from uuid import UUID

from backfill.errors import UsageError

#: What a key's column may be given as; PostgreSQL reads its text as the column's type.
KeyPart = str | int | float | Decimal | date | time | UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """From a key on, up to a key, at most so many rows; what is None bounds nothing.

    A key of one column is that column's value, one of several columns a sequence of values, or
    such a one as a JSON array. Values are read by PostgreSQL, as the key's own types: a string is
    that type's text (times in UTC unless it says otherwise).

    Attributes:
        from_key: the first key that is taken.
        to_key: the first key that is not taken any more.
        limit: at most so many rows of the source are taken, ≥ 1. Which ones is not said: where
            several slots work, they do not come in the key's order.

    Raises:
        UsageError: a value is not of these types, or the limit is not a positive integer.
    """

    from_key: KeyPart | Sequence[KeyPart] | None = None
    to_key: KeyPart | Sequence[KeyPart] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, key in (("from_key", self.from_key), ("to_key", self.to_key)):
            for part in () if key is None else parts(key):
                if not isinstance(part, KeyPart):
                    raise UsageError(
                        f"{name} cannot be given as {type(part).__name__}",
                        remedy="Give the text that PostgreSQL reads as the column's type.",
                    )
        limit: object = self.limit
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
            raise UsageError(f"limit is a number of rows, not {limit!r}")
        if limit is not None and limit < 1:
            raise UsageError(f"limit is at least 1, not {limit}")


def parts(key: object) -> Sequence[object]:
    """The values of a key's columns."""
    return key if isinstance(key, Sequence) and not isinstance(key, str | bytes) else [key]
