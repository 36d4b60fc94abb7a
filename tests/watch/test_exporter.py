"""What a scrape may cost and how long, and what may vanish meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from backfill.checkpoint import Checkpoint
from backfill.model import Counts
from backfill.pg.connect import connect
from backfill.pg.ledger import Ledger
from backfill.settings import Settings
from backfill.watch import exporter
from backfill.watch.exporter import RunsCollector
from backfill.watch.gallery import Gallery
from backfill.watch.picture import Overview
from backfill.watch.publisher import Publisher
from tests.acceptance.crew import Crew
from tests.metrics import Scrape, collected, told_within


def test_scrapes_ask_the_database_for_nothing_but_which_runs_have_ended(
    crew: Crew, collector: RunsCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = crew.enqueue("count")
    checkpoint = crew.project.checkpoint(crew.desk.ledger)
    assert checkpoint is not None
    Publisher("default", checkpoint).round(crew.desk.conn, crew.desk.ledger)
    asked: list[str] = []
    gallery = collector._databases[0]._open()
    read = gallery.read_ledger

    def counted(one: Any) -> Any:
        asked.append("read")
        return read(one)

    monkeypatch.setattr(gallery, "read_ledger", counted)
    for _ in range(5):
        assert collected(collector).value("backfill_speed_ratio", run=run) == 1
    assert len(asked) == 1
    checkpoint.close()


def test_a_counter_does_not_fall_when_redis_comes_back_with_what_it_had_before(
    crew: Crew, collector: RunsCollector
) -> None:
    run = crew.enqueue("count")
    crew.conn.execute(
        "INSERT INTO backfill.slice (run, number, upto, phase, paged, written)"
        " VALUES (%s, 1, '{secret-0500}', 'done', 500, 500)",
        [run],
    )
    assert collected(collector).value("backfill_rows_total", outcome="written") == 500
    checkpoint = crew.project.checkpoint(crew.desk.ledger)
    assert checkpoint is not None
    checkpoint.rebuild(run, [(1, 1, Counts(paged=7, written=7))])
    publisher = Publisher("default", checkpoint)
    for _ in range(3):  # it asks Redis for the runs of its last round; those that wait, less often
        publisher.round(crew.desk.conn, crew.desk.ledger)
    checkpoint.close()
    seen = collector._databases[0]._open().picture(run)
    assert (seen.progress.source, seen.progress.counts.written) == ("checkpoint", 7)
    assert collected(collector).value("backfill_rows_total", outcome="written") == 500


def test_threads_that_scrape_at_once_share_one_reading(
    crew: Crew, collector: RunsCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = crew.enqueue("count")
    reading, read = threading.Event(), 0
    gallery = collector._databases[0]._open()
    overview = gallery.overview

    def slow() -> Overview:
        nonlocal read
        read += 1
        reading.wait(10)
        return overview()

    monkeypatch.setattr(gallery, "overview", slow)
    found: list[Scrape] = []
    threads = [
        threading.Thread(target=lambda: found.append(collected(collector))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)  # all of them have asked by now, and nothing fails where one has not
    reading.set()
    for thread in threads:
        thread.join()
    assert [one.value("backfill_speed_ratio", run=run) for one in found] == [1] * 6
    assert read < 6


class Elsewhere:
    """A project with one database, wherever that is."""

    def __init__(
        self, ledger: Ledger, open_one: Callable[[], psycopg.Connection], redis_url: str
    ) -> None:
        self.settings = Settings()
        self._made = (ledger, open_one, redis_url)

    def gallery(self, database: str) -> Gallery:
        ledger, open_one, redis_url = self._made
        checkpoint = Checkpoint(redis_url, ledger.id)
        return Gallery(database, ledger, connect=open_one, checkpoint=checkpoint)


@contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_without_redis_the_ledger_is_told(crew: Crew) -> None:
    run = crew.enqueue("count")
    with silence() as port:
        away = Elsewhere(crew.desk.ledger, crew.desk.connect, f"redis://127.0.0.1:{port}/0")
        with closing(RunsCollector(away)) as collector:
            told_within(collector, 2.5)
            found = collected(collector)
    assert found.value("backfill_up", database="default") == 1
    assert found.now("backfill_state", "state", run=run) == {"queued"}
    assert found.series("backfill_batches_total") == {}


def test_without_both_it_says_so_in_time_and_raises_nothing(crew: Crew) -> None:
    with silence() as port:

        def open_one() -> psycopg.Connection:
            return connect(f"postgresql://nobody@127.0.0.1:{port}/nothing")

        away = Elsewhere(crew.desk.ledger, open_one, f"redis://127.0.0.1:{port}/0")
        with closing(RunsCollector(away)) as collector:
            told_within(collector, 2.5)
            found = collected(collector)
            assert found.by("backfill_up", "database") == {"default": 0}
            assert found.series("backfill_state") == {}
            assert len(found.series("backfill_build_info")) == 1


def test_what_came_too_late_serves_the_next_scrape(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = crew.enqueue("count")
    let_go = threading.Event()
    with closing(RunsCollector(crew.project, seconds=0.1)) as collector:
        gallery = collector._databases[0]._open()
        overview = gallery.overview

        def slow() -> Overview:
            let_go.wait(30)
            return overview()

        monkeypatch.setattr(gallery, "overview", slow)
        assert collected(collector).by("backfill_up", "database") == {"default": 0}
        reading = collector._databases[0].begin()
        let_go.set()
        reading.result(timeout=30)
        let_go.clear()
        found = collected(collector)
        assert found.by("backfill_up", "database") == {"default": 1}
        assert found.now("backfill_state", "state", run=run) == {"queued"}
        monkeypatch.setattr(exporter, "LATE_SECONDS", 0.0)
        assert collected(collector).by("backfill_up", "database") == {"default": 0}
        let_go.set()
        collector._databases[0].begin().result(timeout=30)


def test_a_database_that_cannot_be_opened_is_told_and_tried_again(crew: Crew) -> None:
    run = crew.enqueue("count")
    project = crew.project
    opened = project.gallery

    def refuse(database: str) -> Gallery:
        raise RuntimeError("something unforeseen")

    project.gallery = refuse  # type: ignore[method-assign]
    with closing(RunsCollector(project)) as collector:
        assert collected(collector).by("backfill_up", "database") == {"default": 0}
        project.gallery = opened  # type: ignore[method-assign]
        found = collected(collector)
    assert found.by("backfill_up", "database") == {"default": 1}
    assert found.now("backfill_state", "state", run=run) == {"queued"}
