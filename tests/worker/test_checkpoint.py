"""The checkpoint in Redis: a copy that may be lost at any time, and counts nothing twice (I4)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill.checkpoint import AWAY_SECONDS, CALL_SECONDS, KEEP_SECONDS, RATE_SECONDS, Checkpoint
from backfill.clock import SystemClock
from backfill.engine.pace import BURST_SECONDS, LATE_SECONDS, SHARE_OF_RATE, LocalLimiter
from backfill.local.redis import LocalRedis
from backfill.model import Counts
from backfill.worker.observer import RunLimiter
from tests.engine.factory import FakeClock

RUN = "fill-7f3k2"


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may be slow to answer here, and is asked all the same."""
    monkeypatch.setattr("backfill.checkpoint.SLOW_SECONDS", CALL_SECONDS)


@pytest.fixture
def checkpoint(redis_url: str) -> Iterator[Checkpoint]:
    checkpoint = Checkpoint(redis_url, "a-ledger")
    yield checkpoint
    checkpoint.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def walked(rows: int) -> Counts:
    """A slice that has come so far."""
    return Counts(paged=rows, written=rows - rows // 10, deferred=rows // 10)


def counts(checkpoint: Checkpoint) -> Counts:
    snapshot = checkpoint.read(RUN)
    assert snapshot is not None
    return snapshot.counts


def test_a_run_that_was_never_built_is_not_there(checkpoint: Checkpoint) -> None:
    assert checkpoint.read(RUN) is None
    assert checkpoint.write(RUN, {1: (1, walked(10))}) is None
    assert checkpoint.read(RUN) is None, "a part of a run would look like all of it"


def test_writing_the_same_counts_again_counts_nothing_twice(checkpoint: Checkpoint) -> None:
    checkpoint.rebuild(RUN, [])
    for _ in range(3):
        checkpoint.write(RUN, {1: (1, walked(100)), 2: (1, walked(50))})
    assert counts(checkpoint) == walked(100) + walked(50)


def test_what_a_write_answers_is_the_whole_run(checkpoint: Checkpoint) -> None:
    checkpoint.rebuild(RUN, [(1, 1, walked(100))])
    snapshot = checkpoint.write(RUN, {2: (1, walked(50))})
    assert snapshot is not None
    assert snapshot.counts == walked(100) + walked(50)


def test_a_write_under_an_older_epoch_is_dropped(checkpoint: Checkpoint) -> None:
    checkpoint.rebuild(RUN, [])
    checkpoint.write(RUN, {1: (2, walked(100))})
    checkpoint.write(RUN, {1: (1, walked(900))})
    assert counts(checkpoint) == walked(100)


def test_a_flushed_run_is_rebuilt_from_the_ledger(
    checkpoint: Checkpoint, client: redis.Redis
) -> None:
    checkpoint.rebuild(RUN, [])
    checkpoint.write(RUN, {1: (1, walked(100)), 2: (1, walked(100))})
    client.flushdb()
    assert checkpoint.write(RUN, {1: (1, walked(110))}) is None
    assert not checkpoint.is_away
    checkpoint.rebuild(RUN, [(1, 1, walked(110)), (2, 1, walked(100))])
    checkpoint.write(RUN, {1: (1, walked(120))})
    assert counts(checkpoint) == walked(120) + walked(100)


def test_a_rebuild_from_an_older_reading_takes_nothing_back(checkpoint: Checkpoint) -> None:
    """Several workers rebuild at once; the slowest read the ledger before the others went on."""
    reading = [(1, 1, walked(100)), (2, 1, walked(100))]
    checkpoint.rebuild(RUN, reading)
    checkpoint.write(RUN, {1: (1, walked(200)), 2: (2, walked(100))})
    checkpoint.rebuild(RUN, reading)
    assert counts(checkpoint) == walked(200) + walked(100)


def test_a_rebuild_mends_what_a_killed_worker_did_not_write_any_more(
    checkpoint: Checkpoint,
) -> None:
    checkpoint.rebuild(RUN, [(1, 1, walked(100))])
    swept = Counts(paged=100, written=100)
    checkpoint.rebuild(RUN, [(1, 1, swept), (2, 1, walked(30))])
    assert counts(checkpoint) == swept + walked(30)


Words = list[tuple[bool, int, int, int]]


@given(
    words=st.lists(
        st.tuples(
            st.booleans(),
            st.integers(1, 3),
            st.integers(1, 3),
            st.integers(0, 50).map(lambda tens: tens * 10),
        ),
        max_size=30,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_in_whatever_order_words_come_the_furthest_of_each_slice_counts(
    redis_url: str, words: Words
) -> None:
    """Writes and rebuilds, doubled, late and out of order: (is a rebuild, slice, epoch, rows)."""
    checkpoint = Checkpoint(redis_url, str(uuid4()))
    checkpoint.rebuild(RUN, [])
    furthest: dict[int, tuple[int, int]] = {}
    for is_rebuild, number, epoch, rows in words:
        if is_rebuild:
            checkpoint.rebuild(RUN, [(number, epoch, walked(rows))])
        else:
            checkpoint.write(RUN, {number: (epoch, walked(rows))})
        furthest[number] = max(furthest.get(number, (0, 0)), (epoch, rows))
    total = sum((walked(rows) for _, rows in furthest.values()), Counts())
    assert counts(checkpoint) == total
    checkpoint.close()


def test_what_nobody_touches_any_more_is_forgotten(
    checkpoint: Checkpoint, client: redis.Redis
) -> None:
    checkpoint.rebuild(RUN, [(1, 1, walked(10))])
    checkpoint.write(RUN, {1: (1, walked(20))})
    checkpoint.take(RUN, 10, 10.0, burst=0.2, late=0.0)
    keys = list(client.scan_iter("*"))
    assert len(keys) == 3
    assert all(str(key).startswith("backfill:a-ledger:") for key in keys)
    for key in keys:
        assert 0 < int(str(client.ttl(key))) <= KEEP_SECONDS


# -- a rebuild in pieces


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Counts]]:
    """Ten slices, of which a piece has three."""
    monkeypatch.setattr("backfill.checkpoint.PIECE_SLICES", 3)
    return [(number, 1, walked(100)) for number in range(10)]


def test_a_rebuild_in_pieces_lets_others_in_and_is_seen_when_it_is_whole(
    checkpoint: Checkpoint,
    client: redis.Redis,
    redis_url: str,
    pieces: list[tuple[int, int, Counts]],
) -> None:
    other = Checkpoint(redis_url, "a-ledger")
    seen = []

    def calls() -> int:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])

    def read() -> Iterator[tuple[int, int, Counts]]:
        for one in pieces:
            seen.append((other.read(RUN), other.write(RUN, {0: (1, walked(50))})))
            yield one

    checkpoint.rebuild(RUN, read())
    assert seen == [(None, None)] * 10
    assert counts(checkpoint).paged == 1000
    before = calls()
    checkpoint.rebuild(RUN, pieces)
    assert calls() == before + 5
    assert counts(checkpoint).paged == 1000
    other.close()


