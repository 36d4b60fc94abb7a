"""Making a workbench: connect, look the tables up, bind the job, make the statements."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import psycopg
from psycopg.pq import TransactionStatus

from backfill.clock import Clock
from backfill.engine.bench import Bench, Observer, SilentObserver, holder_name, run_info
from backfill.engine.columns import read_columns
from backfill.engine.pace import Pace
from backfill.engine.reading import reading_of
from backfill.engine.removal import Removal
from backfill.engine.rows import keyset_of, query_of, read_relation, source_relation
from backfill.engine.sizing import BatchSizer
from backfill.engine.telling import raised
from backfill.engine.transform import PythonTransform
from backfill.engine.write import Writer
from backfill.errors import ProjectError
from backfill.events import Event
from backfill.job import Insert, Job, Options, RowFactory
from backfill.job.declaration import Declaration, bind
from backfill.job.secret import Secrets
from backfill.pg import catalog, slices
from backfill.pg.bounds import begin_at
from backfill.pg.connect import (
    READ_LIMITS,
    Connection,
    refuse_standby,
    refuse_standby_source,
    transaction,
)
from backfill.pg.control import add_event_once
from backfill.pg.failure import FaultKind, classify
from backfill.pg.keyset import Keyset
from backfill.pg.ledger import Ledger, Run
from backfill.pg.values import ReadTexts, ValueTexts
from backfill.settings import EngineSettings


def make_bench(
    connect: Callable[[], Connection],
    ledger: Ledger,
    run: Run,
    declaration: Declaration,
    *,
    settings: EngineSettings,
    clock: Clock,
    pace: Pace,
    observer: Observer | None = None,
    environ: Mapping[str, str] = os.environ,
    stopping: Callable[[], bool] = lambda: False,
    asks_for_signals: bool = False,
    max_slots: int | None = None,
    is_trial: bool = False,
    connect_source: Callable[[], Connection] | None = None,
) -> Bench:
    """Connect, look the tables up, bind the job, make the statements, call the job's `setup`.

    Args:
        connect_source: to the source's database, where it is not the one that is written.
        is_trial: nothing is committed, so there need be neither a ledger nor such a run.

    Raises:
        ProjectError: a table or column is gone, a secret's variable is not set, `setup` raised.
        UnreachableError: a database does not answer, or is a standby.
    """
    if connect_source is not None:
        connect_source = partial(_to_primary, connect_source)
    conn = connect()
    source_conn: Connection | None = None
    try:
        refuse_standby(conn)
        source_conn = None if connect_source is None else connect_source()
        bench = _make(
            conn,
            connect,
            ledger,
            run,
            declaration,
            settings=settings,
            clock=clock,
            pace=pace,
            observer=observer or SilentObserver(),
            environ=environ,
            stopping=stopping,
            asks_for_signals=asks_for_signals,
            max_slots=max_slots,
            is_trial=is_trial,
            reader=source_conn or conn,
        )
        if connect_source is None and not bench.source.is_lockable:
            connect_source = connect
            source_conn = connect()
    except BaseException:
        conn.close()
        if source_conn is not None:
            source_conn.close()
        raise
    if connect_source is not None:
        bench.source_conn, bench.connect_source = source_conn, connect_source
    return bench


def _to_primary(connect: Callable[[], Connection]) -> Connection:
    """Each time anew: after a fail-over the same address may lead to a standby."""
    conn = connect()
    try:
        refuse_standby_source(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def _make(
    conn: Connection,
    connect: Callable[[], Connection],
    ledger: Ledger,
    run: Run,
    declaration: Declaration,
    *,
    settings: EngineSettings,
    clock: Clock,
    pace: Pace,
    observer: Observer,
    environ: Mapping[str, str],
    stopping: Callable[[], bool],
    asks_for_signals: bool,
    max_slots: int | None,
    is_trial: bool,
    reader: Connection,
) -> Bench:
    name = declaration.job_class.__name__
    resolved = run.resolved
    job = bind(
        declaration.job_class,
        declaration.params_from_json(run.params),
        run=run_info(run),
        environ=environ,
    )
    arguments = declaration.sql_arguments(job)
    source = source_relation(reader, declaration, resolved.table, arguments)
    target = (
        catalog.relation(conn, declaration.target.table, used_by=f"{name}.target")
        if isinstance(declaration.target, Insert)
        else source
    )
    read = read_relation(reader, declaration, source, arguments)
    keyset = begin_at(
        keyset_of(declaration, source, resolved.key, resolved.key_types), run.from_key
    )
    writer = Writer(declaration, keyset, source=read, target=target, arguments=arguments)
    columns = (
        read_columns(declaration, read, resolved.key)
        if declaration.kind in {"row", "batch"}
        else None
    )
    options = Options.from_json(run.options)
    is_unlocked = declaration.reads_unlocked(options, lockable=source.is_lockable)
    if run.speed < 1:
        pace.tune(options, speed=run.speed)
    _set_up(reader, run, job, declaration.secrets(arguments))
    return Bench(
        conn=conn,
        ledger=ledger,
        run=run,
        declaration=declaration,
        job=job,
        options=options,
        source=source,
        keyset=keyset,
        after_rewalk=replace(
            keyset, matches=f"{keyset.matches} AND {_not_quarantined(ledger, keyset)}"
        ),
        query=query_of(declaration),
        removal=Removal(keyset) if declaration.deletes_source else None,
        writer=writer,
        columns=columns,
        reading=(
            reading_of(declaration, keyset, columns, source=read, target=target)
            if is_unlocked
            else None
        ),
        rows=None if columns is None else RowFactory(columns, resolved.key),
        transform=(PythonTransform(declaration, job, clock=clock) if columns is not None else None),
        texts=(ReadTexts if is_unlocked and declaration.computes else ValueTexts)(conn),
        arguments=arguments,
        settings=settings,
        clock=clock,
        pace=pace,
        sizer=BatchSizer(options),
        reads_wal=(
            slices.can_read_wal(conn) is None if is_trial else _reads_wal(conn, ledger, run)
        ),
        asks_for_signals=asks_for_signals,
        max_slots=max_slots,
        observer=observer,
        stopping=stopping,
        connect=connect,
    )


def _reads_wal(conn: Connection, ledger: Ledger, run: Run) -> bool:
    """Whether the WAL that batches write can be told; where it cannot, the run's events say so."""
    refused = slices.can_read_wal(conn)
    if refused is not None:
        add_event_once(
            conn,
            ledger,
            Event.SIGNAL_OFF,
            run=run.id,
            caused_by=holder_name(),
            signal="max_batch_wal_bytes",
            reason=f"pg_current_wal_insert_lsn: {type(refused).__name__} ({refused.sqlstate})",
        )
    return refused is None


