"""A ledger for one run of a test, and what a run left behind.

The ledger has a schema of its own, so that it meets neither a real one nor another test's, and is
dropped whatever happens. A killed test leaves a schema `backfill_test_…`, which may be dropped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from backfill.clock import SystemClock
from backfill.engine.begin import begin
from backfill.engine.bench import Bench, Probe, no_probe
from backfill.engine.enqueue import create_run
from backfill.engine.faults import StopError
from backfill.engine.here import Crew
from backfill.engine.pace import Pace
from backfill.engine.setup import make_bench
from backfill.engine.source import reading_source
from backfill.errors import BackfillError, ProjectError, UsageError
from backfill.job import Bounds, Insert, Options
from backfill.job.declaration import Declaration
from backfill.model import Counts, Key, PauseCause, RunState
from backfill.pg import catalog
from backfill.pg.connect import READ_LIMITS, Connection, connect, transaction
from backfill.pg.install import upgrade
from backfill.pg.ledger import Ledger, Run, get_run, open_ledger, pauses, totals
from backfill.pg.quarantine import quarantined_rows
from backfill.settings import EngineSettings
from backfill.url import UrlVariable

_PREFIX = "backfill_test_"
#: What a test leaves open, such as a transaction of its own, is told in seconds, not in minutes.
_SETTINGS = EngineSettings(sweep_seconds=5.0, begin_wait_seconds=2.0)
_ALL_QUARANTINED_ROWS = 2**31 - 1


class NotFinishedError(BackfillError):
    """The run paused or failed, and not for rows in quarantine; the message says why."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that could not be processed.

    Attributes:
        key: of each key column the text that PostgreSQL writes.
        reason: what `Quarantine` was raised with, or what the exception or PostgreSQL said.
        sqlstate: PostgreSQL's code; None: the transform refused the row.
    """

    key: Key
    reason: str
    sqlstate: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left behind.

    Attributes:
        rows: all rows of the table that the job writes (the target of an Insert, else the source),
            as they are after the run: by column, as psycopg reads them; in the order of the primary
            key, for a source of the job's key; in any where there is none. Of a Call for the rows
            of a query that names no table: none.
        counts: keys by outcome.
        state: `succeeded`; or `paused` where rows are in quarantine.
        quarantine: the rows that could not be processed, in the order in which they were met.
        kills: how often a process was killed meanwhile.
    """

    rows: Sequence[Mapping[str, Any]]
    counts: Counts
    state: str
    quarantine: Sequence[Quarantined] = ()
    kills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A run in a ledger of its own, and the means to work it.

    Attributes:
        conn: to the database that is written.
        connect_source: to the source's, where it is another one.
        keys: how many rows the source has, the job's or not; known when the run has begun.
        reads_unlocked: whether they are read without locks; known then, too.
    """

    url: str
    conn: Connection
    ledger: Ledger
    declaration: Declaration
    run: Run
    connect_source: Callable[[], Connection] | None
    keys: int = 0
    reads_unlocked: bool = False

    @property
    def options(self) -> Options:
        """Those of the run."""
        return Options.from_json(self.run.options)

    def bench(self, stopping: Callable[[], bool] = lambda: False) -> Bench:
        """A workbench with connections of its own."""
        clock = SystemClock()
        return make_bench(
            lambda: connect(self.url),
            self.ledger,
            self.run,
            self.declaration,
            settings=_SETTINGS,
            clock=clock,
            pace=Pace(clock, self.options),
            stopping=stopping,
            connect_source=self.connect_source,
        )

    def crew(self, *, size: int, probe: Probe = no_probe) -> Crew:
        """Threads that work the run to its end."""

        def make(stopping: Callable[[], bool]) -> Bench:
            bench = self.bench(stopping)
            bench.probe = probe
            return bench

        return Crew(make, size=size, clock=SystemClock())

    def begun(self) -> Site:
        """The same after its beginning: what is known of its rows is, and no slice is placed.

        Raises:
            NotFinishedError: it paused.
        """
        bench = self.bench()
        try:
            while (run := begin(bench)).run_state is RunState.QUEUED:
                pass
            keys = _count(bench)
            reads_unlocked = bench.reading is not None
        except StopError as error:
            raise NotFinishedError(f"{self.run.job} cannot begin: {error.reason}") from error
        finally:
            bench.job.teardown()
            bench.close()
        begun = replace(self, run=run, keys=keys, reads_unlocked=reads_unlocked)
        if run.run_state is RunState.PAUSED:
            begun.outcome()
        return begun

    def with_options(self, options: Options) -> Site:
        """The same with these options; nobody works on it yet."""
        self.conn.execute(
            self.ledger.q("UPDATE {s}.run SET options = %s WHERE id = %s"),
            [Jsonb(options.to_json()), self.run.id],
        )
        return replace(self, run=self.now())

    def now(self) -> Run:
        """The run as the ledger has it now."""
        return get_run(self.conn, self.ledger, self.run.id)

    def counts(self) -> Counts:
        """Keys by outcome until now."""
        return totals(self.conn, self.ledger, self.run.id).counts

    def progress(self) -> object:
        """Something that changes whenever the run comes forward."""
        slices = self.conn.execute(
            self.ledger.q(
                "SELECT number, cursor, phase, pass, paged, deferred FROM {s}.slice"
                " WHERE run = %s ORDER BY number"
            ),
            [self.run.id],
        )
        return self.now().state, slices.fetchall()

    def target(self) -> catalog.Relation | None:
        """The table that is written; the source's where the job calls; None: a query has none."""
        target, name = self.declaration.target, self.declaration.job_class.__name__
        if isinstance(target, Insert):
            return catalog.relation(self.conn, target.table, used_by=f"{name}.target")
        if self.declaration.source.table is None:
            return None
        return catalog.relation(self.conn, self.run.resolved.table, used_by=f"{name}.source")

    def outcome(self, *, kills: int = 0) -> Outcome:
        """What the run left behind.

        Raises:
            NotFinishedError: it did not come to its end.
        """
        run = self.now()
        causes = {pause.cause: pause for pause in pauses(self.conn, self.ledger, run.id)}
        is_quarantined = run.run_state is RunState.PAUSED and set(causes) == {PauseCause.QUARANTINE}
        if run.run_state is not RunState.SUCCEEDED and not is_quarantined:
            why = run.failure or "; ".join(pause.reason for pause in causes.values())
            raise NotFinishedError(
                f"{run.job} is {run.state}{f': {why}' if why else ''}",
                remedy="Is a transaction of the test still open? The run waits for its locks."
                if run.run_state is RunState.FAILED
                else "",
            )
        return Outcome(
            rows=self._rows(),
            counts=self.counts(),
            state=run.state,
            quarantine=[
                Quarantined(row.key, row.message, row.sqlstate)
                for row in quarantined_rows(
                    self.conn, self.ledger, run.id, limit=_ALL_QUARANTINED_ROWS
                )
            ],
            kills=kills,
        )

    def _rows(self) -> list[dict[str, Any]]:
        table = self.target()
        if table is None:
            return []
        is_insert = isinstance(self.declaration.target, Insert)
        key = (table.primary_key or ()) if is_insert else self.run.resolved.key
        order = sql.SQL("ORDER BY {}").format(catalog.identifiers(key)) if key else sql.SQL("")
        with transaction(self.conn, READ_LIMITS), self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                sql.SQL("SELECT * FROM {} {}").format(catalog.as_template(table.qualified), order),
                {},
            ).fetchall()