def test_a_rebuild_that_another_one_joins_counts_each_slice_once(
    checkpoint: Checkpoint, redis_url: str, pieces: list[tuple[int, int, Counts]]
) -> None:
    other = Checkpoint(redis_url, "a-ledger")

    def read() -> Iterator[tuple[int, int, Counts]]:
        yield from pieces[:7]
        other.rebuild(RUN, pieces)
        assert counts(other).paged == 1000
        yield from pieces[7:]

    checkpoint.rebuild(RUN, read())
    assert counts(checkpoint).paged == 1000
    other.close()


@pytest.mark.parametrize("loses", ["the builder", "what was built"])
def test_a_rebuild_that_is_not_finished_leaves_nothing_wrong(
    checkpoint: Checkpoint,
    client: redis.Redis,
    pieces: list[tuple[int, int, Counts]],
    loses: str,
) -> None:
    def read() -> Iterator[tuple[int, int, Counts]]:
        yield from pieces[:7]
        if loses == "the builder":
            raise InterruptedError
        client.flushdb()
        yield from pieces[7:]

    with suppress(InterruptedError):
        checkpoint.rebuild(RUN, read())
    assert checkpoint.read(RUN) is None, "a part would be shown as all"
    checkpoint.rebuild(RUN, pieces)
    assert counts(checkpoint).paged == 1000


# -- the rate: only time is fake, by moving what Redis remembers of it into the past


def let_pass(client: redis.Redis, seconds: float) -> None:
    """As if the last write had been so much longer ago."""
    for field in ("at", "since"):
        client.hincrbyfloat(f"backfill:a-ledger:run:{RUN}", field, -seconds)


