"""One live run per job and per written column, also when two ask at the same instant (I1)."""

from __future__ import annotations

import threading

import pytest

from backfill.engine import lifecycle
from backfill.errors import RefusedError
from backfill.job import Delete, Job, Sql, Table, Update
from tests.engine.factory import Worksite
from tests.engine.jobs import Increment, IncrementInPython, Label


def test_a_second_live_run_of_a_job_is_refused_naming_the_first(site: Worksite) -> None:
    """I1."""
    site.numbers(10)
    first = site.enqueue(Increment)
    with pytest.raises(RefusedError, match=f"has a live run already: {first.id}") as refused:
        site.enqueue(Increment)
    assert f"backfill cancel {first.id}" in refused.value.remedy
    site.work(Increment, first)
    assert site.run(Increment).state == "succeeded"


class AlsoWritesN(Job):
    source = Table("t")
    transform = Sql(n="n * 2", label="'x'")
    target = Update()


def test_a_live_run_that_writes_the_same_column_is_refused(site: Worksite) -> None:
    """I1; other columns of the same table are no conflict, and the claim ends with the run."""
    site.numbers(10)
    first = site.enqueue(IncrementInPython)
    with pytest.raises(RefusedError, match=f"run {first.id} is live and writes the same column n"):
        site.enqueue(AlsoWritesN)
    assert site.enqueue(Label).state == "queued"
    lifecycle.cancel(site.conn, site.ledger, first.id, reason="enough", by="Ada")
    assert site.run(Increment).state == "succeeded"


class DeleteSome(Job):
    source = Table("t", where="id < 5")
    target = Delete()


class DeleteOthers(Job):
    source = Table("t", where="id > 5")
    target = Delete()


def test_two_live_runs_that_delete_from_one_table_are_refused(site: Worksite) -> None:
    site.numbers(10)
    site.enqueue(DeleteSome)
    with pytest.raises(RefusedError, match=r"writes the same rows of public\.t"):
        site.enqueue(DeleteOthers)


def test_of_two_that_enqueue_at_the_same_instant_one_is_refused(site: Worksite) -> None:
    """An index decides, not only a check before."""
    site.numbers(10)
    together = threading.Barrier(4)
    answers: list[str] = []

    def enqueue() -> None:
        other = Worksite(site.url)
        together.wait()
        try:
            other.enqueue(Increment)
            answers.append("queued")
        except RefusedError:
            answers.append("refused")
        other.close()

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["queued", "refused", "refused", "refused"]
    assert site.value("SELECT count(*) FROM backfill.run") == 1
