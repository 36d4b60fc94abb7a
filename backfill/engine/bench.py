"""The workbench: all that one process needs to work on one run, made once and kept.

It holds a connection, the job with its parameters, and the statements made for its tables. It is
used by one thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import psycopg
import tenacity

from backfill.clock import Clock
from backfill.engine.columns import read_columns
from backfill.engine.halving import Halving
from backfill.engine.pace import Pace
from backfill.engine.reading import Reading, reading_of
from backfill.engine.removal import Removal
from backfill.engine.rows import keyset_of, query_of, read_relation
from backfill.engine.sizing import BatchSizer
from backfill.engine.transform import Memory, PythonTransform
from backfill.engine.write import Writer
from backfill.errors import ProjectError, UnreachableError
from backfill.events import Event
from backfill.job import Call, Insert, Job, Options, RowFactory
from backfill.job.declaration import Declaration, bind
from backfill.model import BatchInfo, Counts, RunInfo
from backfill.pg import catalog, slices
from backfill.pg.connect import READ_LIMITS, Connection, Limits, refuse_standby, transaction
from backfill.pg.control import add_event_once
from backfill.pg.keyset import Keyset
from backfill.pg.ledger import Ledger, Run
from backfill.pg.query import QuerySql
from backfill.pg.slices import Slice
from backfill.pg.values import ValueTexts
from backfill.settings import EngineSettings

#: Told of the named points of a batch, at which the tests kill the process.
Probe = Callable[[str], None]


def no_probe(_: str) -> None:
    """In production nothing happens at the named points."""


#: How long a lost connection is tried again before the work is given up for now.
RECONNECT_SECONDS = 5.0


class Observer(Protocol):
    """Is told what happened after it was committed; whatever it does, the work goes on."""

    def batch_committed(self, bench: Bench, info: BatchInfo, held: Slice, added: Counts) -> None:
        """A batch took effect; `held` has the slice's counts after it."""

    def batch_failed(self, bench: Bench, code: str | None) -> None:
        """A batch was rolled back, and is tried again: its SQLSTATE; None: it was cut off."""

    def outage(self, bench: Bench) -> None:
        """The transform says that the world outside is away."""


class SilentObserver:
    """Watches nothing."""

    def batch_committed(self, bench: Bench, info: BatchInfo, held: Slice, added: Counts) -> None:
        """Do nothing."""

    def batch_failed(self, bench: Bench, code: str | None) -> None:
        """Do nothing."""

    def outage(self, bench: Bench) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Watched:
    """When this process last looked what it is to obey; seconds of the monotonic clock.

    Attributes:
        since: it has looked regularly since then.
        at: it looked last.
        others_at: it last looked whether another session waits for a lock of ours.
    """

    since: float = float("-inf")
    at: float = float("-inf")
    others_at: float = float("-inf")


def holder_name() -> str:
    """Who holds a slice: host, process and thread; shown to people."""
    return f"{socket.gethostname()}:{os.getpid()}.{threading.get_native_id()}"


@dataclass(slots=True, kw_only=True)
class Bench:
    """See the module.

    Attributes:
        removal: deletes from the source what was inserted; None: it stays there.
        query: what gives the rows of the source's table that are ours; None: the table does.
        columns: those that a Python transform is given; None when PostgreSQL computes.
        reading: how rows are read without locks; None: they are locked when they are read.
        after_rewalk: the keyset with the quarantined keys of a slice left out, for its next pass.
        reads_wal: how far the server's WAL has come can be read, so batches have a budget of it.
        asks_for_signals: the settings name signals, so a run that nobody measures stops.
        max_slots: slices of all runs that this database lets be held at once; None: any number.
        on_tune: called with the new options when they have changed.
        control: what live.py remembers between two looks at the ledger.
    """

    conn: Connection
    ledger: Ledger
    run: Run
    declaration: Declaration
    job: Job
    options: Options
    source: catalog.Relation
    keyset: Keyset
    after_rewalk: Keyset
    writer: Writer
    removal: Removal | None
    query: QuerySql | None
    columns: tuple[str, ...] | None
    reading: Reading | None
    rows: RowFactory | None
    transform: PythonTransform | None
    texts: ValueTexts
    arguments: Mapping[str, Any]
    settings: EngineSettings
    clock: Clock
    pace: Pace
    sizer: BatchSizer
    observer: Observer = field(default_factory=SilentObserver)
    holder: str = field(default_factory=holder_name)
    halving: Halving = field(default_factory=Halving)
    memory: Memory = field(default_factory=Memory)
    stopping: Callable[[], bool] = lambda: False
    probe: Probe = no_probe
    since_heartbeat: float = 0.0
    reads_wal: bool = False
    asks_for_signals: bool = False
    max_slots: int | None = None
    on_tune: Callable[[Options], None] = lambda _: None
    control: Watched = field(default_factory=Watched)
    connect: Callable[[], Connection] | None = None

    def reconnect_if_closed(self) -> None:
        """Open a new connection in place of a broken one, trying for a few seconds.

        Raises:
            UnreachableError: the server does not come back in that time.
        """
        if self.connect is None or not self.conn.closed:
            return
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(UnreachableError),
            stop=tenacity.stop_after_delay(RECONNECT_SECONDS),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=0.5),
            sleep=self.clock.sleep,
            reraise=True,
        ):
            with attempt:
                self.conn = self.connect()
        self.texts = ValueTexts(self.conn)

    def tune(self, options: Mapping[str, Any], *, speed: float) -> None:
        """Obey these options, as the ledger keeps them, and this speed from the next batch on.

        Raises:
            BackfillError: a newer version wrote options that this one does not know.
        """
        is_tuned = options != self.run.options
        if not is_tuned and speed == self.run.speed:
            return
        parsed = Options.from_json(options) if is_tuned else self.options
        self.run = replace(self.run, options=options, speed=speed)
        self.options = parsed
        self.pace.tune(parsed, speed=speed)
        if is_tuned:
            self.sizer.tune(parsed)
            self.on_tune(parsed)

    @property
    def reader(self) -> Connection:
        """Where rows are read without locks."""
        return self.conn

    @property
    def limits(self) -> Limits:
        return Limits(
            lock_timeout_seconds=self.options.lock_timeout_seconds,
            statement_timeout_seconds=self.options.statement_timeout_seconds,
        )

    @property
    def checks_completion(self) -> bool:
        """Only a `todo` tells a row that is done; what Call does is not seen in its rows."""
        declaration = self.declaration
        return declaration.source.todo is not None and not isinstance(declaration.target, Call)