def _set_up(conn: Connection, run: Run, job: Job, secrets: Secrets) -> None:
    """The job's own `setup`, once for each bench; whatever it raises is the job's fault."""
    with transaction(conn, READ_LIMITS, run=run.id):
        conn.execute("SET TRANSACTION READ ONLY")
        try:
            job.setup(conn)
        except Exception as error:
            if isinstance(error, psycopg.OperationalError) and _is_passing(conn, error):
                raise
            raise ProjectError(
                f"{type(job).__name__}.setup raised {raised(error, secrets)}",
                remedy="Mend it; it may read, and nothing else, for as long as"
                f" {READ_LIMITS.statement_timeout_seconds:.0f} s in a statement.",
            ) from error


def _is_passing(conn: Connection, error: psycopg.OperationalError) -> bool:
    """True when it is our own connection that failed, and another try may help.

    A statement that took too long takes as long again; and what `setup` has connected to by itself
    is its own affair: both would be tried for ever, and said to be the database that is away.
    """
    if conn.broken:
        return True
    has_failed = conn.info.transaction_status is TransactionStatus.INERROR
    return has_failed and classify(error, writing=False).kind is FaultKind.TRANSIENT


def _not_quarantined(ledger: Ledger, keyset: Keyset) -> str:
    """Parameters `run_id` and `slice_number`; the key as the ledger keeps it."""
    return (
        ledger.q(
            "NOT EXISTS (SELECT FROM {s}.quarantine AS _bf_q WHERE _bf_q.run = %(run_id)s"
            " AND _bf_q.slice = %(slice_number)s AND _bf_q.key = "
        ).as_string(None)
        + f"{keyset.quarantine_key().as_string(None)})"
    )
