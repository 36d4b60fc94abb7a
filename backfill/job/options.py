"""How a run goes about its work: sizes, speed, time-outs, and what it may leave in quarantine.

A job declares its own; each can be overridden for one run (`enqueue(options=…)`,
`--set rate=100/s`). The ledger keeps the options with the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

from backfill.errors import DeclarationError, ProjectError, UsageError
from backfill.hours import Hours
from backfill.job.arguments import arguments
from backfill.job.suggestion import did_you_mean
from backfill.rate import Rate
from backfill.window import Window

#: A batch's age plus its lock time-out stays below the server's deadlock_timeout of 1 s (I5), so
#: that in a deadlock we give up, and never the application.
MAX_LOCK_TIMEOUT_SECONDS = 0.9

#: A batch that takes this long leaves its lock time-out hardly any room under deadlock_timeout.
MAX_TARGET_BATCH_SECONDS = 0.5
#: A row of eight full pages with their full-page images; less would be a row a batch.
MIN_BATCH_WAL_BYTES = 64 * 1024

#: PostgreSQL's time-outs are whole milliseconds, and 0 switches them off.
MIN_TIMEOUT_SECONDS = 0.001

#: The largest that PostgreSQL takes: 2**31 - 1 milliseconds.
MAX_STATEMENT_TIMEOUT_SECONDS = 2_147_483.0


#: `--gentle`: short batches are short waits, and rests between them make few wait. The knee of the
#: curve in docs/gentleness.md: shorter batches lose speed to what each batch costs by itself,
#: longer ones make others wait longer, and shorter rests make more of them wait.
GENTLE: Mapping[str, float] = {"target_batch_seconds": 0.01, "duty": 0.5}


class OptionError(DeclarationError):
    """An option has a value that it cannot have.

    Args:
        typed: the same for who has typed it, not in a declaration.
    """

    def __init__(self, message: str, *, typed: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.typed = typed


@arguments('Options(rate="5000/s")')
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run works.

    Attributes:
        database: the name of a database in the project's settings: the source's.
        batch_rows: rows a batch, 1 to 100,000; `auto`: what a batch's target time allows.
        target_batch_seconds: with `auto`, how long a batch should take, 0.001 to 0.5: what the rows
            that it meets have to wait.
        min_batch_rows, max_batch_rows: the bounds of `auto`, 1 to 100,000.
        max_batch_wal_bytes: with `auto`, the most WAL that a batch should write, from 64 KiB.
        duty: the share of its time that a slot spends in batches, 0.01 to 1; it rests in between.
        slice_rows: rows a slice, 1 to 10,000,000.
        concurrency: slices worked on at once, 1 to 64.
        lock: `skip`: rows are locked while they are transformed, and those that others hold are
            passed by and taken later. `optimistic`: rows are read without locks, transformed
            outside any transaction, then locked and written unless what was read has changed; for
            transforms in Python that take long. None: `optimistic` for Call, else `skip`.
        rate: rows per second over all workers, such as `5000/s`; None: as fast as it goes.
        window: when the run may work, such as `22:00-06:00 Europe/Berlin`; None: always.
        start_at: not before this instant, ISO 8601 with an offset; None: at once.
        until: not after this instant; None: to its end.
        lock_timeout_seconds: the longest wait for a lock, 0.001 to 0.9.
        statement_timeout_seconds: the longest statement; not below `lock_timeout_seconds`.
        quarantine_rows: a run with more rows in quarantine stops at once; ≥ 0.
        quarantine_share: a run with a greater share of its rows in quarantine does, 0 to 1.

    Raises:
        DeclarationError: a misspelt option, a value of a wrong type or out of its bounds.
    """

    database: str = "default"
    batch_rows: int | Literal["auto"] = "auto"
    target_batch_seconds: float = 0.05
    min_batch_rows: int = 10
    max_batch_rows: int = 10_000
    max_batch_wal_bytes: int = 16 * 1024 * 1024
    duty: float = 1.0
    slice_rows: int = 50_000
    concurrency: int = 2
    lock: Literal["skip", "optimistic"] | None = None
    rate: str | None = None
    window: str | None = None
    start_at: str | None = None
    until: str | None = None
    lock_timeout_seconds: float = 0.3
    statement_timeout_seconds: float = 30.0
    quarantine_rows: int = 100
    quarantine_share: float = 0.01

    def __post_init__(self) -> None:
        _check_name("database", self.database)
        if self.batch_rows != "auto":
            _check_int("batch_rows", self.batch_rows, 1, 100_000, also='"auto" or ')
        _check_number(
            "target_batch_seconds",
            self.target_batch_seconds,
            MIN_TIMEOUT_SECONDS,
            MAX_TARGET_BATCH_SECONDS,
            why=", because rows are locked for so long",
        )
        _check_int("min_batch_rows", self.min_batch_rows, 1, 100_000)
        _check_int(
            "max_batch_rows",
            self.max_batch_rows,
            self.min_batch_rows,
            100_000,
            why="; the least is min_batch_rows",
        )
        _check_int("max_batch_wal_bytes", self.max_batch_wal_bytes, MIN_BATCH_WAL_BYTES, 2**40)
        _check_number("duty", self.duty, 0.01, 1.0)
        _check_int("slice_rows", self.slice_rows, 1, 10_000_000)
        _check_int("concurrency", self.concurrency, 1, 64)
        if self.lock not in (None, "skip", "optimistic"):
            raise _wrong("lock", self.lock, '"skip", "optimistic" or None')
        _check_text("rate", self.rate, Rate.parse, 'text such as "5000/s", or None')
        _check_text(
            "window", self.window, Window.parse, 'text such as "22:00-06:00 Europe/Berlin", or None'
        )
        start = _check_instant("start_at", self.start_at)
        until = _check_instant("until", self.until)
        if start is not None and until is not None and start >= until:
            raise _wrong("until", self.until, f"later than start_at ({self.start_at})")
        _check_number(
            "lock_timeout_seconds",
            self.lock_timeout_seconds,
            MIN_TIMEOUT_SECONDS,
            MAX_LOCK_TIMEOUT_SECONDS,
            why=", so that in a deadlock it is the run that gives up",
        )
        _check_number(
            "statement_timeout_seconds",
            self.statement_timeout_seconds,
            self.lock_timeout_seconds,
            MAX_STATEMENT_TIMEOUT_SECONDS,
            why="; the least is lock_timeout_seconds",
        )
        _check_int("quarantine_rows", self.quarantine_rows, 0, 2**31 - 1)
        _check_number("quarantine_share", self.quarantine_share, 0.0, 1.0)

    def to_json(self) -> dict[str, object]:
        """All options by name, as the ledger keeps them (jsonb)."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Options:
        """The options that the ledger kept; what an older version did not know has its default.

        Raises:
            ProjectError: a newer version kept an option that this one would not obey.
            DeclarationError: a value out of its bounds.
        """
        if unknown := sorted(kept.keys() - _PARSERS.keys()):
            raise ProjectError(
                f"the run has options that this version of backfill does not know: "
                f"{', '.join(unknown)}",
                remedy="Start this process again with the version that enqueued the run.",
            )
        return cls(**kept)

    @property
    def hours(self) -> Hours:
        """When the run may work: its window, its start and its end together."""
        return Hours.parse(window=self.window, start_at=self.start_at, until=self.until)

    def gentle(self) -> Options:
        """These options with those of GENTLE, where they are not gentler already (smaller)."""
        return replace(self, **{name: min(getattr(self, name), GENTLE[name]) for name in GENTLE})

    def replace_from_text(self, texts: Mapping[str, str]) -> Options:
        """These options with some overridden as on the command line; `none` takes one away.

        Raises:
            UsageError: an option that does not exist, or a value that it cannot have.
        """
        changed: dict[str, Any] = {}
        for name, text in texts.items():
            if (parse := _PARSERS.get(name)) is None:
                raise UsageError(f"there is no option {name}", remedy=did_you_mean(name, _PARSERS))
            if parse is _text_or_none and not text.strip():
                # `--rate "$RATE"` of a shell in which RATE is not set lifts no limit
                raise UsageError(f"{name} is empty", remedy="Write none to lift it.")
            changed[name] = parse(text.strip())
        try:
            return replace(self, **changed)
        except OptionError as error:
            raise UsageError(error.typed, remedy=error.remedy) from None


def _int_or_text(text: str) -> int | str:
    # what is no number stays as it is, for the check to name with the right form
    try:
        return int(text)
    except ValueError:
        return text


def _float_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _text_or_none(text: str) -> str | None:
    return None if text.lower() == "none" else text


_PARSERS: dict[str, Callable[[str], object]] = {
    "database": str,
    "batch_rows": _int_or_text,
    "target_batch_seconds": _float_or_text,
    "min_batch_rows": _int_or_text,
    "max_batch_rows": _int_or_text,
    "max_batch_wal_bytes": _int_or_text,
    "duty": _float_or_text,
    "slice_rows": _int_or_text,
    "concurrency": _int_or_text,
    "lock": _text_or_none,
    "rate": _text_or_none,
    "window": _text_or_none,
    "start_at": _text_or_none,
    "until": _text_or_none,
    "lock_timeout_seconds": _float_or_text,
    "statement_timeout_seconds": _float_or_text,
    "quarantine_rows": _int_or_text,
    "quarantine_share": _float_or_text,
}


def _check_name(field: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(field, value, 'a name in the project\'s settings, such as "main"')


def _check_int(
    field: str, value: object, least: int, most: int, *, also: str = "", why: str = ""
) -> None:
    # True is an int for Python
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _wrong(field, value, f"{also}a whole number from {least:,} to {most:,}{why}")


def _check_number(field: str, value: object, least: float, most: float, *, why: str = "") -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not least <= value <= most
    ):
        raise _wrong(field, value, f"a number from {least:,} to {most:,}{why}")


def _check_text(field: str, value: object, parse: Callable[[str], object], right: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise _wrong(field, value, right)
    try:
        parse(value)
    except UsageError as error:
        raise OptionError(
            f"Options({field}={value!r}): {error.message}",
            typed=error.message,
            remedy=error.remedy or f"{field} is {right}.",
        ) from None


def _check_instant(field: str, value: object) -> datetime | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
        if instant is not None and instant.utcoffset() is not None:
            instant = instant.astimezone(UTC)  # fails within a day of Python's first and last
    except (ValueError, OverflowError):
        instant = None
    if instant is None or instant.utcoffset() is None:
        raise _wrong(field, value, 'an instant with its offset, such as "2026-12-01T22:00+01:00"')
    return instant


def _wrong(field: str, value: object, right: str) -> OptionError:
    return OptionError(
        f"Options({field}={value!r}): that is no value for {field}",
        typed=f"{value!r} is no value for {field}",
        remedy=f"{field} is {right}.",
    )
