"""Keys that cannot serve stop a run: one that two rows have, and one with a NULL in it.

A cursor meets a key once, so the second row of one would be lost where a page ends between the two;
and NULL is on neither side of any bound. An index excludes both in a table. Where there is none to
say so, each page is looked over, and its end (I2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backfill.engine.bench import Bench
from backfill.engine.faults import StopError
from backfill.events import NAMING_KEYS
from backfill.model import Key
from backfill.pg import unfit
from backfill.pg.keyset import Keyset, bound, key_arrays


def refuse_repeated(keyset: Keyset, key: Sequence[str | None]) -> StopError:
    """What stops a run that has met a key twice."""
    return StopError(
        f"two rows have the same key ({', '.join(keyset.columns)}){NAMING_KEYS} {_told(key)}",
        summary="a key occurs twice",
    )


def check_repeated(bench: Bench, keyset: Keyset, keys: Sequence[Key]) -> None:
    """Raises StopError where one of these keys has two rows, ours or not."""
    if not keys:
        return
    found = bench.reader.execute(
        unfit.twice_among(keyset), {**bench.arguments, **key_arrays(keys, len(keyset.columns))}
    ).fetchone()
    if found is not None:
        raise refuse_repeated(keyset, found[0])


def check_null(keyset: Keyset, key: Sequence[Any]) -> None:
    """Raises StopError where a key that was read has a NULL in it."""
    if None not in key:
        return
    columns = [column for column, part in zip(keyset.columns, key, strict=True) if part is None]
    raise StopError(
        f"{', '.join(columns)} of the key is NULL in a row, which no cursor can pass; leave such"
        f" rows out of the source (IS NOT NULL), or name another key{NAMING_KEYS} {_told(key)}",
        summary="a key is NULL",
    )


def check_null_first(bench: Bench) -> None:
    """Raises StopError where a key's first column is NULL: once, when a run begins.

    Behind the other columns `check_null_behind` looks, page by page.
    """
    if bench.source.is_lockable:
        return
    found = bench.reader.execute(unfit.null_first(bench.keyset), bench.arguments).fetchone()
    if found is not None:
        check_null(bench.keyset, found[0])


def check_null_behind(bench: Bench, keyset: Keyset, after: Key | None, upto: Key) -> None:
    """Raises StopError where a key is like the one that a page begins behind, as far as to a NULL.

    Asked of pages that go on to another first column: until then it may be found by the next one.
    At a run's end it is the last key of all, which `NULL` would be.
    """
    if bench.source.is_lockable or len(keyset.columns) == 1 or after is None or after[0] == upto[0]:
        return
    found = bench.reader.execute(
        unfit.null_behind(keyset), {**bench.arguments, **bound("after", after)}
    ).fetchone()
    if found is not None:
        check_null(keyset, found[0])


def _told(key: Sequence[str | None]) -> str:
    return f"({', '.join('NULL' if part is None else part for part in key)})"
