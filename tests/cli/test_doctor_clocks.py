"""`backfill doctor` compares this machine's clock with PostgreSQL's and with that of Redis."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

#: Told of clocks, by `area/name`: outcome and message.
Told = dict[str, tuple[str, str]]
Doctor = Callable[[float], Told]


@pytest.fixture
def doctor(
    invoke: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    db_url: str,
    redis_url: str,
) -> Doctor:
    """Doctor on a machine whose clock is so many seconds ahead of the servers'."""
    (tmp_path / "backfill.toml").write_text("jobs = []\n", encoding="utf-8")

    def examine(seconds: float) -> Told:
        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + timedelta(seconds=seconds)

        monkeypatch.setattr("backfill.operate.doctor.databases.datetime", Shifted)
        shifted = SimpleNamespace(time=lambda: time.time() + seconds)
        monkeypatch.setattr("backfill.operate.doctor.redis.time", shifted)
        urls = {"BACKFILL_DATABASE_URL": db_url, "BACKFILL_REDIS_URL": redis_url}
        done = invoke("doctor", "--json", **urls)
        assert done.exit_code == 0, done.output
        return {
            f"{one['area']}/{one['name']}": (one["outcome"], one["message"])
            for one in json.loads(done.stdout)["examined"]
            if one["name"] == "clock"
        }

    return examine


@pytest.mark.parametrize(
    ("seconds", "where"), [(3_600.0, "ahead of"), (-3_600.0, "behind"), (-3.0, "behind")]
)
def test_a_clock_that_is_wrong_is_told(doctor: Doctor, seconds: float, where: str) -> None:
    found = doctor(seconds)
    assert set(found) == {"database default/clock", "redis/clock"}
    for outcome, message in found.values():
        assert outcome == "warning"
        told = re.match(rf"this machine's clock is ([\d,.]+) s {where} the ", message)
        assert told is not None, message
        # from one look at the two clocks to the other some time goes by
        assert float(told[1].replace(",", "")) == pytest.approx(abs(seconds), abs=0.9)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_clock_that_is_right_enough_is_not(doctor: Doctor, seconds: float) -> None:
    assert doctor(seconds) == {}
