"""Makes a run and its slices, past the engine, and batches that hold them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from backfill.model import SlicePhase
from backfill.pg import slices
from backfill.pg.connect import Connection, Limits, application_name, connect, transaction
from backfill.pg.ledger import Ledger
from backfill.pg.slices import Slice

RUN = "fill-abcde"
LONG = 600.0
#: A lease that has run out before anybody can look.
LAPSED = -1.0


def insert_run(pg: Connection, run: str) -> None:
    pg.execute(
        "INSERT INTO backfill.run (id, job, job_version, fingerprint, declaration, params, options,"
        " executor, requested_by, source, state, horizon)"
        " VALUES (%s, %s, 1, '', %s, '{}', '{}', 'local', 'test', '{}', 'running', '{100}')",
        [run, run, Jsonb({})],
    )


def place(
    pg: Connection,
    ledger: Ledger,
    number: int,
    *,
    slot: int,
    lease: float = LONG,
    holder: str = "a",
    is_last: bool = False,
) -> Slice | None:
    """The slice `number`, of ten keys each."""
    after = None if number == 1 else (str(10 * (number - 1)),)
    return slices.place(
        pg,
        ledger,
        RUN,
        after=after,
        upto=(str(10 * number),),
        is_last=is_last,
        holder=holder,
        slot=slot,
        lease_seconds=lease,
    )


def placed(pg: Connection, ledger: Ledger, number: int, *, slot: int, **values: Any) -> Slice:
    held = place(pg, ledger, number, slot=slot, **values)
    assert held is not None
    return held


def free_slices(pg: Connection, ledger: Ledger, count: int) -> None:
    """Slices 1 … count, placed and given back."""
    for number in range(1, count + 1):
        assert slices.release(pg, ledger, placed(pg, ledger, number, slot=0))


def claim(
    pg: Connection,
    ledger: Ledger,
    *,
    slot: int,
    phase: SlicePhase = SlicePhase.WALK,
    holder: str = "b",
    lease: float = LONG,
) -> Slice | None:
    return slices.claim(pg, ledger, RUN, phase, holder=holder, slot=slot, lease_seconds=lease)


def row(pg: Connection, number: int, columns: str) -> tuple[Any, ...]:
    found = pg.execute(
        sql.SQL("SELECT {} FROM backfill.slice WHERE run = %s AND number = %s").format(
            sql.SQL(columns)
        ),
        [RUN, number],
    ).fetchone()
    assert found is not None
    return found


@contextmanager
def batch_of(url: str, ledger: Ledger, held: Slice) -> Iterator[Connection]:
    """An open batch of another process on a slice."""
    limits = Limits(lock_timeout_seconds=0.3, statement_timeout_seconds=30.0)
    name = application_name(held.run, held.number, held.epoch)
    with connect(url) as conn, transaction(conn, limits, name=name, in_batch=True):
        assert slices.lock(conn, ledger, held) is not None
        yield conn


@contextmanager
def hung_batch_of(url: str, ledger: Ledger, held: Slice) -> Iterator[Connection]:
    """The same, of a process whose transaction will be ended before it can commit."""
    with suppress(psycopg.OperationalError), batch_of(url, ledger, held) as conn:
        yield conn


def until(condition: Callable[[], object]) -> None:
    tick = threading.Event()
    for _ in range(6_000):
        if condition():
            return
        tick.wait(0.005)
    pytest.fail("what was waited for did not happen within 30 s")
