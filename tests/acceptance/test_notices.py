"""Real workers tell people of real runs: each message once, however many workers there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill.model import RunState
from tests.acceptance.crew import QUICK, Crew
from tests.watch.receiver import SECRET, Receiver

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=250, concurrency=2)

class Refuse(Job):
    source = Table("item", columns=["name"], todo="n = 0")
    target = Update("n")
    options = Options(batch_rows=100, slice_rows=250, quarantine_rows=5)

    def transform(self, row):
        raise Quarantine(f"{row.name} is no good")

class Never(Job):
    source = Table("item", todo="n < 100")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=500, slice_rows=1000)
"""
SETTINGS = """
jobs = ["{package}"]
[engine]
{engine}
[notify.ops]
webhook_url_env = "HOOK"
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


@pytest.fixture
def crew(tmp_path: Path, db_url: str, redis_url: str, receiver: Receiver) -> Iterator[Crew]:
    """Two workers of a project that tells the receiver of its runs."""
    crew = Crew(tmp_path, url=db_url, redis_url=redis_url, engine=QUICK)
    engine = "\n".join(f"{name} = {seconds}" for name, seconds in QUICK.items())
    (tmp_path / "backfill.toml").write_text(SETTINGS.format(package=crew.package, engine=engine))
    crew.conn.execute(
        "CREATE TABLE item (id bigint PRIMARY KEY, name text, n int NOT NULL DEFAULT 0)"
    )
    crew.conn.execute("INSERT INTO item SELECT i, 'Name' || i FROM generate_series(1, 1000) i")
    crew.write_jobs(JOBS)
    crew.add_environment(HOOK=receiver.url)
    for _ in range(2):
        crew.start(wait=False, as_users_do=True)
    crew.wait_for_workers(*crew.workers)
    yield crew
    crew.close()


def headlines(receiver: Receiver, run: str) -> list[str]:
    """The first lines of the messages of a run, without the run's id."""
    lines = [text.splitlines()[0] for text in receiver.texts]
    return [line.removeprefix(f"{run} ") for line in lines if line.startswith(f"{run} ")]


@pytest.mark.slow
def test_the_beginning_and_the_end_of_a_run_are_told_once_each(
    crew: Crew, receiver: Receiver
) -> None:
    run = crew.enqueue("count")
    crew.wait_for(run, RunState.SUCCEEDED)
    crew.wait(lambda: len(receiver.got) >= 2, "two messages")
    crew.wait(
        lambda: crew.query("SELECT FROM backfill.notice WHERE sent_at IS NULL") == [], "all sent"
    )
    started, succeeded = headlines(receiver, run)
    assert started == "started, asked for by the test"
    assert succeeded.startswith("succeeded after ")
    assert "1,000 paged = 1,000 written" in receiver.texts[1]
    assert receiver.texts[0].endswith(f"`backfill watch {run}`")
    assert crew.query("SELECT DISTINCT attempts FROM backfill.notice") == [(1,)]
    (notifier,) = crew.query("SELECT notifier FROM backfill.ledger")
    senders = [w for w in crew.workers if w.logged("notice.sent")]
    assert len(senders) == 1, "one process looks for all"
    assert str(notifier[0]).startswith(f"{senders[0].name}@")


@pytest.mark.slow
def test_a_run_that_needs_somebody_says_so_without_the_rows(crew: Crew, receiver: Receiver) -> None:
    refused = crew.enqueue("refuse")
    crew.wait_for(refused, RunState.PAUSED)
    crew.wait(lambda: len(headlines(receiver, refused)) >= 2, "it is told")
    assert headlines(receiver, refused)[1].startswith("is paused (quarantine) after ")
    assert f"`backfill quarantine list {refused}`" in receiver.texts[-1]
    crew.query("UPDATE backfill.run SET state = 'cancelled' RETURNING 1")
    crew.query("DELETE FROM backfill.write_claim RETURNING 1")

    crew.query("UPDATE item SET n = -1000 RETURNING 1")
    failed = crew.enqueue("never")
    crew.wait_for(failed, RunState.FAILED)
    crew.wait(lambda: len(headlines(receiver, failed)) >= 2, "it is told")
    told = headlines(receiver, failed)[1]
    assert told.startswith("failed after ")
    assert "rows still match the todo" in told
    assert "for example" not in told, "keys stay in the house"
    assert "Name" not in "".join(receiver.texts), "and so do values"
    logged = "".join(worker.log.read_text() for worker in crew.workers)
    assert SECRET not in logged
