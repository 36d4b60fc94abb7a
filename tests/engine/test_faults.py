"""Errors that are nobody's row: the run waits, tries again or pauses; the quarantine stays empty.

Each fault strikes in mid-run, at a named point of a batch (engine/batch.py); when it is mended the
run goes on to success, and every row has been written exactly once (I1).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from backfill.clock import SystemClock
from backfill.engine import here
from backfill.engine.bench import Bench
from backfill.engine.pausing import SLICE_ATTEMPTS
from backfill.engine.returning import LOCKED_ATTEMPTS
from backfill.engine.work import work
from backfill.errors import RetryLater, UnreachableError
from backfill.job import Job, Options, Row, Sql, Table, Update
from backfill.local.postgres import LocalPostgres
from backfill.model import BatchInfo
from backfill.pg.connect import connect
from backfill.pg.install import upgrade
from backfill.pg.ledger import Run
from tests.engine.factory import BOUND_SECONDS, AtVisit, FakeClock, Outcome, Worksite, until
from tests.engine.jobs import Increment, IncrementInPython, Label, LabelInPython

BY_TEN = Options(batch_rows=10)


@pytest.fixture
def role(site: Worksite) -> Iterator[str]:
    """A role that may use the ledger, and the table t as far as it is granted."""
    name = f"worker_of_{site.conn.info.dbname}"
    site.execute(f"CREATE ROLE {name}")
    site.execute(f"GRANT USAGE ON SCHEMA backfill TO {name}")
    site.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA backfill TO {name}")
    site.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA backfill TO {name}")
    yield name
    site.execute(f"DROP OWNED BY {name}")
    site.execute(f"DROP ROLE {name}")


def _check_paused(outcome: Outcome, *reasons: str) -> None:
    assert outcome.state == "paused"
    assert outcome.why_paused.startswith("error: ")
    for reason in reasons:
        assert reason in outcome.why_paused
    assert outcome.quarantine == []
    # I7: told by the events, too
    assert outcome.event("run.paused").detail["reason"] in outcome.why_paused


def _check_incremented(done: Outcome, site: Worksite) -> None:
    assert done.state == "succeeded"
    assert done.quarantine == []
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


@contextmanager
def _own_site(server: LocalPostgres) -> Iterator[Worksite]:
    """The ledger, and a site, in a server of the test's own."""
    with connect(server.url()) as conn:
        upgrade(conn)
    with closing(Worksite(server.url())) as site:
        yield site


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_revoked_permission_pauses_the_run_and_granted_again_it_goes_on(
    site: Worksite, role: str, job: type[Job]
) -> None:
    site.numbers(100)
    site.execute(f"GRANT SELECT, UPDATE ON t TO {role}")
    revoke = AtVisit("after COMMIT", 3, lambda: site.execute(f"REVOKE UPDATE ON t FROM {role}"))
    paused = site.run(job, options=BY_TEN, role=role, probe=revoke)
    _check_paused(paused, "42501", "permission denied for table t")
    assert paused.counts.written == 30

    site.execute(f"GRANT UPDATE ON t TO {role}")
    site.lift(paused.run)
    _check_incremented(site.work(job, paused.run, role=role), site)


@pytest.mark.parametrize("job", [Label, LabelInPython])
def test_a_dropped_column_pauses_the_run(site: Worksite, job: type[Job]) -> None:
    site.numbers(100)
    drop = AtVisit("after COMMIT", 3, lambda: site.execute("ALTER TABLE t DROP COLUMN label"))
    paused = site.run(job, options=BY_TEN, probe=drop)
    _check_paused(paused, "42703", "label")
    assert paused.counts.written == 30

    site.execute("ALTER TABLE t ADD COLUMN label text")
    site.lift(paused.run)
    done = site.work(job, paused.run)
    assert done.state == "succeeded"
    assert site.value("SELECT count(*) FROM t WHERE label = 'row ' || id") == 100


def test_a_check_that_may_not_read_pauses_the_run_instead_of_ending_its_worker(
    site: Worksite, role: str
) -> None:
    """The completion check works between batches: its errors have no batch to be classified in."""
    site.numbers(10)
    site.execute(f"GRANT SELECT, UPDATE ON t TO {role}")
    revoke = AtVisit("after COMMIT", 1, lambda: site.execute(f"REVOKE SELECT ON t FROM {role}"))
    paused = site.run(Label, role=role, probe=revoke)
    _check_paused(paused, "between two batches", "42501")

    site.execute(f"GRANT SELECT ON t TO {role}")
    site.lift(paused.run)
    assert site.work(Label, paused.run, role=role).state == "succeeded"


def test_a_server_made_read_only_in_mid_run_pauses_it_and_says_so(
    own_postgres: LocalPostgres,
) -> None:
    """Managed servers do this when their disk is full: writing on would be the worst answer."""
    with _own_site(own_postgres) as site:
        _check_read_only(site)


