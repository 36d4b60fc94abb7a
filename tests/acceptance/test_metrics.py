"""Metrics over HTTP from real workers, killed and started again, compared with the ledger."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from backfill.engine import lifecycle
from backfill.local.process import free_port
from backfill.model import PauseCause, RunState
from backfill.watch.metrics import METRICS, OUTCOMES
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import Crew, Worker
from tests.metrics import Scrape, scraped
from tests.programs import program

ROWS = 6_000
BAD_ROWS = 12

JOBS = """
class Count(Job):
    source = Table("item", columns=["n"])
    target = Update("n")
    options = Options(batch_rows=50, slice_rows=500, concurrency=4, rate="500/s",
                      quarantine_share=1.0)

    def transform(self, row):
        if row.n < 0:
            raise Quarantine("below zero")
        return {"n": row.n + 1}
"""


@dataclass
class Station:
    """A worker with metrics at a port."""

    crew: Crew
    port: int = field(default_factory=free_port)
    worker: Worker | None = None

    def start(self) -> None:
        """Start a worker with this port, or start one again."""
        self.crew.add_environment(BACKFILL_METRICS_PORT=str(self.port))
        self.worker = self.crew.start(children=2, as_users_do=True)

    def kill(self) -> None:
        assert self.worker is not None
        self.worker.kill()

    def batches(self) -> int:
        """How many batches its worker says it has committed."""
        assert self.worker is not None
        return len(self.worker.logged("batch.committed"))


@pytest.fixture
def crew(make_crew: MakeCrew) -> Crew:
    crew = make_crew()
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL)")
    crew.conn.execute(
        b"INSERT INTO item SELECT i, CASE WHEN i %% %s = 7 THEN -1 ELSE 0 END"
        b" FROM generate_series(1, %s) i",
        [ROWS // BAD_ROWS, ROWS],
    )
    crew.conn.execute("ANALYZE item")  # so that the run knows how much there is to do
    crew.write_jobs(JOBS)
    return crew


def rows(scrape: Scrape, run: str) -> dict[str, float]:
    return scrape.by("backfill_rows_total", "outcome", run=run)


def by_ledger(crew: Crew, run: str) -> Mapping[str, int]:
    counts = crew.counts(run).as_dict()
    return {outcome: counts[outcome] for outcome in OUTCOMES}


@pytest.mark.slow
def test_metrics_say_what_the_ledger_says_over_a_kill_and_a_restart(crew: Crew) -> None:
    first, second = Station(crew), Station(crew)
    first.start()
    second.start()
    run = crew.enqueue("count")
    written: list[float] = []

    def ask(station: Station) -> Scrape:
        found = scraped(station.port)
        written.append(rows(found, run).get("written", 0))
        return found

    crew.wait_for_rows(run, 500)
    crew.wait(lambda: rows(ask(second), run).get("written"), "rows are told")
    both = ask(first), ask(second)
    # each of them tells of both workers
    assert [found.value("backfill_workers") for found in both] == [2, 2]
    assert both[0].now("backfill_state", "state", run=run) == {"running"}
    crew.wait(
        lambda: ask(first).now("backfill_limited", "reason", run=run) == {"rate"},
        "its rate is reached, and limits it",
    )
    known = "backfill_eta_seconds"
    crew.wait(lambda: ask(first).value(known, run=run) is not None, "its end is known")
    first.kill()
    killed = first.batches()
    survivor = ask(second)
    assert survivor.value("backfill_up") == 1
    committed = killed
    first.start()  # at the port that the killed one had
    crew.wait(lambda: (ask(first), crew.causes(run))[1], "the quarantine is left")
    assert crew.causes(run) == {PauseCause.QUARANTINE}
    crew.wait(lambda: "paused" in ask(first).now("backfill_state", "state", run=run), "it is told")
    committed += first.batches() + second.batches()
    # whoever was not killed has told Redis at the end of its task
    crew.wait(
        lambda: (
            (ask(first).value("backfill_batches_total", run=run, phase="walk") or 0)
            >= committed - killed
        ),
        "all batches are told",
    )
    for station in (first, second):
        found = ask(station)
        assert rows(found, run) == by_ledger(crew, run)
        assert rows(found, run) == dict(
            zip(OUTCOMES, [ROWS - BAD_ROWS, 0, 0, BAD_ROWS, 0, 0], strict=True)
        )
        assert found.by("backfill_quarantine_rows", "status", run=run) == {
            "open": BAD_ROWS,
            "accepted": 0,
        }
        phases = Counter(
            str(phase)
            for (phase,) in crew.query("SELECT phase FROM backfill.slice WHERE run = %s", run)
        )
        told = found.by("backfill_slices", "phase", run=run)
        assert told == {phase: phases[phase] for phase in told}
        assert found.value("backfill_slices_held", run=run) == 0
        assert found.value("backfill_deferred_rows", run=run) == 0
        assert found.now("backfill_limited", "reason", run=run) == {"quarantine"}
        batches = found.by("backfill_batches_total", "phase", run=run)
        # a process that is killed takes those of its last moments with it
        assert committed - killed <= sum(batches.values()) <= committed
        assert found.by("backfill_batch_duration_seconds_count", "phase", run=run) == batches
    assert written == sorted(written)

    crew.conn.execute("UPDATE item SET n = 0 WHERE n < 0")
    lifecycle.release_quarantine(crew.desk.conn, crew.desk.ledger, run, by="the test")
    crew.wait_for(run, RunState.SUCCEEDED)
    crew.wait(lambda: ask(first).now("backfill_state", "state", run=run) == {"succeeded"}, "told")
    end = ask(first)
    assert rows(end, run) == by_ledger(crew, run)
    assert rows(end, run)["written"] == ROWS
    assert end.value("backfill_progress_ratio", run=run) == 1
    finished = end.value("backfill_finished_timestamp_seconds", run=run)
    assert finished is not None
    assert abs(time.time() - finished) < 60
    lint(end)


def lint(scrape: Scrape) -> None:
    """promtool finds nothing to say; each metric is one of the contract."""
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=scrape.text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    suffixes = ("_bucket", "_sum", "_count")
    known = {told.name for told in METRICS}
    for name in scrape.names:
        base = next((name.removesuffix(end) for end in suffixes if name.endswith(end)), name)
        assert name in known or base in known, name


def test_a_port_that_is_in_use_ends_the_worker_before_it_begins(crew: Crew) -> None:
    station = Station(crew)
    station.start()
    done = subprocess.run(
        [sys.executable, "-m", "backfill", "worker", f"--metrics-port={station.port}"],
        cwd=crew.folder,
        env=crew.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 5
    assert f"port {station.port} of 127.0.0.1 is in use" in done.stderr
    assert "--metrics-port" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert done.stdout == ""


def test_a_stopped_worker_gives_its_port_back(crew: Crew) -> None:
    station = Station(crew)
    station.start()
    assert scraped(station.port).value("backfill_workers") == 1
    assert station.worker is not None
    station.worker.terminate()
    assert station.worker.wait(30) == 0
    with pytest.raises(OSError, match="refused"):
        scraped(station.port)
