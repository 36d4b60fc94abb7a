"""The story that the demo plays: expand, backfill, check, contract, under a live application.

Whatever a user would type is typed here too (`backfill db upgrade`, `worker`, `enqueue`). In the
middle of the first run a worker is ended by SIGKILL (`loss.py`).

A number that is not as it should be ends the story with an error: rows that differ from the plain
statement, counts that do not add up, an error that reached the application.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import redis

from backfill.errors import BackfillError
from backfill.local import flights
from backfill.local.following import Ended, Follower
from backfill.local.screen import Screen, application
from backfill.local.stage import Stage
from backfill.local.traffic import Application
from backfill.pg.connect import NO_LIMITS, Connection, connect
from backfill.pg.ledger import find_run
from backfill.project import Desk, Project
from backfill.settings import load as load_settings

#: All flights of the package; a part of them makes a smaller demo, not a shorter one.
ALL_ROWS = 336_776
LEAST_ROWS = 2_000
#: The first run is paced to last about so long: much longer than a lease, so that it is still at
#: work when the slices of the killed worker are taken over.
PACED_SECONDS = 30
LEAST_SECONDS = 5
MOST_SECONDS = 600
#: So many slices a run has, and so many are worked on at once: by two workers' two children each.
SLICES = 16
CONCURRENCY = 4
#: An ALTER that meets somebody's lock gives up soon and comes back, since whoever comes after it
#: has to wait as well.
ALTER_LOCK_TIMEOUT = "100ms"
ALTER_TRIES = 50

FILL_DEPARTS_AT, FILL_CARRIER_ID, SPLIT_FLIGHT_TIMES = flights.CHECKS


class Story:
    """See the module; `play` plays it once.

    Args:
        rows: flights to load, LEAST_ROWS to ALL_ROWS.
        seconds: how long the first run is to last, LEAST_SECONDS to MOST_SECONDS.
        keep: leave out what has no way back, so that one can play on with the tables.
    """

    def __init__(
        self, stage: Stage, screen: Screen, *, rows: int, seconds: int, keep: bool
    ) -> None:
        self._stage = stage
        self._screen = screen
        self._rows = rows
        self._seconds = seconds
        self._keep = keep

    def play(self) -> None:
        """All acts, one after the other.

        Raises:
            BackfillError: something does not start, or a result is not as it should be.
            psycopg.Error: the server does what nobody expects of it.
        """
        self._screen.act("A PostgreSQL and a Redis, and a table in use")
        self._start_servers()
        with connect(self._stage.url, limits=NO_LIMITS) as conn:
            self._load(conn)
            self._screen.act("Expand: new columns and a new table, still empty")
            self._expand(conn)
            with self._opened() as (project, desk), self._traffic() as writer:
                follower = Follower(self._stage, self._screen, project, desk, writer)
                self._screen.act(
                    "Two workers; the application goes on, and fills what it writes itself"
                )
                follower.add_workers(2)
                self._screen.act("Fill departs_at in Python, paced, and lose a worker on the way")
                ended = [self._run(desk, follower, FILL_DEPARTS_AT, paced_to_lose=True)]
                self._screen.act("Fill carrier_id in SQL, and split the times into a new table")
                ended += [
                    self._run(desk, follower, job) for job in (FILL_CARRIER_ID, SPLIT_FLIGHT_TIMES)
                ]
                writer.dismiss_clerk()
                self._screen.act("Check: every row against one plain statement")
                self._check(conn, ended, writer)
                self._screen.act("Contract: what the backfills allow")
                self._contract(conn, flights.CONTRACT[: _first_drop()])
            if not self._keep:  # the application has let go of the old columns: no way back
                self._contract(conn, flights.CONTRACT[_first_drop() :])
            self._look_at(writer)

    # -- before -----------------------------------------------------------------------------

    def _start_servers(self) -> None:
        self._stage.start()
        client = redis.Redis.from_url(self._stage.redis.url())
        info = client.info("server")
        client.close()
        name = "Valkey" if "valkey_version" in info else "Redis"
        with connect(self._stage.url) as conn:
            version = conn.info.parameter_status("server_version")
        self._screen.say(
            f"PostgreSQL {version} with fsync, {name}"
            f" {info.get('valkey_version') or info['redis_version']} with an append-only file"
        )

    def _load(self, conn: Connection) -> None:
        loaded = flights.load(conn)
        if self._rows < loaded["flights"]:
            conn.execute("DELETE FROM flights WHERE id > %s", [self._rows])
            conn.execute("VACUUM ANALYZE flights")
            loaded["flights"] = self._rows
        tables = ", ".join(f"{rows:,} {table}" for table, rows in reversed(loaded.items()))
        self._screen.say(f"what left New York in 2013: {tables}")

    def _expand(self, conn: Connection) -> None:
        for statement in flights.EXPAND:
            self._screen.sql(statement)
        flights.expand(conn)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Project, Desk]]:
        """The project with its ledger installed, as a worker sees it."""
        self._command("db", "upgrade")
        environment = self._stage.environment
        project = Project(load_settings(self._stage.project, environment), environment)
        desk = project.open()
        with desk.conn:
            yield project, desk

    @contextmanager
    def _traffic(self) -> Iterator[Application]:
        """The application's new version is at work inside."""
        writer = Application(self._stage.url, rows=self._rows)
        writer.start()
        try:
            yield writer
        finally:
            writer.stop()

    # -- the runs ---------------------------------------------------------------------------

    def _run(
        self,
        desk: Desk,
        follower: Follower,
        job: str,
        *,
        paced_to_lose: bool = False,
    ) -> Ended:
        """Enqueue a job and follow it; paced, so that a worker can be lost on the way."""
        words = ["enqueue", job, "--concurrency", str(CONCURRENCY)]
        slice_rows = -(-self._rows // SLICES)
        words += ["--set", f"slice_rows={slice_rows}"]
        if paced_to_lose:
            words += ["--rate", f"{max(1, self._rows // self._seconds)}/s"]
        self._command(*words)
        kill_within = slice_rows if paced_to_lose else None
        ended = follower.follow(find_run(desk.conn, desk.ledger, job).id, kill_within=kill_within)
        run = ended.progress.run
        if run.started_at is not None and run.finished_at is not None:
            seconds = (run.finished_at - run.started_at).total_seconds()
            rows = ended.progress.counts.settled
            self._screen.event(
                f"{run.id} has succeeded: {rows:,} rows in {seconds:.1f} s,"
                f" {rows / max(seconds, 0.001):,.0f} rows/s",
                style="bold",
            )
        return ended

    def _command(self, *words: str) -> None:
        self._screen.command(f"backfill {' '.join(words)}")
        said = self._stage.run(*words)
        if said.code != 0:
            raise BackfillError(
                f"backfill {' '.join(words)} ended with {said.code}",
                remedy=f"It said:\n{said.text}",
            )

    # -- after ------------------------------------------------------------------------------

    def _check(self, conn: Connection, ended: Sequence[Ended], writer: Application) -> None:
        for one in ended:
            job = one.progress.run.job
            row = conn.execute(flights.CHECKS[job].encode()).fetchone()
            differing = int(row[0]) if row else -1
            self._screen.say(f"{job}: {differing} rows differ", style="bold green")
            filled = _filled_by_others(one)
            self._screen.say(f"    {_account(one, filled)}")
            if differing:
                raise BackfillError(f"{differing} rows are not as {job} should have left them")
            if not one.progress.counts.adds_up or not 0 <= filled <= writer.traffic.filled:
                raise BackfillError(f"the counts of run {one.progress.run.id} do not add up")

    def _contract(self, conn: Connection, statements: Sequence[str]) -> None:
        for statement in statements:
            self._screen.sql(statement)
            _alter(conn, statement)

    def _look_at(self, writer: Application) -> None:
        traffic = writer.traffic
        self._screen.act("The application meanwhile")
        self._screen.say(application(traffic), style="bold")
        if traffic.errors:
            raise BackfillError(f"an error reached the application: {traffic.last_error}")


def _first_drop() -> int:
    """Where in `CONTRACT` that begins which has no way back."""
    return next(n for n, text in enumerate(flights.CONTRACT) if "DROP COLUMN" in text)


def _filled_by_others(ended: Ended) -> int:
    """Rows that were to do when the run began, and done before it came to them.

    None of them where the rows could not be counted then, on a very busy machine.
    """
    run = ended.progress.run
    paged = ended.progress.counts.paged
    return (run.total_rows or 0) - paged if run.total_is_exact else 0


def _account(ended: Ended, filled: int) -> str:
    """`336,420 written + 356 filled by the application = 336,776 rows; 226 deferred, ...`."""
    counts = ended.progress.counts
    parts = [
        f"{value:,} {name}"
        for name, value in counts.as_dict().items()
        if value and name not in {"paged", "deferred"}
    ]
    if filled:
        parts.append(f"{filled:,} filled by the application")
    return (
        f"{' + '.join(parts) or 'none'} = {counts.paged + filled:,} rows;"
        f" {ended.deferred:,} deferred, then swept"
    )


def _alter(conn: Connection, statement: str) -> None:
    """Run one statement of the contract step, however often it meets somebody's lock."""
    for attempt in range(1, ALTER_TRIES + 1):
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = '{ALTER_LOCK_TIMEOUT}'".encode())
                conn.execute(statement.encode())
        except psycopg.errors.LockNotAvailable:
            if attempt == ALTER_TRIES:
                raise
        else:
            return
