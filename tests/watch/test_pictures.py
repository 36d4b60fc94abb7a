"""Pictures of runs: taken once a second by one process, seen by all, the ledger where Redis is not.

I4: Redis may vanish at any moment; whoever watches goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import cast

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from backfill.checkpoint import Checkpoint
from backfill.errors import UnreachableError, UsageError
from backfill.model import PauseCause, RunState
from backfill.pg.pulses import MANY, PERIOD_SECONDS, Pulse, period_seconds, read_pulses, write_pulse
from backfill.watch.batches import EDGES, BatchCounts
from backfill.watch.gallery import Gallery
from backfill.watch.limits import Slots
from backfill.watch.picture import Overview, Picture, Point
from backfill.watch.publisher import Publisher
from tests.acceptance.crew import Crew


@contextmanager
def gallery_of(crew: Crew) -> Iterator[Gallery]:
    gallery = crew.project.gallery("default")
    try:
        yield gallery
    finally:
        gallery.close()


@contextmanager
def checkpoint_of(crew: Crew) -> Iterator[Checkpoint]:
    checkpoint = crew.project.checkpoint(crew.desk.ledger)
    assert checkpoint is not None
    try:
        yield checkpoint
    finally:
        checkpoint.close()


def publish(crew: Crew, publisher: Publisher) -> None:
    publisher.round(crew.desk.conn, crew.desk.ledger)


def everything_in(url: str) -> str:
    """All keys and values of a Redis database, as text."""
    client = redis.Redis.from_url(url, decode_responses=True)
    told = []
    for key in client.scan_iter():
        kind = client.type(key)
        value: object = None
        if kind == "string":
            value = client.get(key)
        elif kind == "hash":
            value = client.hgetall(key)
        elif kind == "list":
            value = client.lrange(key, 0, -1)
        elif kind == "set":
            value = client.smembers(key)
        elif kind == "zset":
            value = client.zrange(key, 0, -1)
        told.append(f"{key} {value}")
    client.close()
    return "\n".join(told)


# --------------------------------------------------------------------------------- a real worker


def test_a_run_is_seen_in_redis_while_it_works_and_in_the_ledger_after_it(
    crew: Crew, redis_url: str
) -> None:
    run = crew.enqueue("count")
    with gallery_of(crew) as gallery:
        assert gallery.picture(run).progress.source == "ledger"
        crew.start(children=2)
        crew.wait(
            lambda: gallery.picture(run).progress.source == "checkpoint", "a worker publishes"
        )
        crew.wait(lambda: crew.causes(run) == {PauseCause.QUARANTINE}, "its quarantine is left")
        crew.wait(
            lambda: gallery.picture(run).progress.run.run_state is RunState.PAUSED,
            "Redis says so",
        )
        seen = gallery.picture(run)
        assert seen.progress.source == "checkpoint"
        assert (seen.open_quarantine, [one.sqlstate for one in seen.set_aside]) == (3, [None])
        assert sum(cell.done for cell in seen.cells) == sum(cell.slices for cell in seen.cells)
        assert seen.progress.counts == crew.counts(run)
        assert seen.events[0].name == "run.enqueued"
        assert gallery.overview().live == [run]
        assert len(gallery.overview().workers) == 1
        # an event may say how many rows are in quarantine; which ones is the ledger's alone
        assert "secret-" not in everything_in(redis_url)
        crew.conn.execute("UPDATE item SET n = 5 WHERE n < 0")
        from backfill.engine import lifecycle

        lifecycle.release_quarantine(crew.desk.conn, crew.desk.ledger, run, by="the test")
        crew.wait_for(run, RunState.SUCCEEDED)
        crew.wait(lambda: gallery.overview().live == [], "it is live no more")
        after = gallery.picture(run)
        assert (after.progress.source, after.progress.run.state) == ("ledger", "succeeded")
        assert [one.progress.run.id for one in gallery.runs()] == [run]
        pulses, recent = gallery.points(run)
        assert pulses[-1].settled == 1000
        # rows that leave the quarantine are to do again, and nothing else is
        assert all(
            after.settled >= before.settled - seen.open_quarantine
            for before, after in pairwise(recent)
        )


def test_batches_are_counted_over_all_processes_and_failures_by_their_code(crew: Crew) -> None:
    run = crew.enqueue("count")
    crew.start()
    crew.start()
    crew.wait(lambda: crew.causes(run) == {PauseCause.QUARANTINE}, "it has come to its end")
    with gallery_of(crew) as gallery:
        # each worker flushes at the end of its task
        crew.wait(lambda: gallery.batches(run).get("batches:walk", 0) >= 1000 / 20, "all batches")
        found = gallery.batches(run)
    assert found["seconds:walk"] > 0
    edges = sum(value for name, value in found.items() if name.startswith("upto:walk:"))
    assert edges == found["batches:walk"]


def test_a_picture_says_that_a_database_leaves_no_room_for_slots(crew: Crew) -> None:
    run = crew.enqueue("count")
    with checkpoint_of(crew) as checkpoint, gallery_of(crew) as gallery:
        publish(crew, Publisher("default", checkpoint))
        assert gallery.picture(run).progress.slots is None
        publish(crew, Publisher("default", checkpoint, max_slots=3))
        slots = gallery.picture(run).progress.slots
    assert slots == Slots(most=3, of_all=0, held=0, is_more_to_do=True)


def test_workers_are_asked_for_once_a_round(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    run = crew.enqueue("count")
    crew.conn.execute(
        "INSERT INTO backfill.worker (name, version, started_at, seen_at)"
        " VALUES ('w0', '1', now(), now())"
    )
    monkeypatch.setattr("backfill.watch.progress.workers", None)
    with checkpoint_of(crew) as checkpoint, gallery_of(crew) as gallery:
        publish(crew, Publisher("default", checkpoint))
        assert gallery.picture(run).progress.workers == 1


# ------------------------------------------------------------------------------ what may vanish


def test_what_redis_has_lost_is_read_from_the_ledger_and_published_anew(
    crew: Crew, redis_url: str
) -> None:
    run = crew.enqueue("count")
    client = redis.Redis.from_url(redis_url)
    with checkpoint_of(crew) as checkpoint, gallery_of(crew) as gallery:
        publisher = Publisher("default", checkpoint)
        publish(crew, publisher)
        assert gallery.picture(run).progress.source == "checkpoint"
        client.flushdb()
        assert gallery.picture(run).progress.source == "ledger"
        assert gallery.overview().live == [run]
        for _ in range(2):  # of a run that waits there is a picture in every other round
            publish(crew, publisher)
        assert gallery.picture(run).progress.source == "checkpoint"
        # its pulses, too, are mended from the ledger when there is a new one
        crew.conn.execute("UPDATE backfill.pulse SET at = at - interval '1 hour'")
        publish(crew, Publisher("default", checkpoint))
        pulses, _ = gallery.points(run)
        assert len(pulses) == 2
    client.close()


def test_no_picture_is_older_than_the_one_before(
    crew: Crew, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = crew.enqueue("count")
    client = redis.Redis.from_url(redis_url)
    with checkpoint_of(crew) as checkpoint, gallery_of(crew) as gallery:
        publish(crew, Publisher("default", checkpoint))
        older = checkpoint.published(run)
        assert older is not None
        client.flushdb()
        seen = gallery.picture(run)
        assert seen.progress.source == "ledger"
        # Redis was slow for a moment
        checkpoint.publish(run, older, "{}")
        assert gallery.picture(run) is seen
        # by another clock it may be the newest all the same
        monkeypatch.setattr("backfill.watch.gallery.PICTURE_SECONDS", 0.0)
        assert gallery.picture(run).progress.source == "checkpoint"
    client.close()


def test_without_redis_everything_is_seen_all_the_same(crew: Crew) -> None:
    run = crew.enqueue("count")
    ledger = crew.desk.ledger
    away = Checkpoint("redis://127.0.0.1:1/0", ledger.id)
    Publisher("default", away).round(crew.desk.conn, ledger)
    gallery = Gallery("default", ledger, connect=crew.desk.connect, checkpoint=away)
    assert gallery.picture(run).progress.source == "ledger"
    assert gallery.runs()[0].progress.run.id == run
    assert gallery.batches(run) == {}
    assert len(gallery.points(run)[0]) == 1
    gallery.close()


def test_nobody_loads_the_database_by_watching(crew: Crew) -> None:
    run = crew.enqueue("count")
    with checkpoint_of(crew) as checkpoint, gallery_of(crew) as gallery:
        publish(crew, Publisher("default", checkpoint))

        def refuse() -> psycopg.Connection:
            raise AssertionError("the database was asked")

        gallery._connect = refuse
        for _ in range(3):
            assert gallery.picture(run).progress.run.id == run
            assert gallery.overview().live == [run]
            gallery.points(run)


def test_many_who_watch_without_redis_cost_one_reading_a_second(crew: Crew) -> None:
    run = crew.enqueue("count")
    gallery = Gallery("default", crew.desk.ledger, connect=crew.desk.connect, checkpoint=None)
    first = gallery.picture(run)
    assert all(gallery.picture(run) is first for _ in range(20))
    gallery.close()


def test_a_run_that_is_not_there_and_a_database_that_is_away_are_said(crew: Crew) -> None:
    with gallery_of(crew) as gallery:
        with pytest.raises(UsageError, match="no run"):
            gallery.picture("nothing-00000")

        def away() -> psycopg.Connection:
            raise psycopg.OperationalError("no route, and a password")

        gallery.close()
        gallery._connect = away
        with pytest.raises(UnreachableError) as told:
            gallery.picture("nothing-00000")
    assert "password" not in told.value.message


# ------------------------------------------------------------------------------------- the parts


def test_a_picture_reads_back_as_it_was_without_what_names_keys(crew: Crew) -> None:
    run = crew.enqueue("count")
    crew.conn.execute(
        "UPDATE backfill.run SET horizon = '{secret-1}', frontier = '{secret-0}',"
        " from_key = '{secret-2}', row_limit = 5"
    )
    with gallery_of(crew) as gallery:
        taken = gallery.from_ledger(run)
        overview = gallery.overview()
    packed = taken.pack()
    assert "secret-" not in packed
    read = Picture.unpack(packed)
    assert read is not None
    assert read.pack() == packed
    ours, theirs = taken.to_json(), read.to_json()
    assert {k for k in ours if ours[k] != theirs[k]} <= {"source", "failure", "bounds"}
    # that there is a first key is told, and not which
    assert theirs["bounds"] == {"from": [], "to": None, "limit": 5}
    assert Overview.unpack(overview.pack()) == overview


def test_another_versions_pictures_are_not_read(crew: Crew) -> None:
    run = crew.enqueue("count")
    with gallery_of(crew) as gallery:
        packed = json.loads(gallery.from_ledger(run).pack())
    assert Picture.unpack(json.dumps({**packed, "version": 2})) is None
    # what a newer one has added to a part of it is no harm
    packed["run"]["colour"] = "green"
    assert Picture.unpack(json.dumps(packed)) is not None


def test_a_call_that_was_not_answered_is_counted_once(crew: Crew) -> None:
    with checkpoint_of(crew) as checkpoint:
        counts = BatchCounts()
        counts.committed("walk", 0.05)
        counts.failed("40P01")
        counted = checkpoint.count
        checkpoint.count = lambda *args: counted(*args) and False  # type: ignore[method-assign]
        counts.flush(checkpoint, "r")
        checkpoint.count = counted  # type: ignore[method-assign]
        counts.committed("walk", 40.0)
        counts.flush(checkpoint, "r")
        counts.flush(checkpoint, "r")
        found = checkpoint.counted("r")
    assert found == {
        "batches:walk": 2,
        "seconds:walk": pytest.approx(40.05),
        "upto:walk:0.05": 1,
        "failed:40P01": 1,
    }


def test_callers_are_threads_and_not_the_workbenches_that_each_has_in_turn(crew: Crew) -> None:
    """Each is remembered for as long as the run's numbers; and none is taken for another."""
    with checkpoint_of(crew) as checkpoint, ThreadPoolExecutor(1) as pool:
        slow = BatchCounts()
        slow.committed("walk", 0.05)
        counted = checkpoint.count
        checkpoint.count = lambda *_: False  # type: ignore[method-assign]
        slow.flush(checkpoint, "r")  # its call has a number, and has not come to Redis yet
        checkpoint.count = counted  # type: ignore[method-assign]

        def others() -> None:
            for _ in range(3):
                counts = BatchCounts()
                counts.committed("walk", 0.05)
                counts.flush(checkpoint, "r")

        pool.submit(others).result()
        slow.flush(checkpoint, "r")
        others()
        assert (checkpoint.counted("r") or {})["batches:walk"] == 7
        fields = cast("list[str]", checkpoint._redis.hkeys(f"{checkpoint._run('r')}:batches"))
    assert sum(name.startswith("seq:") for name in fields) == 2