def _check_read_only(site: Worksite) -> None:
    site.numbers(1_000)

    def make_read_only() -> None:
        site.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        site.execute("SELECT pg_reload_conf()")
        until(lambda: _setting(site) == "on", what="the server to have read its settings")

    paused = site.run(Increment, options=BY_TEN, probe=AtVisit("after COMMIT", 3, make_read_only))
    _check_paused(paused, "25006", "read-only transaction")
    assert paused.counts.written < 1_000

    site.execute("ALTER SYSTEM RESET default_transaction_read_only")
    site.execute("SELECT pg_reload_conf()")
    until(lambda: _setting(site) == "off", what="the server to have read its settings")
    site.lift(paused.run)
    _check_incremented(site.work(Increment, paused.run), site)


def test_a_database_that_is_read_only_by_default_pauses_the_run_before_its_first_slice(
    site: Worksite,
) -> None:
    site.numbers(10)
    database = site.conn.info.dbname
    site.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    paused = site.run(Increment)
    _check_paused(paused, "25006")
    assert paused.counts.paged == 0

    with connect(site.url) as conn:
        conn.execute("SET default_transaction_read_only = off")
        conn.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    site.lift(paused.run)
    _check_incremented(site.work(Increment, paused.run), site)


def _setting(site: Worksite) -> str:
    """As a session sees it that begins now."""
    with connect(site.url) as conn:
        row = conn.execute("SHOW default_transaction_read_only").fetchone()
    assert row is not None
    return str(row[0])


class Slow(Job):
    """Ten milliseconds a row, in the write."""

    source = Table("t")
    transform = Sql(n="n + 1 + length(pg_sleep(0.01)::text)")
    target = Update()


def test_somebodys_cancel_pauses_the_run(site: Worksite) -> None:
    """They will have had a reason; the same SQLSTATE as our own time-out, told by the time."""
    site.numbers(60)
    run = site.enqueue(Slow, options=Options(batch_rows=30))
    with site.crew(Slow, run):
        until(
            lambda: site.rows(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event = 'PgSleep' AND application_name LIKE %s",
                f"backfill {run.id}%",
            ),
            what="a batch's write to be under way",
        )
    paused = site.outcome(run)
    _check_paused(paused, "57014", "in the step write", "user request")
    site.lift(run)
    _check_incremented(site.work(Slow, run), site)


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
@pytest.mark.parametrize(
    "point", ["before the page", "after the write", "before COMMIT", "after COMMIT"]
)
def test_a_terminated_backend_is_replaced_and_the_run_goes_on_by_itself(
    site: Worksite, point: str, job: type[Job]
) -> None:
    """I1: whether or not the batch in hand had committed."""
    site.numbers(60)
    run = site.enqueue(job, options=BY_TEN)

    def terminate() -> None:
        killed = site.rows(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'backfill%%' AND pid <> pg_backend_pid()"
            " AND datname = %s",
            site.conn.info.dbname,
        )
        assert killed == [(True,)]

    done = site.work(job, run, probe=AtVisit(point, 3, terminate))
    _check_incremented(done, site)
    assert "run.paused" not in done.event_names


def test_a_restart_of_the_server_is_sat_out(own_postgres: LocalPostgres) -> None:
    with _own_site(own_postgres) as site:
        site.numbers(60)
        run = site.enqueue(Increment, options=BY_TEN)
        with site.crew(Increment, run, probe=AtVisit("before COMMIT", 3, own_postgres.restart)):
            pass
    with closing(Worksite(own_postgres.url())) as site:
        _check_incremented(site.outcome(run), site)


def _refused(_: Callable[[], bool]) -> Bench:
    raise UnreachableError("too many connections for this role", remedy="Give it more.")


