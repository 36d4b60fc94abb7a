"""Findings in the ledger: what else works on these columns, and how fast the job was before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backfill.engine.checks.finding import Finding, error, warning
from backfill.engine.checks.subject import Subject
from backfill.pg.connect import Connection
from backfill.pg.control import stopped
from backfill.pg.grants import missing_rights
from backfill.pg.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The job's latest run that came to its end."""

    run: str
    rows_per_second: float


# Reads the ledger only, by the index on a job's runs and the key of slices.
_BEFORE = """
SELECT r.id, sum(s.paged)::float8 / extract(epoch FROM r.finished_at - r.started_at)::float8
  FROM {s}.run r JOIN {s}.slice s ON s.run = r.id
 WHERE r.job = %s AND r.state = 'succeeded' AND r.finished_at > r.started_at
 GROUP BY r.id HAVING sum(s.paged) > 0 ORDER BY r.created_at DESC LIMIT 1
"""
_CLAIMED = """
SELECT run, string_agg(column_name, ', ' ORDER BY column_name) FROM {s}.write_claim
 WHERE relation = %s AND column_name = ANY(%s) GROUP BY run ORDER BY run
"""
_LIVE = """
SELECT id, state FROM {s}.run WHERE job = %s AND finished_at IS NULL AND state <> 'failed'
 ORDER BY created_at DESC LIMIT 1
"""


def before(conn: Connection, ledger: Ledger, job: str) -> Before | None:
    """How fast the job was when it was done last; None: it never was."""
    row = conn.execute(ledger.q(_BEFORE), [job]).fetchone()
    return None if row is None else Before(run=row[0], rows_per_second=row[1])


def ledger_rights(conn: Connection, ledger: Ledger) -> Iterator[Finding]:
    """A run writes into the ledger's tables, as the role of whoever works on it."""
    missing = missing_rights(conn, ledger.schema)
    if missing:
        yield error(
            "ledger-not-permitted",
            f"role {conn.info.user} lacks rights on the ledger: {', '.join(missing)}",
            why="A run would stop at the first statement that needs one of them.",
            remedy="Let its owner run what `backfill db grants ROLE` prints.",
        )


def live_runs(conn: Connection, ledger: Ledger, subject: Subject) -> Iterator[Finding]:
    """A job has one live run, and two live runs never write the same column (I1)."""
    live = conn.execute(ledger.q(_LIVE), [subject.declaration.name]).fetchone()
    if live is not None:
        yield error(
            "run-live",
            f"job {subject.declaration.name} has a live run already: {live[0]} ({live[1]})",
            why="A second one would be refused: each row is to be done once.",
            remedy=f"Watch it (backfill watch {live[0]}), resume it (backfill resume {live[0]}) or"
            f" end it (backfill cancel {live[0]}).",
        )
    claimed = conn.execute(
        ledger.q(_CLAIMED), [subject.claimed_table, list(subject.claimed)]
    ).fetchall()
    for run, columns in claimed:
        if live is None or run != live[0]:
            yield error(
                "columns-claimed",
                f"run {run} is live and writes {columns} of {subject.claimed_table}",
                why="Two runs that write one column would undo each other's work.",
                remedy=f"Wait for it (backfill watch {run}) or end it (backfill cancel {run}).",
            )


def red_button(conn: Connection, ledger: Ledger) -> Iterator[Finding]:
    """While everything is stopped, a new run is born paused."""
    button = stopped(conn, ledger)
    if button is not None:
        yield warning(
            "stopped",
            button.told,
            why="A new run begins paused.",
            remedy="`backfill start-all` lets runs go on.",
        )
