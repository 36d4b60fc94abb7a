"""A run changed while it works: options, speed, slots; what is obeyed, and when it stops for it."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from backfill.engine import control
from backfill.engine.pace import Pace
from backfill.engine.report import Ended
from backfill.engine.work import work
from backfill.errors import RefusedError, UsageError
from backfill.job import Options
from backfill.model import PauseCause
from backfill.pg.ledger import Run, get_run
from backfill.settings import EngineSettings
from tests.engine.factory import QUICK, AtVisit, FakeClock, Worksite, until
from tests.engine.jobs import Increment

#: So slow that it is never done while a test looks; quick to be stopped.
SLOW = Options(batch_rows=10, slice_rows=1_000, rate="40/s", concurrency=1)
#: "effective on all workers within two seconds", on a machine that does other things, too.
SOON_SECONDS = 2.0


def tune(site: Worksite, run: Run, **texts: str) -> control.Tuned:
    return control.tune(site.conn, site.ledger, run.id, texts, by="Ada")


def until_rows(site: Worksite, statement: str, wanted: list[tuple[int, ...]]) -> None:
    until(lambda: site.rows(statement) == wanted, what=f"{wanted} from {statement}")


# --- the command's own part ----------------------------------------------------------------------


def test_options_are_changed_in_the_ledger_with_who_did_it(site: Worksite) -> None:
    """I7."""
    site.numbers(10)
    run = site.enqueue(Increment)
    tuned = tune(site, run, rate="2000/s", concurrency="8")
    assert tuned.changes == {"rate": (None, "2000/s"), "concurrency": (2, 8)}
    assert Options.from_json(tuned.run.options) == Options(rate="2000/s", concurrency=8)
    event = site.outcome(run).event("run.tuned")
    assert event.caused_by == "Ada"
    assert event.detail == {"changes": {"rate": [None, "2000/s"], "concurrency": [2, 8]}}


def test_what_is_so_already_is_no_event(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    assert not tune(site, run, concurrency="2", rate="none").changes
    assert "run.tuned" not in site.outcome(run).event_names


@pytest.mark.parametrize(
    ("texts", "wrong"),
    [
        ({"rate": "fast"}, "rate"),
        ({"concurrency": "0"}, "concurrency"),
        ({"cuncurrency": "4"}, "cuncurrency"),
        ({"database": "other"}, "database"),
        ({"lock": "skip"}, "lock"),
        ({"min_batch_rows": "500", "max_batch_rows": "100"}, "max_batch_rows"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_option_changes_nothing(site: Worksite, texts: dict[str, str], wrong: str) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    with pytest.raises(UsageError, match=wrong):
        tune(site, run, **{"duty": "0.5", **texts})
    assert get_run(site.conn, site.ledger, run.id).options == run.options


def test_a_run_that_has_ended_cannot_be_tuned(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    site.work(Increment, run)
    with pytest.raises(RefusedError, match="succeeded"):
        tune(site, run, rate="1/s")


def test_a_window_that_opens_by_it_lifts_the_pause_at_once(site: Worksite) -> None:
    site.numbers(10)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%a")
    run = site.enqueue(Increment, options=Options(window=f"{yesterday} UTC"))
    bench = site.bench(
        Increment, run, pace=Pace(FakeClock(datetime.now(UTC)), Options.from_json(run.options))
    )
    work(bench, slot=0)
    bench.conn.close()
    assert [pause.cause for pause in site.outcome(run).pauses] == ["window"]
    assert not tune(site, run, duty="0.5").lifted
    assert tune(site, run, window="none").lifted
    assert site.outcome(run).state == "queued"


# --- what workers do -----------------------------------------------------------------------------


def test_a_rate_is_obeyed_within_two_seconds(site: Worksite) -> None:
    site.numbers(20_000)
    run = site.begun(Increment, options=SLOW)
    with site.crew(Increment, run):
        until(lambda: site.outcome(run).counts.paged, what="a batch")
        before = site.outcome(run).counts.paged
        tune(site, run, rate="none", batch_rows="500")
        began = time.monotonic()
        until(lambda: site.outcome(run).counts.paged > before + 2_000, what="full speed")
        assert time.monotonic() - began < SOON_SECONDS + 1.0
    assert site.outcome(run).state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_a_batch_that_waits_for_hours_begins_when_the_rate_is_raised(site: Worksite) -> None:
    site.numbers(20)
    run = site.begun(Increment, options=Options(rate="1/h", concurrency=1))
    with site.crew(Increment, run):
        until(lambda: site.rows("SELECT FROM backfill.slice"), what="a slice")
        tune(site, run, rate="1000/s")
    assert site.outcome(run).state == "succeeded"


def test_the_speed_that_signals_allow_is_obeyed(site: Worksite) -> None:
    """Without a rate a slot rests: at a hundredth, a batch in a hundred times its own time."""
    site.numbers(5_000)
    run = site.begun(Increment, options=Options(batch_rows=10, concurrency=1))
    clock = FakeClock(datetime.now(UTC))
    bench = site.bench(Increment, run, clock=clock)
    site.execute("UPDATE backfill.run SET speed = 0.01")

    def batch_takes_a_while(point: str) -> None:
        if point == "before COMMIT":
            clock.seconds += 0.02

    bench.probe = batch_takes_a_while
    work(bench, slot=0, budget_seconds=60)
    bench.conn.close()
    assert bench.run.speed == 0.01
    # 60 s hold 30 batches of 0.02 s with 1.98 s of rest
    assert site.outcome(run).counts.paged == pytest.approx(300, abs=20)


@pytest.mark.parametrize("duty", ["0.5", "0.1"])
def test_duty_is_the_share_of_its_time_that_a_slot_works(site: Worksite, duty: str) -> None:
    site.numbers(5_000)
    run = site.begun(Increment, options=Options(batch_rows=10, concurrency=1))
    tune(site, run, duty=duty)
    clock = FakeClock(datetime.now(UTC))
    bench = site.bench(Increment, run, clock=clock)

    def batch_takes_a_while(point: str) -> None:
        if point == "before COMMIT":
            clock.seconds += 0.02

    bench.probe = batch_takes_a_while
    work(bench, slot=0, budget_seconds=10)
    bench.conn.close()
    batches = site.outcome(run).counts.paged / 10
    assert batches * 0.02 == pytest.approx(10 * float(duty), rel=0.1)


def test_a_slot_too_many_ends_after_its_batch_and_slot_zero_goes_on(site: Worksite) -> None:
    site.numbers(1_000)
    run = site.begun(Increment, options=Options(batch_rows=10, concurrency=2, duty=0.01))
    bench = site.bench(Increment, run, clock=(clock := FakeClock(datetime.now(UTC))))

    def tuned() -> None:
        tune(site, run, concurrency="1")
        clock.seconds += 1.0

    bench.probe = AtVisit("after COMMIT", 3, tuned)
    assert work(bench, slot=1).ended is Ended.SLOT_CLOSED
    assert site.outcome(run).counts.paged == 30
    assert not site.rows("SELECT FROM backfill.slice WHERE holder IS NOT NULL")
    assert work(bench, slot=0, budget_seconds=3600).ended is not Ended.SLOT_CLOSED
    bench.conn.close()


def test_threads_come_and_go_with_the_concurrency(site: Worksite) -> None:
    site.numbers(20_000)
    run = site.begun(Increment, options=Options(batch_rows=10, slice_rows=500, duty=0.05))
    filled = "SELECT DISTINCT slot FROM backfill.slice WHERE slot IS NOT NULL ORDER BY slot"
    with site.crew(Increment, run, threads=2):
        for slots in (4, 1, 3):
            tune(site, run, concurrency=str(slots))
            until_rows(site, filled, [(slot,) for slot in range(slots)])
        tune(site, run, duty="1", batch_rows="auto")
    assert site.outcome(run).state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_a_pause_ends_a_slot_that_waits_for_its_rate(site: Worksite) -> None:
    site.numbers(100)
    run = site.begun(Increment, options=Options(rate="1/h", concurrency=1))
    with site.crew(Increment, run):
        until(lambda: site.rows("SELECT FROM backfill.slice"), what="a slice")
        site.pause(run)
    assert site.outcome(run).state == "paused"
    assert not site.rows("SELECT FROM backfill.slice WHERE holder IS NOT NULL")


# --- signals that nobody measures ----------------------------------------------------------------


def sample(site: Worksite, run: Run, *, age_seconds: float) -> None:
    site.execute(
        "INSERT INTO backfill.signal (run, name, value, unit, stop, resume, worse, state, at)"
        " VALUES (%s, 'lag', 0, 's', 10, 5, 'above', 'ok',"
        " clock_timestamp() - make_interval(secs => %s))"
        " ON CONFLICT (run, name) DO UPDATE SET at = excluded.at",
        run.id,
        age_seconds,
    )


STALE = EngineSettings(lease_seconds=QUICK.lease_seconds, signals_stale_seconds=5.0)


@pytest.mark.parametrize("age_seconds", [None, 60.0])
def test_a_run_whose_signals_nobody_measures_stops_and_says_so(
    site: Worksite, age_seconds: float | None
) -> None:
    """Fail closed; but not before a sampler that starts with the workers can have begun."""
    site.numbers(1_000)
    run = site.begun(Increment, options=Options(batch_rows=10, concurrency=1, rate="10/s"))
    if age_seconds is not None:
        sample(site, run, age_seconds=age_seconds)
    clock = FakeClock(datetime.now(UTC))
    bench = site.bench(
        Increment,
        run,
        settings=STALE,
        clock=clock,
        pace=Pace(clock, Options.from_json(run.options)),
    )
    bench.asks_for_signals = True
    assert work(bench, slot=0).ended is Ended.NOT_WORKING
    bench.conn.close()
    assert 5.0 <= clock.seconds <= 6.0
    (pause,) = site.outcome(run).pauses
    assert pause.cause == PauseCause.SIGNAL
    assert "measured" in pause.reason
    assert "by itself" in pause.ends


@pytest.mark.parametrize("asks", [True, False])
def test_a_run_whose_signals_are_measured_goes_on(site: Worksite, asks: bool) -> None:
    """And so does one that obeys none."""
    site.numbers(200)
    run = site.begun(Increment, options=Options(batch_rows=10, concurrency=1, rate="10/s"))
    if asks:
        sample(site, run, age_seconds=-60.0)  # as fresh at the end, by the server's own clock
    clock = FakeClock(datetime.now(UTC))
    bench = site.bench(
        Increment,
        run,
        settings=STALE,
        clock=clock,
        pace=Pace(clock, Options.from_json(run.options)),
    )
    bench.asks_for_signals = asks
    assert work(bench, slot=0).state == "succeeded"
    bench.conn.close()
    assert clock.seconds > 15


# --- the WAL of batches --------------------------------------------------------------------------


def test_a_batch_keeps_to_its_budget_of_wal(site: Worksite) -> None:
    site.numbers(20_000)
    budget = 64 * 1024
    run = site.begun(
        Increment,
        options=Options(
            concurrency=1, max_batch_wal_bytes=budget, target_batch_seconds=0.5, min_batch_rows=1
        ),
    )
    site.work(Increment, run)
    assert site.outcome(run).state == "succeeded"
    # one row of this table is about 150 bytes of WAL; by time alone batches had thousands
    assert site.value("SELECT max(batch_rows) FROM backfill.slice WHERE batch_rows > 10") < 1_500


def test_where_the_wal_cannot_be_read_the_run_says_so_once_and_works(site: Worksite) -> None:
    site.numbers(1_000)
    site.execute("CREATE ROLE plain")
    try:
        site.execute("GRANT USAGE ON SCHEMA backfill TO plain")
        site.execute("GRANT ALL ON ALL TABLES IN SCHEMA backfill TO plain")
        site.execute("GRANT ALL ON t TO plain")
        site.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn() FROM PUBLIC")
        run = site.begun(Increment)
        done = site.work(Increment, run, threads=2, role="plain")
        assert done.state == "succeeded", done
        assert done.event_names.count("signal.off") in {1, 2}  # two threads may find it at once
        assert "InsufficientPrivilege" in done.event("signal.off").detail["reason"]
    finally:
        with suppress(Exception):
            site.execute("DROP OWNED BY plain")
        site.execute("DROP ROLE plain")
