"""What a task says when something goes wrong in it."""

from __future__ import annotations

import pickle
import traceback

import psycopg
import pytest
import structlog

from backfill.worker.benches import Benches
from backfill.worker.tasks import Result, unexpected
from tests.acceptance.crew import Crew

ROW = "ada@example.org"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError(ROW), "unexpected KeyError"),
        (ValueError(f"not a number: {ROW}"), "unexpected ValueError"),
        (
            psycopg.errors.UniqueViolation(f"duplicate\nDETAIL: Key (email)=({ROW}) exists."),
            "unexpected UniqueViolation (23505)",
        ),
        (
            psycopg.errors.UndefinedTable('relation "item" does not exist'),
            'unexpected UndefinedTable (42P01): relation "item" does not exist',
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_defect_says_its_kind_and_its_place_and_no_value(error: Exception, told: str) -> None:
    def stumble() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        stumble()
    found = unexpected(caught.value, run="count-7f3k2", slot=3)
    assert found.message.startswith(f"count-7f3k2 slot 3: {told} in stumble (")
    shown = "".join(traceback.format_exception(found))
    assert "in stumble" in shown
    assert ROW not in shown
    # as Celery hands it from a child to its parent
    assert pickle.loads(pickle.dumps(found)).message == found.message


def test_a_result_is_shown_without_quotes() -> None:
    assert repr(Result("it's done")) == "it's done"


def test_a_teardown_that_raises_is_told_and_the_connections_are_closed(crew: Crew) -> None:
    crew.write_jobs(
        """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()

    def teardown(self):
        raise LookupError("nothing to tear down")
"""
    )
    run = crew.enqueue("count")
    benches = Benches(crew.project)
    kept = benches.get(run, database="default", ledger=crew.desk.ledger.id)
    with structlog.testing.capture_logs() as lines:
        benches.drop(run)
    assert kept.bench.conn.closed
    assert [(line["event"], line["hook"], line["error"]) for line in lines] == [
        ("hook.failed", "teardown", "LookupError")
    ]