@given(st.lists(st.floats(0.0, 40.0), min_size=1, max_size=40))
def test_each_batch_is_in_the_bucket_of_its_time(seconds: list[float]) -> None:
    counts = BatchCounts()
    for one in seconds:
        counts.committed("sweep", one)
    for below, edge in zip((0.0, *EDGES), EDGES, strict=False):
        inside = sum(1 for one in seconds if one <= edge and (one > below or below == 0.0))
        assert counts._added.get(f"upto:sweep:{edge:g}", 0) == inside


@given(st.floats(0, 3e7))
def test_pulses_grow_rarer_and_never_too_many(lasted: float) -> None:
    period = period_seconds(lasted)
    assert period >= PERIOD_SECONDS
    assert lasted / period <= MANY
    assert period == PERIOD_SECONDS or lasted / period > MANY / 2


def test_a_pulse_is_written_where_there_is_no_newer_one(crew: Crew) -> None:
    run = crew.enqueue("count")
    ledger, conn = crew.desk.ledger, crew.desk.conn
    pulse = Pulse(
        at=datetime.now(UTC),
        state="running",
        settled=5,
        speed=0.5,
        batch_rows=7,
        batch_seconds=0.1,
        signals={"lag": 1.5},
    )
    assert write_pulse(conn, ledger, run, pulse, newer_than_seconds=60)
    assert not write_pulse(conn, ledger, run, pulse, newer_than_seconds=60)
    assert write_pulse(conn, ledger, run, pulse, newer_than_seconds=0)
    kept = read_pulses(conn, ledger, run)
    assert [one.settled for one in kept] == [5, 5]
    assert abs(kept[0].at - datetime.now(UTC)) < timedelta(seconds=60)
    point = Point.of_pulse(kept[0])
    assert Point.unpack(point.pack()) == point
    assert point.pulse == kept[0]
