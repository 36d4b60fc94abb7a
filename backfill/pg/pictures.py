"""What a picture of a run shows beside its totals: a map of its slices, who works, the quarantine.

Functions are handed a connection with an open transaction, read, and never commit. Each reads a
run's slices or its quarantine once, so once a second or so, not once for each who watches.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from backfill.model import LIVE
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger

#: A map has at most so many cells; a run with more slices has several in each.
MOST_CELLS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Neighbouring slices, in the order of their keys: how many, and how many of them are where.

    Attributes:
        first: the number of the first of them, from 1.
        held: how many are under a lease.
        failing: how many have failed since their last commit.
    """

    first: int
    slices: int
    walk: int
    sweep: int
    verify: int
    done: int
    held: int
    failing: int
    quarantined: int
    deferred: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """A slice that somebody holds.

    Attributes:
        holder: host, process and thread.
        batch_rows, batch_seconds: of its last batch; None before the first.
        idle_seconds: since its last batch.
    """

    slice: int
    slot: int | None
    holder: str
    epoch: int
    phase: str
    paged: int
    batch_rows: int | None
    batch_seconds: float | None
    idle_seconds: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """Rows in quarantine for one reason: the SQLSTATE, or None where the transform refused them."""

    sqlstate: str | None
    open: int
    accepted: int


def read_map(conn: Connection, ledger: Ledger, run: str) -> list[Cell]:
    """A run's slices as at most MOST_CELLS cells, in the order of the keys."""
    with conn.cursor(row_factory=class_row(Cell)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT min(number) AS first, count(*)::int AS slices,"
                " (count(*) FILTER (WHERE phase = 'walk'))::int AS walk,"
                " (count(*) FILTER (WHERE phase = 'sweep'))::int AS sweep,"
                " (count(*) FILTER (WHERE phase = 'verify'))::int AS verify,"
                " (count(*) FILTER (WHERE phase = 'done'))::int AS done,"
                " (count(*) FILTER (WHERE lease_until > clock_timestamp()))::int AS held,"
                " (count(*) FILTER (WHERE attempts <> 0))::int AS failing,"
                " sum(quarantined)::bigint AS quarantined, sum(deferred)::bigint AS deferred"
                " FROM {s}.slice AS one,"
                " (SELECT greatest(max(number), 1) AS newest FROM {s}.slice WHERE run = %(run)s)"
                " AS run WHERE one.run = %(run)s"
                " GROUP BY (number - 1) / ceil(newest::numeric / %(cells)s)::int ORDER BY 1"
            ),
            {"run": run, "cells": MOST_CELLS},
        ).fetchall()


def read_working(conn: Connection, ledger: Ledger, run: str) -> list[Working]:
    """The slices that somebody holds, by slot."""
    with conn.cursor(row_factory=class_row(Working)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT number AS slice, slot, holder, epoch, phase, paged, batch_rows,"
                " batch_seconds, abs(attempts) AS attempts, greatest(0, extract(epoch FROM"
                " clock_timestamp() - progress_at))::float8 AS idle_seconds"
                " FROM {s}.slice WHERE run = %s AND holder IS NOT NULL"
                " AND lease_until > clock_timestamp() ORDER BY slot, number"
            ),
            [run],
        ).fetchall()


def read_set_aside(conn: Connection, ledger: Ledger, run: str) -> list[SetAside]:
    """A run's quarantine by reason, most rows first."""
    with conn.cursor(row_factory=class_row(SetAside)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT sqlstate, count(*) FILTER (WHERE NOT accepted) AS open,"
                " count(*) FILTER (WHERE accepted) AS accepted FROM {s}.quarantine"
                " WHERE run = %s GROUP BY sqlstate ORDER BY count(*) DESC, sqlstate"
            ),
            [run],
        ).fetchall()


def read_ended(conn: Connection, ledger: Ledger, *, within_seconds: float, limit: int) -> list[str]:
    """The runs that ended so recently, the newest end first."""
    rows = conn.execute(
        ledger.q(
            "SELECT id FROM {s}.run WHERE state <> ALL(%s)"
            " AND finished_at > clock_timestamp() - make_interval(secs => %s)"
            " ORDER BY finished_at DESC LIMIT %s"
        ),
        [[str(state) for state in LIVE], within_seconds, limit],
    ).fetchall()
    return [row[0] for row in rows]