def test_a_thread_that_gets_no_connection_ends_no_other_that_works(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the run, without an error; rate and patience make the run the longer one."""
    monkeypatch.setattr(here, "PATIENCE_SECONDS", 1.0)
    site.numbers(100)
    run = site.begun(Increment, options=Options(batch_rows=5, slice_rows=20, rate="30/s"))
    tries: list[str] = []

    def make(stop: Callable[[], bool]) -> Bench:
        if threading.current_thread().name == "backfill-2":
            tries.append("refused")
            _refused(stop)
        return site.bench(Increment, run, stopping=stop)

    crew = here.Crew(make, size=3, clock=SystemClock())
    crew.start()
    assert crew.join(BOUND_SECONDS)
    assert len(tries) >= 2
    _check_incremented(site.outcome(run), site)


def test_a_crew_of_which_nobody_gets_a_connection_gives_up_after_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(here, "PATIENCE_SECONDS", 0.1)
    crew = here.Crew(_refused, size=2, clock=SystemClock())
    crew.start()
    with pytest.raises(UnreachableError, match="too many connections"):
        crew.join(BOUND_SECONDS)


def test_a_statement_that_runs_into_our_own_time_out_is_tried_again_with_fewer_rows(
    site: Worksite,
) -> None:
    """I5: also where the batch's size is fixed; and it grows again, by half at most."""
    sizes: list[int] = []

    class SlowAndTold(Slow):
        def after_batch(self, batch: BatchInfo) -> None:
            sizes.append(batch.counts.paged)

    site.numbers(200)
    done = site.run(
        SlowAndTold,
        options=Options(batch_rows=100, lock_timeout_seconds=0.1, statement_timeout_seconds=0.4),
    )
    _check_incremented(done, site)
    assert sizes[:3] == [10, 15, 22]
    assert sum(sizes) == 200
    assert "run.paused" not in done.event_names


class Geocode(Job):
    """Calls an API that may be away."""

    source = Table("t")
    target = Update("label", "n")
    retry_on = (ConnectionError,)
    answer: ClassVar[Callable[[Row], dict[str, object]]]

    def transform(self, row: Row) -> dict[str, object]:
        return type(self).answer(row)


@pytest.mark.parametrize("outage", [ConnectionError("no route"), RetryLater(seconds=0.2)])
def test_while_the_outside_world_is_away_the_slice_waits_and_no_row_is_blamed(
    site: Worksite, outage: Exception
) -> None:
    """The rows before the one that met the outage are written; it comes first the next time."""
    is_away = True
    asked: list[int] = []

    def answer(row: Row) -> dict[str, object]:
        asked.append(row.id)
        if is_away and row.id == 15:
            raise outage
        return {"label": "here", "n": row.n + 1}

    Geocode.answer = answer
    site.numbers(30)
    run = site.enqueue(Geocode, options=BY_TEN)
    with site.crew(Geocode, run):
        until(
            lambda: site.rows(
                "SELECT FROM backfill.slice WHERE attempts = -2 AND not_before > clock_timestamp()"
            ),
            what="the slice to be given back for the second time",
        )
        assert site.value("SELECT max(id) FROM t WHERE n = 1") == 14
        is_away = False
    done = site.outcome(run)
    _check_incremented(done, site)
    assert [key for key in asked if key != 15] == [k for k in range(1, 31) if k != 15]
    assert "run.paused" not in done.event_names


def test_an_outage_that_lasts_for_days_is_still_waited_for(site: Worksite) -> None:
    """A backoff that doubles has its end before the number is too large."""

    def answer(row: Row) -> dict[str, object]:
        raise ConnectionError

    Geocode.answer = answer
    site.numbers(3)
    run = site.begun(Geocode)
    bench = site.bench(Geocode, run)
    while not site.rows("SELECT FROM backfill.slice WHERE attempts < 0"):
        _try_again(site, bench)
    site.execute("UPDATE backfill.slice SET attempts = -5000")
    while site.value("SELECT attempts FROM backfill.slice") == -5000:
        _try_again(site, bench)
    bench.close()
    assert site.rows(
        "SELECT attempts, not_before - clock_timestamp() BETWEEN '50 s' AND '60 s'"
        " FROM backfill.slice"
    ) == [(-5001, True)]


def test_one_failure_after_many_outages_does_not_pause_the_run(site: Worksite) -> None:
    """Outages are no failures; and the wait for one is doubled only with each outage."""
    is_away = True

    def answer(row: Row) -> dict[str, object]:
        if is_away:
            raise ConnectionError
        return {"label": "here", "n": row.n + 1}

    Geocode.answer = answer
    site.numbers(10)
    run = site.begun(Geocode)
    bench = site.bench(Geocode, run)
    attempts = "SELECT coalesce(min(attempts), 0) FROM backfill.slice"
    while site.value(attempts) > -SLICE_ATTEMPTS:
        _try_again(site, bench)
    is_away = False
    with site.session() as other:
        other.execute("LOCK t IN ACCESS EXCLUSIVE MODE")
        while site.value(attempts) < 0:
            _try_again(site, bench)
        other.rollback()
    bench.close()
    assert (site.outcome(run).state, site.value(attempts)) == ("running", 1)
    with site.crew(Geocode, run):
        _hasten_until(site, run, "succeeded")
    _check_incremented(site.outcome(run), site)


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_a_time_to_wait_that_is_none_is_its_rows_error(site: Worksite, seconds: float) -> None:
    """The slice would be parked for ever, or its worker end with the error."""

    def answer(row: Row) -> dict[str, object]:
        if row.id == 2:
            raise RetryLater("away", seconds=seconds)
        return {"label": "here", "n": 1}

    Geocode.answer = answer
    site.numbers(3)
    paused = site.run(Geocode)
    (refused,) = paused.quarantine
    told = f"ValueError: RetryLater: seconds is {seconds}; it takes a number from 0 on"
    assert (refused.key, refused.message) == (("2",), told)


def test_nobody_waits_longer_than_an_hour(site: Worksite) -> None:
    """A Retry-After in milliseconds would park the slice for years."""

    def answer(row: Row) -> dict[str, object]:
        raise RetryLater("away", seconds=1e12)

    Geocode.answer = answer
    site.numbers(3)
    run = site.begun(Geocode)
    bench = site.bench(Geocode, run)
    while not site.rows("SELECT FROM backfill.slice WHERE attempts < 0"):
        _try_again(site, bench)
    bench.close()
    wait = "SELECT not_before - clock_timestamp() BETWEEN '55 min' AND '60 min' FROM backfill.slice"
    assert site.value(wait)


WRONG: dict[str, tuple[Any, str]] = {
    "no mapping": (["x"], "must return a mapping"),
    "another column": ({"label": "x", "m": 1}, "its target writes label, n"),
    "a column too few": ({"label": "x"}, "its target writes label, n"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_transform_that_returns_what_it_must_not_pauses_the_run(
    site: Worksite, wrong: str
) -> None:
    """It would do so for every row: filling the quarantine would help nobody."""
    value, reason = WRONG[wrong]

    def answer(row: Row) -> dict[str, object]:
        return value  # type: ignore[no-any-return]

    Geocode.answer = answer
    site.numbers(30)
    paused = site.run(Geocode, options=BY_TEN)
    _check_paused(paused, reason)
    Geocode.answer = lambda row: {"label": "x", "n": row.n + 1}
    site.lift(paused.run)
    _check_incremented(site.work(Geocode, paused.run), site)


class Misaligned(Job):
    source = Table("t")
    target = Update("label")

    def transform_batch(self, rows: Sequence[Row]) -> list[dict[str, object]]:
        return [{"label": "x"} for row in rows if row.id != 7]


def test_a_batch_of_results_that_is_not_aligned_with_its_rows_pauses_the_run(
    site: Worksite,
) -> None:
    """I1: nobody could say which row each result is for."""
    site.numbers(10)
    paused = site.run(Misaligned)
    _check_paused(paused, "9 results for 10 rows")
    assert site.value("SELECT count(label) FROM t") == 0


def test_a_slice_that_fails_again_and_again_pauses_the_run_with_the_last_reason(
    site: Worksite,
) -> None:
    """Bounded: a transient error that stays is no transient error. I7: the reason names it."""
    site.numbers(10)
    site.execute(
        "CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$"
    )
    site.execute("CREATE TRIGGER c BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION collide()")
    run = site.begun(Increment)
    with site.crew(Increment, run, clock=FakeClock(datetime(2026, 1, 1, tzinfo=UTC))):
        _hasten_until(site, run, "paused")
    _check_paused(
        site.outcome(run),
        f"failed {SLICE_ATTEMPTS} times in a row",
        "40001",
        "PostgreSQL's log has it",
    )
    assert site.value("SELECT attempts FROM backfill.slice") == SLICE_ATTEMPTS


def test_a_row_that_stays_locked_pauses_the_run_later_than_other_failures(
    site: Worksite,
) -> None:
    """A parent's row: the lock comes free by itself as a rule, and the run waits for it longer."""
    site.numbers(10)
    site.execute("CREATE TABLE parent (id int PRIMARY KEY)")
    site.execute("INSERT INTO parent VALUES (1)")
    site.execute("ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES parent NOT VALID")
    run = site.begun(Increment, options=Options(lock_timeout_seconds=0.001))
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    with site.session() as other:
        other.execute("SELECT FROM parent FOR UPDATE")
        with site.crew(Increment, run, clock=clock):
            _hasten_until(site, run, "paused")
    paused = site.outcome(run)
    _check_paused(paused, f"failed {LOCKED_ATTEMPTS} times in a row", "55P03", "lock timeout")
    assert site.value("SELECT attempts FROM backfill.slice") == LOCKED_ATTEMPTS

    site.lift(run)
    with site.crew(Increment, run):
        _hasten_until(site, run, "succeeded")
    _check_incremented(site.outcome(run), site)


def _try_again(site: Worksite, bench: Bench) -> None:
    """Take the wait away, and work for a moment: on a busy machine it may not suffice."""
    site.execute("UPDATE backfill.slice SET not_before = '-infinity'")
    work(bench, slot=0, budget_seconds=0.1)


def _hasten_until(site: Worksite, run: Run, state: str) -> None:
    """Take the waits between two attempts away, until the run is in that state."""

    def reached() -> bool:
        site.execute("UPDATE backfill.slice SET not_before = '-infinity'")
        return site.outcome(run).state == state

    until(reached, what=f"the run to be {state}")