def _count(bench: Bench) -> int:
    with reading_source(bench):
        row = bench.reader.execute(
            sql.SQL("SELECT count(*) FROM {}").format(bench.keyset.from_table), bench.arguments
        ).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def site(
    declaration: Declaration,
    url: str,
    *,
    options: Options,
    bounds: Bounds | None,
    databases: Mapping[str, str] | None,
    params: Mapping[str, object],
) -> Iterator[Site]:
    """Install a ledger, write the run, and drop the ledger at the end.

    Raises:
        BackfillError: the preflight refuses, a parameter or URL is wrong, nothing answers.
    """

    def url_of(name: str) -> str:
        raw = (databases or {}).get(name, url)
        try:
            return UrlVariable(name=name, named_in="", raw=raw).postgres()
        except ProjectError as error:
            raise UsageError(
                f"the URL of the database {name} is no URL of PostgreSQL",
                remedy="Give it like postgresql://user@host:5432/test.",
            ) from error

    home = url_of(declaration.home(options))
    source = None if declaration.target_database is None else url_of(options.database)
    with ExitStack() as stack:
        conn = stack.enter_context(closing(connect(home)))
        source_conn = None if source is None else stack.enter_context(closing(connect(source)))
        ledger = stack.enter_context(_ledger(conn, home))
        run, _ = create_run(
            conn,
            ledger,
            declaration,
            params=params,
            options=options,
            bounds=bounds,
            executor="local",
            by="a test",
            environ=os.environ,
            source_conn=source_conn,
        )
        yield Site(
            url=home,
            conn=conn,
            ledger=ledger,
            declaration=declaration,
            run=run,
            connect_source=None if source is None else (lambda: connect(source)),
        )


@contextmanager
def _ledger(conn: Connection, url: str) -> Iterator[Ledger]:
    schema = f"{_PREFIX}{secrets.token_hex(6)}"
    upgrade(conn, schema=schema)
    try:
        yield open_ledger(conn, schema=schema)
    finally:
        # a connection of its own: the other one may be broken, or in a transaction
        with closing(connect(url)) as last:
            last.execute("SET client_min_messages = warning")  # what CASCADE drops, too
            last.execute("SET lock_timeout = '10s'")
            last.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


def unhurried(options: Options) -> Options:
    """The job's options without what would make a test wait, or end it at some bad rows."""
    return replace(
        options,
        rate=None,
        window=None,
        start_at=None,
        until=None,
        duty=1.0,
        quarantine_rows=_ALL_QUARANTINED_ROWS,
        quarantine_share=1.0,
    )
