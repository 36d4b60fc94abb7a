"""The sampling threads of a process: they measure, outlive a lost connection, and hand over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from backfill.model import PauseCause
from backfill.worker.sampling import Sampling
from tests.acceptance.crew import Crew

SETTINGS = """
jobs = ["{jobs}"]
[engine]
sample_seconds = 0.1
signals_stale_seconds = 5
[databases.default]
url_env = "BACKFILL_DATABASE_URL"
[databases.default.signals]
knob = {{ sql = "SELECT value FROM knob", stop = 10, resume = 5 }}
[databases.gone]
url_env = "GONE_URL"
"""

Start = Callable[[str], Sampling]


@pytest.fixture
def tuned(crew: Crew) -> Crew:
    """A project with a signal of its own, and a second database whose server is away."""
    crew.conn.execute("CREATE TABLE knob AS SELECT 1 AS value")
    settings = SETTINGS.format(jobs=crew.package)
    (crew.folder / "backfill.toml").write_text(settings, encoding="utf-8")
    crew.add_environment(GONE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    return crew


@pytest.fixture
def start(tuned: Crew) -> Iterator[Start]:
    """Starts the sampling threads of a process of that name; they are ended afterwards."""
    started: list[Sampling] = []

    def named(name: str) -> Sampling:
        sampling = Sampling(tuned.project, tuned.project.settings.databases, name=name)
        started.append(sampling)
        sampling.start()
        return sampling

    yield named
    for sampling in started:
        sampling.stop()


def sampled_at(crew: Crew, run: str) -> datetime | None:
    """When the knob was last sampled."""
    found = crew.query("SELECT at FROM backfill.signal WHERE run = %s AND name = 'knob'", run)
    return None if not found else found[0][0]  # type: ignore[return-value]


def wait_for_a_new_sample(crew: Crew, run: str) -> None:
    before = sampled_at(crew, run)
    crew.wait(lambda: sampled_at(crew, run) != before, "a new sample")


def sampler(crew: Crew) -> object:
    ((name,),) = crew.query("SELECT sampler FROM backfill.ledger")
    return name


def test_runs_are_sampled_while_another_database_is_away(tuned: Crew, start: Start) -> None:
    run = tuned.enqueue("count")
    start("a")
    wait_for_a_new_sample(tuned, run)
    tuned.conn.execute("UPDATE knob SET value = 50")
    tuned.wait(lambda: tuned.causes(run) == {PauseCause.SIGNAL}, "the knob stops the run")
    tuned.conn.execute("UPDATE knob SET value = 1")
    tuned.wait(lambda: not tuned.causes(run), "the knob lets it go on")
    assert sampler(tuned) == "a"


def test_a_lost_connection_is_opened_again(tuned: Crew, start: Start) -> None:
    run = tuned.enqueue("count")
    start("a")
    wait_for_a_new_sample(tuned, run)
    mine = [tuned.desk.conn.info.backend_pid, tuned.conn.info.backend_pid]
    ended = tuned.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> ALL(%s)"
        " AND backend_type = 'client backend'",
        mine,
    )
    assert ended
    wait_for_a_new_sample(tuned, run)


def test_a_process_that_ends_hands_over_at_once_and_leaves_no_thread(
    tuned: Crew, start: Start
) -> None:
    run = tuned.enqueue("count")
    one = start("a")
    wait_for_a_new_sample(tuned, run)
    start("b")
    one.stop()
    ((is_free,),) = tuned.query(
        "SELECT sampler_until < clock_timestamp() OR sampler = 'b' FROM backfill.ledger"
    )
    assert is_free
    tuned.wait(lambda: sampler(tuned) == "b", "the other one samples")
    wait_for_a_new_sample(tuned, run)
    one.stop()  # again: nothing happens
    names = [t.name for t in threading.enumerate() if t.name.startswith("backfill-sample-default")]
    assert len(names) == 1


def test_sampling_that_was_never_started_can_be_stopped(tuned: Crew) -> None:
    Sampling(tuned.project, ["default"], name="a").stop()
