"""Changes to the ledger's rows for runs: written, claimed, moved on, paused.

Each function is handed a connection with an open transaction, and never commits. The lock order is
run, then slice, then the user's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from backfill.errors import RefusedError
from backfill.model import TRANSITIONS, PauseCause, RunState
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, Run
from backfill.pg.storable import storable


def insert_run(conn: Connection, ledger: Ledger, run: Mapping[str, Any]) -> None:
    """Write a new run, queued. A transaction must be open.

    Raises psycopg's UniqueViolation of `run_one_live_per_job` when the job has a live run.
    """
    conn.execute(
        ledger.q(
            "INSERT INTO {s}.run (id, job, job_version, fingerprint, declaration, params, options,"
            " executor, requested_by, source, from_key, to_key, row_limit) VALUES (%(id)s, %(job)s,"
            " %(job_version)s, %(fingerprint)s, %(declaration)s, %(params)s, %(options)s,"
            " %(executor)s, %(requested_by)s, %(source)s, %(from_key)s::text[], %(to_key)s::text[],"
            " %(row_limit)s)"
        ),
        {
            **run,
            **{name: Jsonb(run[name]) for name in ("declaration", "params", "options", "source")},
        },
    )


def claim_writes(
    conn: Connection, ledger: Ledger, run: str, relation: str, columns: Sequence[str]
) -> None:
    """Claim columns for a live run. A transaction must be open.

    Raises:
        RefusedError: another live run writes one of them; names both.
    """
    for column in sorted(columns):
        taken = conn.execute(
            ledger.q(
                "INSERT INTO {s}.write_claim (relation, column_name, run) VALUES (%s, %s, %s)"
                " ON CONFLICT (relation, column_name) DO UPDATE SET run = write_claim.run"
                " RETURNING run"
            ),
            [relation, column, run],
        ).fetchone()
        if taken is not None and taken[0] != run:
            what = "rows" if column == "*" else f"column {column}"
            raise RefusedError(
                f"run {taken[0]} is live and writes the same {what} of {relation}",
                remedy=f"Wait for it (backfill watch {taken[0]}) or end it"
                f" (backfill cancel {taken[0]}).",
            )


def release_writes(conn: Connection, ledger: Ledger, run: str) -> None:
    """Give up what the run claimed. A transaction must be open."""
    conn.execute(ledger.q("DELETE FROM {s}.write_claim WHERE run = %s"), [run])


def set_state(conn: Connection, ledger: Ledger, run: Run, state: RunState, **values: Any) -> None:
    """Move a run that this transaction has locked along an arrow of TRANSITIONS.

    Args:
        values: further columns to set, such as `failure` or `finished_at`.

    Raises:
        RefusedError: there is no such arrow; names both states.
    """
    if state not in TRANSITIONS[run.run_state]:
        raise RefusedError(
            f"run {run.id} is {run.state} and cannot become {state}",
            remedy=f"See `backfill status {run.id}`.",
        )
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name))
        for name in ("state", *values)
    )
    conn.execute(
        sql.SQL("UPDATE {}.run SET {} WHERE id = %(id)s").format(
            sql.Identifier(ledger.schema), assignments
        ),
        {
            "id": run.id,
            "state": str(state),
            **{name: storable(v) if isinstance(v, str) else v for name, v in values.items()},
        },
    )


def insert_pause(
    conn: Connection,
    ledger: Ledger,
    run: str,
    cause: PauseCause,
    *,
    reason: str,
    ends: str,
    by: str,
) -> bool:
    """Add a cause; False when it was there already. A transaction must be open."""
    return (
        conn.execute(
            ledger.q(
                "INSERT INTO {s}.pause (run, cause, reason, ends, caused_by)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
            ),
            [run, str(cause), *map(storable, (reason, ends, by))],
        ).rowcount
        == 1
    )


def delete_pauses(
    conn: Connection, ledger: Ledger, run: str, causes: Sequence[PauseCause] | None = None
) -> list[str]:
    """Take causes away (all when None) and say which were there. A transaction must be open."""
    return [
        row[0]
        for row in conn.execute(
            ledger.q(
                "DELETE FROM {s}.pause WHERE run = %(run)s"
                " AND (%(causes)s::text[] IS NULL OR cause = ANY(%(causes)s)) RETURNING cause"
            ),
            {"run": run, "causes": None if causes is None else [str(cause) for cause in causes]},
        )
    ]