def speed(checkpoint: Checkpoint) -> float | None:
    snapshot = checkpoint.read(RUN)
    assert snapshot is not None
    return snapshot.rows_per_second


def test_a_steady_rate_is_right_from_its_first_second_on(
    checkpoint: Checkpoint, client: redis.Redis
) -> None:
    checkpoint.rebuild(RUN, [])
    done = Counts(paged=5_000, written=5_000)  # in a time that nobody knows
    checkpoint.write(RUN, {1: (1, done)})
    assert speed(checkpoint) is None
    at = time.monotonic()
    for _ in range(300):
        let_pass(client, 0.1)
        at, was = time.monotonic(), at
        rows = done.paged + round(1_000 * (0.1 + at - was))  # real time passes, too
        done = replace(done, paged=rows, written=rows)
        checkpoint.write(RUN, {1: (1, done)})
        if (seen := speed(checkpoint)) is not None:
            assert seen == pytest.approx(1_000, rel=0.1)
    assert speed(checkpoint) == pytest.approx(1_000, rel=0.05)


def test_the_rate_falls_while_nothing_comes_and_begins_anew_after_a_pause(
    checkpoint: Checkpoint, client: redis.Redis
) -> None:
    checkpoint.rebuild(RUN, [])
    for rows in range(0, 5_000, 100):
        checkpoint.write(RUN, {1: (1, Counts(paged=rows, written=rows))})
        let_pass(client, 0.1)
    before = speed(checkpoint)
    let_pass(client, RATE_SECONDS)
    after = speed(checkpoint)
    assert before is not None
    assert after is not None
    assert 0 < after < before / 2
    let_pass(client, 10 * RATE_SECONDS)
    checkpoint.write(RUN, {1: (1, Counts(paged=9_000, written=9_000))})
    assert speed(checkpoint) is None, "4,000 rows that came after a pause are no rate"


def test_the_rate_begins_anew_when_the_clock_has_gone_back(
    checkpoint: Checkpoint, client: redis.Redis
) -> None:
    checkpoint.rebuild(RUN, [])
    for thousands in (1, 2):
        checkpoint.write(RUN, {1: (1, walked(1000 * thousands))})
        let_pass(client, 1.0)
    let_pass(client, -3600.0)
    for thousands in (3, 4, 5):
        checkpoint.write(RUN, {1: (1, walked(1000 * thousands))})
        let_pass(client, 1.0)
    found = speed(checkpoint)
    assert found is not None
    assert found < 5000


def test_rebuilt_rows_are_no_rate(checkpoint: Checkpoint, client: redis.Redis) -> None:
    checkpoint.rebuild(RUN, [(1, 1, walked(100_000))])
    assert speed(checkpoint) is None
    checkpoint.write(RUN, {1: (1, walked(100_000))})
    let_pass(client, 1)
    checkpoint.rebuild(RUN, [(2, 1, walked(100_000))])
    assert speed(checkpoint) == 0


# -- the bucket


def test_no_second_sees_more_than_the_rate_and_what_is_kept_of_idle_time(
    checkpoint: Checkpoint,
) -> None:
    """By the server's own clock: the script says how long, and takes nothing before that."""
    rate, rows = 1_000.0, 50
    began, taken, at = time.monotonic(), 0, 0.0
    while at < 2:
        wait = checkpoint.take(
            RUN, rows, rate * SHARE_OF_RATE, burst=BURST_SECONDS, late=LATE_SECONDS
        )
        assert wait is not None
        at = time.monotonic() - began
        if wait:
            assert wait <= rows / (rate * SHARE_OF_RATE)
            time.sleep(wait)
        else:
            taken += rows
            assert taken <= rate * (at + BURST_SECONDS)
    assert taken >= 0.9 * rate * 2


def test_the_bucket_is_the_same_in_redis_and_in_the_process(checkpoint: Checkpoint) -> None:
    """What was idle is remembered for `burst`, or for the rows themselves and a little more."""
    local = LocalLimiter(SystemClock())
    for rows, rate in ((1, 1_000.0), (30, 1_000.0), (1, 20.0), (1, 5.0), (-1, 5.0), (1, 5.0)):
        for _ in range(4):
            there = checkpoint.take(RUN, rows, rate, burst=BURST_SECONDS, late=LATE_SECONDS)
            assert there == pytest.approx(local.take(rows, rate), abs=0.05)
        time.sleep(0.15)


