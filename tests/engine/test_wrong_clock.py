"""A machine's clock that is wrong, or jumps: the hours of a run do not go by it.

Real workers, their leases and the rate: tests/acceptance/test_wrong_clock.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, tzinfo

import pytest

from backfill.job import Options
from tests.engine.factory import Worksite
from tests.engine.jobs import Increment

HOUR = timedelta(hours=1)


class Jumping(datetime):
    """The machine says that it is a year ago, and the next time that it is in a year."""

    asked = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        cls.asked += 1
        away = timedelta(days=365) if cls.asked % 2 else timedelta(days=-365)
        return super().now(tz) + away


@pytest.mark.parametrize("is_open", [True, False])
def test_a_run_keeps_its_hours_by_the_databases_clock(
    site: Worksite, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """I5, I7: it would work when it may not, or be paused and opened by turns."""
    site.numbers(100)
    now = site.value("SELECT clock_timestamp()")
    monkeypatch.setattr("backfill.clock.datetime", Jumping)
    hours = Options(
        batch_rows=10,
        slice_rows=20,
        start_at=(now - HOUR).isoformat(),
        until=(now + HOUR if is_open else now - HOUR / 2).isoformat(),
    )
    done = site.run(Increment, options=replace(hours, concurrency=2), threads=2)
    if is_open:
        assert done.state == "succeeded"
        assert "run.paused" not in done.event_names
        assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
    else:
        assert done.state == "paused"
        assert done.counts.paged == 0
