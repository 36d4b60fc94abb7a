"""The jobs that call an API, against one that is slow, busy, away and contrary."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from backfill import Options, Quarantine, RetryLater
from backfill.model import Counts
from backfill.pg.ledger import get_run
from jobs.airports import FillAirportCountry
from jobs.http_api import post, seconds_of
from tests import starting
from tests.engine.factory import Worksite, until
from tests.jobs.api_server import Answer, Api, Asked

ROOT = Path(__file__).parents[2]
KEY = "hunter2-geocoder"
SMALL = Options(lock="optimistic", batch_rows=5, slice_rows=20, concurrency=2)


@pytest.fixture
def site(db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worksite]:
    """Forty airports, and the API's key in the environment."""
    monkeypatch.setenv("AIRPORTS_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    worksite = Worksite(db_url)
    worksite.execute(
        "CREATE TABLE airports (faa text PRIMARY KEY, name text NOT NULL, lat float8 NOT NULL,"
        " lon float8 NOT NULL, country text)"
    )
    worksite.execute(
        "INSERT INTO airports SELECT 'A' || lpad(i::text, 2, '0'), 'Airport ' || i, i, -i"
        " FROM generate_series(1, 40) AS i"
    )
    worksite.execute("ANALYZE airports")
    yield worksite
    worksite.close()


def test_a_column_is_filled_by_an_api_that_is_busy_slow_away_and_contrary(site: Worksite) -> None:
    """Nothing is lost and nothing is blamed but the one row that the API refuses."""
    firsts: dict[int, Answer] = {
        3: Answer(429, headers={"Retry-After": "0.05"}),
        7: Answer(503, b"<html>", {"Retry-After": formatdate(usegmt=True)}),
        9: Answer(None),  # broken off
        12: Answer(200, wait=0.6),  # longer than the job waits
        15: Answer(200, b"<html>welcome to the hotel</html>"),
        22: Answer(500),
    }
    always: dict[int, Answer] = {
        30: Answer(422, {"error": "no such place as 30/-30"}),
        31: Answer(200, {"country": "Atlantis"}),
        33: Answer(200, {"country": None}),
    }

    def answer(asked: Asked) -> Answer:
        assert (asked.path, asked.token) == ("/v1/country", KEY)
        row = int(asked.body["lat"])
        if asked.times == 1 and row == 22:  # nobody listens for a while
            threading.Thread(target=_restart, args=(api,)).start()
        if asked.times == 1 and row in firsts:
            return firsts[row]
        return always.get(row, Answer(200, {"country": "de"}))

    with Api(answer) as api:
        done = site.run(
            FillAirportCountry, options=SMALL, threads=2, params={"url": api.url, "seconds": 0.3}
        )
    assert done.state == "paused"
    assert done.counts == Counts(paged=40, written=37, unchanged=1, quarantined=2)
    assert [(row.key, row.message) for row in sorted(done.quarantine, key=lambda r: r.key)] == [
        (("A30",), "the API answered 422"),
        (("A31",), "the answer's country is no code of two letters"),
    ]
    assert site.rows("SELECT country, count(*) FROM airports GROUP BY 1 ORDER BY 1") == [
        ("DE", 37),
        (None, 3),
    ]
    assert len(api.asked) == 40
    assert {int(name[-2:]) for name, times in api.asked.items() if times > 1} >= set(firsts)


def _restart(api: Api) -> None:
    api.stop()
    time.sleep(0.2)
    api.start()


def test_a_killed_process_loses_no_call_and_repeats_at_most_a_batch_a_slot(
    site: Worksite, tmp_path: Path
) -> None:
    """As a user runs it: `backfill run`, SIGKILL, `backfill run` again."""
    reached = threading.Event()

    def answer(asked: Asked) -> Answer:
        if sum(api.asked.values()) >= 17:
            reached.set()
        time.sleep(0.02)
        return Answer(410 if asked.body["code"] == "A35" else 204, b"")

    environ = {
        **os.environ,
        "BACKFILL_DATABASE_URL": site.url,
    }
    with Api(answer) as api:
        command = ["-m", "backfill", "--project", str(ROOT), "run", "announce_airports"]
        command += ["-p", f"url={api.url}", "--set", "batch_rows=5", "--set", "slice_rows=20"]
        command += ["--set", "concurrency=1"]
        out = tmp_path / "out"
        killed = starting.start(command, folder=tmp_path, environ=environ, stdout=out)
        assert reached.wait(30), out.read_text()
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait(20) == -signal.SIGKILL
        written = int(site.value("SELECT sum(written) FROM backfill.slice"))
        before = dict(api.asked)
        until(lambda: _leases_are_over(site), what="the lease of the killed process")
        finished = starting.run(command, folder=tmp_path, environ=environ)
        assert finished.returncode == 6, finished.stdout + finished.stderr
    assert 0 < written < 17
    assert len(api.asked) == 40, "every airport was announced"
    again = {once for once, times in api.asked.items() if times > 1}
    assert again <= set(list(before)[written:]), "only what was not recorded is called again"
    assert len(again) <= 5
    run = get_run(site.conn, site.ledger, site.value("SELECT id FROM backfill.run"))
    assert site.outcome(run).counts == Counts(paged=40, written=39, quarantined=1)
    told = out.read_text() + finished.stdout + finished.stderr
    assert KEY not in told
    assert not site.value(
        "SELECT (SELECT string_agg(r::text, '') FROM backfill.run r) || (SELECT"
        " string_agg(e::text, '') FROM backfill.event e) LIKE %s",
        f"%{KEY}%",
    )


def _leases_are_over(site: Worksite) -> bool:
    """The killed process's lease is made to end, as after its ten seconds."""
    site.execute("UPDATE backfill.slice SET lease_until = clock_timestamp() WHERE slot IS NOT NULL")
    return bool(
        site.value(
            "SELECT bool_and(lease_until < clock_timestamp()) IS NOT FALSE"
            " FROM backfill.slice WHERE slot IS NOT NULL"
        )
    )


@pytest.mark.parametrize(
    ("answer", "error", "seconds"),
    [
        (Answer(401), RetryLater, 60.0),
        (Answer(403), RetryLater, 60.0),
        (Answer(429, headers={"Retry-After": "7"}), RetryLater, 7.0),
        (Answer(429, headers={"Retry-After": "soon"}), RetryLater, None),
        (Answer(504), RetryLater, None),
        (Answer(200, b"[]"), RetryLater, None),
        (Answer(404, {"error": KEY}), Quarantine, None),
    ],
)
def test_what_an_answer_means(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, error: type[Exception], seconds: float | None
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Api(lambda _: answer) as api, pytest.raises(error) as raised:
        post(f"{api.url}x", {}, token=KEY, once="1", timeout=5.0)
    assert getattr(raised.value, "seconds", None) == seconds
    assert KEY not in str(raised.value)


def test_an_instant_to_come_again_is_so_many_seconds_away() -> None:
    assert seconds_of(None) is None
    assert seconds_of("-3") == 0.0
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (seconds_of("Wed, 21 Oct 2511 07:28:00 GMT") or 0) > 1e9
