"""The columns that charts are drawn from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from backfill.flower.series import series
from backfill.watch.picture import Point

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def point(seconds: float, settled: int, rate: float | None = None, **signals: float) -> Point:
    return Point(
        at=BEGIN + timedelta(seconds=seconds),
        state="running",
        settled=settled,
        speed=1.0,
        batch_rows=10,
        batch_seconds=0.05,
        signals=signals,
        rows_per_second=rate,
    )


def test_pulses_give_the_rate_between_them_and_recent_points_stand_for_the_end() -> None:
    pulses = [point(0, 0), point(10, 1000), point(20, 1500)]
    recent = [point(15, 1200, rate=60.0), point(16, 1270, rate=70.0)]
    found = series(pulses, recent)
    assert [at - BEGIN.timestamp() for at in found["at"]] == [0, 10, 15, 16]
    assert found["rows_per_second"] == [None, 100.0, 60.0, 70.0]


def test_a_signal_that_came_later_has_no_value_before() -> None:
    found = series([], [point(0, 0, rate=0.0), point(1, 5, rate=5.0, lag=2.0)])
    assert found["signals"] == {"lag": [None, 2.0]}


def test_a_long_run_is_thinned_by_time_and_averaged() -> None:
    recent = [point(at, at * 10, rate=float(at % 2)) for at in range(1000)]
    found = series([], recent, most=100)
    assert len(found["at"]) == 100
    assert set(found["rows_per_second"]) == {0.5}
    assert found["at"] == sorted(found["at"])
    assert found["at"][-1] == recent[-1].at.timestamp()


def test_nothing_is_known_of_a_run_that_has_not_begun() -> None:
    found = series([], [])
    assert (found["at"], found["rows_per_second"], found["signals"]) == ([], [], {})