def run_info(run: Run, *, counts: Counts | None = None) -> RunInfo:
    """The run as a job's own code sees it."""
    return RunInfo(
        id=run.id,
        job=run.job,
        database=str(run.options.get("database", "default")),
        params=dict(run.params),
        state=run.run_state,
        counts=counts or Counts(),
        created_at=run.created_at,
    )


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
) -> Bench:
    """Connect, look the tables up, bind the job, make the statements, call the job's `setup`.

    Args:
        is_trial: nothing is committed, so there need be neither a ledger nor such a run.

    Raises:
        ProjectError: a table or column is gone, a secret's variable is not set, `setup` raised.
        UnreachableError: the database does not answer, or is a standby.
    """
    conn = connect()
    try:
        refuse_standby(conn)
        return _make(
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
        )
    except BaseException:
        conn.close()
        raise


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
) -> Bench:
    name = declaration.job_class.__name__
    resolved = run.resolved
    job = bind(
        declaration.job_class,
        declaration.params_from_json(run.params),
        run=run_info(run),
        environ=environ,
    )
    source = catalog.relation(conn, resolved.table, used_by=f"{name}.source")
    target = (
        catalog.relation(conn, declaration.target.table, used_by=f"{name}.target")
        if isinstance(declaration.target, Insert)
        else source
    )
    arguments = declaration.sql_arguments(job)
    read = read_relation(conn, declaration, source, arguments)
    keyset = keyset_of(declaration, source, resolved.key, resolved.key_types)
    writer = Writer(declaration, keyset, source=read, target=target, arguments=arguments)
    columns = read_columns(declaration, read, resolved.key) if writer.is_python else None
    options = Options.from_json(run.options)
    is_unlocked = declaration.reads_unlocked(options)
    if run.speed < 1:
        pace.tune(options, speed=run.speed)
    _set_up(conn, run, job)
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
        reading=_reading(declaration, keyset, columns) if columns and is_unlocked else None,
        rows=None if columns is None else RowFactory(columns, resolved.key),
        transform=(PythonTransform(declaration, job, clock=clock) if columns is not None else None),
        texts=ValueTexts(conn),
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


def _reading(declaration: Declaration, keyset: Keyset, columns: tuple[str, ...]) -> Reading:
    query = query_of(declaration)
    readable = keyset if query is None else query.as_table(keyset, columns)
    return reading_of(declaration, readable, columns)


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


def _set_up(conn: Connection, run: Run, job: Job) -> None:
    """The job's own `setup`, once per process and run; whatever it raises is the job's fault."""
    with transaction(conn, READ_LIMITS, run=run.id):
        conn.execute("SET TRANSACTION READ ONLY")
        try:
            job.setup(conn)
        except psycopg.OperationalError:
            raise
        except Exception as error:
            raise ProjectError(
                f"{type(job).__name__}.setup raised {type(error).__name__}: {error}",
                remedy="Mend it; it may read, and nothing else.",
            ) from error


def _not_quarantined(ledger: Ledger, keyset: Keyset) -> str:
    """Parameters `run_id` and `slice_number`; the key as the ledger keeps it."""
    return (
        ledger.q(
            "NOT EXISTS (SELECT FROM {s}.quarantine AS _bf_q WHERE _bf_q.run = %(run_id)s"
            " AND _bf_q.slice = %(slice_number)s AND _bf_q.key = "
        ).as_string(None)
        + f"{keyset.quarantine_key().as_string(None)})"
    )
