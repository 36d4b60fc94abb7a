"""Schedules of a test's own, over the factory's table t; the clock is the test's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from backfill.cron import Cron
from backfill.engine import lifecycle, schedule
from backfill.errors import ProjectError
from backfill.job import Job, Param, Sql, Table, Update
from backfill.job.declaration import Declaration, declaration_of
from backfill.pg.connect import Connection
from backfill.pg.schedules import IfMissed, IfRunning, Schedule, list_schedules
from tests.engine.factory import Worksite
from tests.engine.jobs import Increment

#: Long ahead of the ledger's own clock, which a new schedule is compared with.
DAY = datetime(2090, 6, 1, tzinfo=UTC)
TEN = DAY + timedelta(hours=22)
NIGHTLY = Cron.parse("0 22 * * *", "UTC")
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class AddTo(Job):
    """With a parameter, and a secret one."""

    source = Table("t")
    transform = Sql(n="n + %(by)s")
    target = Update()
    by = Param(int, default=1)
    key = Param(str, secret=True, env="ADD_TO_KEY")


class Broken(Job):
    """Cannot even be made."""

    source = Table("t")
    transform = Sql(n="n + 1")
    target = Update()

    def __init__(self) -> None:
        raise SystemExit("no licence")


class Lost(Job):
    source = Table("no_such_table")
    transform = Sql(n="n + 1")
    target = Update()


JOBS: dict[str, type[Job]] = {job.name: job for job in (Increment, AddTo, Broken, Lost)}


def declare(name: str) -> Declaration:
    """As the registry does."""
    if name not in JOBS:
        raise ProjectError(f"there is no job {name} in the modules that can be imported")
    return declaration_of(JOBS[name])


class Planner:
    """Adds schedules whose next tick is TEN, and looks at them when a test says so."""

    def __init__(self, site: Worksite) -> None:
        self.site = site

    def add(
        self,
        job: type[Job] = Increment,
        *,
        name: str = "nightly",
        when: Cron | datetime = NIGHTLY,
        if_running: IfRunning = "skip",
        if_missed: IfMissed = "skip",
        options: dict[str, str] | None = None,
        **params: object,
    ) -> None:
        schedule.add(
            self.site.conn,
            self.site.ledger,
            declaration_of(job),
            name=name,
            params=params,
            options=options or {},
            when=when,
            if_running=if_running,
            if_missed=if_missed,
            by="Ada",
        )
        # as if added in that day's morning
        self.site.execute("UPDATE backfill.schedule SET next_at = %s WHERE cron IS NOT NULL", TEN)

    def tick(self, now: datetime, *, conn: Connection | None = None, by: str = "w1") -> list[str]:
        return schedule.tick(
            conn or self.site.conn,
            self.site.ledger,
            database="default",
            declare=declare,
            by=by,
            environ={"ADD_TO_KEY": "hunter2"},
            now=now,
        )

    def read(self, name: str = "nightly") -> Schedule:
        (found,) = [
            each for each in list_schedules(self.site.conn, self.site.ledger) if each.name == name
        ]
        return found

    def runs(self) -> list[str]:
        return [row[0] for row in self.site.rows("SELECT id FROM backfill.run ORDER BY created_at")]

    def end(self, run: str) -> None:
        lifecycle.cancel(self.site.conn, self.site.ledger, run, reason="done", by="the test")

    def ticked(self) -> list[tuple[str, str]]:
        """Tick and outcome of each event."""
        return self.site.rows(
            "SELECT detail->>'tick', detail->>'outcome' FROM backfill.event"
            " WHERE name = 'schedule.ticked' ORDER BY id"
        )
