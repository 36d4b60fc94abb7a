"""What a library tells again and again is written once in a while, and counted."""

from __future__ import annotations

import logging

import pytest

from backfill.watch.repeats import EVERY_SECONDS, MOST_MESSAGES, Repeats

Clock = list[float]


@pytest.fixture
def clock() -> Clock:
    return [100.0]


@pytest.fixture
def repeats(clock: Clock) -> Repeats:
    return Repeats(["celery.worker.consumer", "kombu"], monotonic=lambda: clock[0])


def told(
    repeats: Repeats,
    text: str = "Cannot connect to %s",
    *values: object,
    name: str = "kombu.connection",
    level: int = logging.ERROR,
) -> str | None:
    """What is written of a record; None: nothing."""
    record = logging.LogRecord(name, level, __file__, 1, text, values, None)
    return record.getMessage() if repeats.filter(record) else None


def test_the_first_passes_at_once_and_the_next_says_how_many_were_left_out(
    repeats: Repeats, clock: Clock
) -> None:
    assert told(repeats, "Cannot connect to %s\n", "a") == "Cannot connect to a\n"
    assert [told(repeats, "Cannot connect to %s\n", "b") for _ in range(3)] == [None] * 3
    clock[0] += EVERY_SECONDS
    said = told(repeats, "Cannot connect to %s\n", "100 %")
    assert said == "Cannot connect to 100 % (3 more like it are left out)"
    clock[0] += EVERY_SECONDS
    assert told(repeats, "Cannot connect to %s\n", "d") == "Cannot connect to d\n"


def test_another_message_level_or_logger_is_no_repeat(repeats: Repeats) -> None:
    assert told(repeats)
    assert told(repeats, "Connection lost")
    assert told(repeats, level=logging.CRITICAL)
    assert told(repeats, name="kombu")
    assert told(repeats, name="celery.worker.consumer.consumer")
    assert told(repeats) is None


def test_what_a_run_or_a_users_code_tells_is_never_left_out(repeats: Repeats) -> None:
    for name in ("celery.app.trace", "celery.worker.consumers", "jobs.flights", "root"):
        assert [bool(told(repeats, name=name)) for _ in range(3)] == [True] * 3
    assert [bool(told(repeats, level=logging.INFO)) for _ in range(3)] == [True] * 3


def test_messages_that_are_always_new_take_no_memory(repeats: Repeats) -> None:
    for number in range(5 * MOST_MESSAGES):
        assert told(repeats, f"connection {number} lost")
    assert len(repeats._told) <= MOST_MESSAGES
