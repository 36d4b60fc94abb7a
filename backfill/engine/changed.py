"""A job whose declaration changed in mid-run: what a run can follow, and how its pause ends.

What was resolved or claimed when the run was enqueued, its table, key and target, cannot change:
its slices would mean other rows.
"""

from __future__ import annotations

from backfill.job.declaration import Declaration
from backfill.pg.ledger import Run


def fixed_changes(run: Run, declaration: Declaration) -> str:
    """What has changed that the run cannot follow: `table and another key`; empty: nothing."""
    was, now = run.declaration, declaration.describe()
    source_now: dict[str, object] = now["source"]  # type: ignore[assignment]
    fixed = [
        ("table", was["source"]["table"], source_now["table"]),
        ("key", was["source"]["key"], source_now["key"]),
        ("target", was["target"], now["target"]),
    ]
    return " and another ".join(what for what, before, after in fixed if before != after)


def remedies(run: Run, declaration: Declaration) -> tuple[str, str]:
    """The two ways to go on: with the declaration that the run began with, and with the new one.

    Where the run cannot follow the new one, the second is its end, in favour of a new run.
    """
    back = f"deploy the old one and `backfill resume {run.id}`"
    if fixed_changes(run, declaration):
        return back, f"end it (`backfill cancel {run.id}`) and begin a new run"
    return back, f"`backfill resume {run.id} --accept-changes` to go on with the new one"