def test_who_waits_has_taken_nothing(checkpoint: Checkpoint) -> None:
    for _ in range(10):
        wait = checkpoint.take(RUN, 10, 10.0, burst=0.2, late=0.0)
        assert wait == pytest.approx(1.0, abs=0.3)


def test_what_was_taken_and_not_used_is_given_back(checkpoint: Checkpoint) -> None:
    checkpoint.take(RUN, 1, 10.0, burst=0.2, late=0.0)
    time.sleep(0.25)
    assert checkpoint.take(RUN, 2, 10.0, burst=0.2, late=0.0) == 0
    assert checkpoint.take(RUN, 2, 10.0, burst=0.2, late=0.0) != 0
    checkpoint.take(RUN, -2, 10.0, burst=0.2, late=0.0)
    assert checkpoint.take(RUN, 2, 10.0, burst=0.2, late=0.0) == 0


def test_the_bucket_of_the_slowest_rate_outlives_its_wait(
    checkpoint: Checkpoint, client: redis.Redis
) -> None:
    wait = checkpoint.take(RUN, 1, 1 / 86_400, burst=0.2, late=0.0)
    assert wait == pytest.approx(86_400, rel=0.01)
    (key,) = client.scan_iter("*bucket")
    assert int(str(client.ttl(key))) > 86_400


# -- Redis is away


def test_nobody_waits_for_an_instant_from_before_the_clock_went_back(
    checkpoint: Checkpoint, client: redis.Redis
) -> None:
    """A run with a rate would stand still for as long as the clock of Redis went back."""
    assert checkpoint.take(RUN, 0, 100.0, burst=0.1, late=0.05) == 0.0
    (key,) = client.scan_iter("*bucket")
    used_until = float(str(client.get(key)))
    client.set(key, f"{used_until + 3_600_000_000:.0f}")
    wait = checkpoint.take(RUN, 10, 100.0, burst=0.1, late=0.05)
    assert wait is not None
    assert wait == pytest.approx(0.1, abs=0.01)  # as from a bucket that is just empty
    time.sleep(wait)
    assert checkpoint.take(RUN, 10, 100.0, burst=0.1, late=0.05) == 0.0


def test_a_slot_that_is_left_alone_has_nothing_saved_up(own_redis: LocalRedis) -> None:
    """What came while the slots shared one bucket was used there, or is lost."""
    checkpoint, clock = Checkpoint(own_redis.url(), "a-ledger"), FakeClock(datetime.now(UTC))
    limiter = RunLimiter(checkpoint, RUN, clock, slots=4)
    clock.sleep(3600.0)
    limiter.take(1, 1.0)
    own_redis.stop()
    assert limiter.take(1, 1.0) == pytest.approx(4.0)
    checkpoint.close()


def test_a_redis_that_is_gone_costs_no_time(own_redis: LocalRedis) -> None:
    checkpoint = Checkpoint(own_redis.url(), "a-ledger")
    checkpoint.rebuild(RUN, [(1, 1, walked(10))])
    own_redis.stop()
    began = time.monotonic()
    assert checkpoint.write(RUN, {1: (1, walked(20))}) is None
    assert checkpoint.is_away
    assert checkpoint.take(RUN, 1, 1.0, burst=0.2, late=0.0) is None
    checkpoint.rebuild(RUN, [])
    assert time.monotonic() - began < CALL_SECONDS
    own_redis.start()
    deadline = time.monotonic() + 5 * AWAY_SECONDS
    while checkpoint.read(RUN) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert counts(checkpoint) == walked(10)
    checkpoint.close()


def test_a_redis_that_does_not_answer_costs_one_call_and_is_then_left_alone(
    own_redis: LocalRedis,
) -> None:
    checkpoint = Checkpoint(own_redis.url(), "a-ledger")
    checkpoint.rebuild(RUN, [])
    pid = own_redis.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert checkpoint.read(RUN) is None
        assert time.monotonic() - began < 2 * CALL_SECONDS
        began = time.monotonic()
        for _ in range(100):
            assert checkpoint.read(RUN) is None
        assert time.monotonic() - began < CALL_SECONDS / 2
    finally:
        os.kill(pid, signal.SIGCONT)
        checkpoint.close()
