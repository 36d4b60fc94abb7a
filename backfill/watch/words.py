"""Values in words, for whoever tells people of a run: terminal, message, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backfill.model import Counts
from backfill.url import safe_url
from backfill.watch.markdown import code

if TYPE_CHECKING:  # the driver takes a while to import
    from backfill.pg.ledger import Run


def utc(at: datetime | None) -> str | None:
    """ISO 8601, in UTC."""
    return None if at is None else at.astimezone(UTC).isoformat()


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`, `4 d 03 h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def counts_sum(counts: Counts) -> str:
    """`1,000 paged = 990 written + 10 unchanged`: every key paged has one outcome (I2)."""
    outcomes = [
        f"{value:,} {name}" for name, value in counts.as_dict().items() if value and name != "paged"
    ]
    return f"{counts.paged:,} paged = {' + '.join(outcomes) or '0'}"


def limit_reached(rows: int) -> str:
    """What is said of a run that has succeeded, and took as many rows as its limit says."""
    taken = "1 row" if rows == 1 else f"{rows:,} rows"
    return f"it took the {taken} of its limit; there may be more"


def bounds(run: Run) -> str:
    """`from 100, up to 200 (not included), at most 1,000 rows`; empty: all that match.

    Keys are values of rows: for the terminal and the report alone. See `untold`.
    """
    told = []
    if run.from_key is not None:
        told.append(f"from {_key(run.from_key)}")
    if run.to_key is not None:
        told.append(f"up to {_key(run.to_key)} (not included)")
    if run.row_limit is not None:
        told.append(f"at most {run.row_limit:,} rows")
    return ", ".join(told)


def _key(key: Sequence[str]) -> str:
    """As the command line takes it; KEY where it is not told."""
    if not key:
        return "KEY"
    return key[0] if len(key) == 1 else json.dumps(list(key), ensure_ascii=False)


def bounds_flags(run: Run) -> list[str]:
    """The same as arguments of `run` and `enqueue`, not quoted."""
    flags = []
    if run.from_key is not None:
        flags.append(f"--from={_key(run.from_key)}")
    if run.to_key is not None:
        flags.append(f"--to={_key(run.to_key)}")
    if run.row_limit is not None:
        flags.append(f"--limit={run.row_limit}")
    return flags


def bounds_to_json(run: Run) -> dict[str, Any]:
    """`from` and `to` are lists of texts; null: not bounded; empty: bounded, and not told here."""
    return {
        "from": None if run.from_key is None else list(run.from_key),
        "to": None if run.to_key is None else list(run.to_key),
        "limit": run.row_limit,
    }


def untold(run: Run) -> dict[str, Any]:
    """What a run's keys are replaced by where values of rows may not be."""
    return {
        "from_key": None if run.from_key is None else [],
        "to_key": None if run.to_key is None else [],
    }


def told_url(database: str, url: str) -> str:
    """`main (db.example:5432/shop)`: a database's name and where it is; no user, no password."""
    return f"{database} ({safe_url(url).partition('://')[2]})"


def scope(source: Mapping[str, Any]) -> str:
    """Which rows it was about: those of a query, else the table's that match."""
    if "sql" in source:
        return f"the rows of {code(' '.join(source['sql'].split()))}"
    return code(source["where"]) if source["where"] else "every row"


def line(
    run: Run,
    *,
    percent: int | None,
    settled: int,
    total: int | None,
    rows_per_second: float | None,
) -> str:
    """A run's progress in one line, for the terminal and for Flower."""
    share = "" if percent is None else f" {percent} %"
    of = "" if total is None else f"/{total:,}"
    rate = "" if rows_per_second is None else f", {rows_per_second:,.0f} rows/s"
    return f"{label(run)}{share} {settled:,}{of}{rate}"


def label(run: Run) -> str:
    """What a run fills: table and columns, or source and target; or what it does to the rows."""
    name = str(run.source["name"])
    target = run.declaration["target"]
    if target["kind"] == "insert":
        return f"{name} → {target['table']}"
    if target["kind"] in {"delete", "call"}:
        return f"{name} ({target['kind']})"
    columns = target["columns"] or list(run.declaration["transform"]["sql"] or ())
    return f"{name}.{','.join(columns)}"
