"""Values in words, for whoever tells people of a run: terminal, message, report."""

from __future__ import annotations

from backfill.model import Counts
from backfill.url import safe_url


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


def told_url(database: str, url: str) -> str:
    """`main (db.example:5432/shop)`: a database's name and where it is; no user, no password."""
    return f"{database} ({safe_url(url).partition('://')[2]})"
