"""Two versions of the package at once: the ledger is upgraded under a run, and both work on it.

The later version is a copy of this one in another folder, with what an upgrade may bring: a higher
number, a migration that adds a table and a column to each table, and code that reads and writes
some of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

import backfill
from backfill.events import Event
from backfill.model import RunState
from backfill.pg.install import VERSION
from tests import starting
from tests.acceptance.crew import Crew, Worker

ROWS = 40_000
OURS = version("backfill")
LATER = "99.1.0"

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=2_000, concurrency=2, rate="1000/s")
"""

MIGRATION = f"""
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'backfill' LOOP
        EXECUTE format('ALTER TABLE backfill.%I ADD COLUMN later int NOT NULL DEFAULT 0', name);
    END LOOP;
END $$;
CREATE TABLE {{schema}}.later (id integer PRIMARY KEY);
UPDATE {{schema}}.ledger SET version = {VERSION + 1};
"""

#: By file: what stands there, and what the later version has in its place.
CHANGES = {
    "pg/install.py": [(f"\nVERSION = {VERSION}\n", f"\nVERSION = {VERSION + 1}\n")],
    # it reads a column of its own with each run, and counts its own batches with each record
    "pg/ledger.py": [
        ("    needs_version: int = VERSION\n", "    needs_version: int = 0\n    later: int = 0\n")
    ],
    "pg/slices.py": [(" batch_rows = %(taken)s,", " batch_rows = %(taken)s, later = later + 1,")],
}


@dataclass(frozen=True, slots=True)
class LaterVersion:
    """The later package, used in processes of their own by the crew's project."""

    crew: Crew
    place: Path

    @property
    def environ(self) -> Mapping[str, str]:
        # its modules are compiled once, and not by each of its processes
        return {
            **self.crew.environ,
            "PYTHONPATH": str(self.place),
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def __call__(self, *arguments: str) -> str:
        """Give a command; returns what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "backfill", *arguments],
            cwd=self.crew.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> Worker:
        """Start a worker, and wait until it has reported itself."""
        log = self.crew.folder / "later.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "backfill", "worker", "--concurrency=1", "--name=later@%h"],
                cwd=self.crew.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker("later", process, log)
        self.crew.workers.append(worker)
        self.crew.wait_for_workers(worker)
        return worker


@pytest.fixture
def later(crew: Crew, tmp_path_factory: pytest.TempPathFactory) -> LaterVersion:
    place = tmp_path_factory.mktemp("later")
    package = place / "backfill"
    shutil.copytree(
        Path(backfill.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name, changes in CHANGES.items():
        text = (package / name).read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, f"{name} has changed: {old}"
            text = text.replace(old, new)
        (package / name).write_text(text, encoding="utf-8")
    (package / "pg" / "schema" / f"{VERSION + 1:03d}_later.sql").write_text(MIGRATION)
    about = place / f"backfill-{LATER}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: backfill\nVersion: {LATER}\n")
    return LaterVersion(crew, place)


def ours(crew: Crew, *arguments: str) -> str:
    """Give a command of this version; returns what it prints."""
    done = starting.run(["-m", "backfill", *arguments], folder=crew.folder, environ=crew.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said_of_workers(told: str) -> dict[str, str]:
    """What `doctor --json` says of the workers, by the name of what it looked at."""
    examined = json.loads(told)["examined"]
    return {one["name"]: one["message"] for one in examined if one["area"] == "workers"}


def batches(*workers: Worker) -> list[int]:
    """How many batches each has committed."""
    return [len(worker.logged(Event.BATCH_COMMITTED)) for worker in workers]


def written(crew: Crew) -> object:
    """How often the rows were written, and how many so often."""
    return crew.query("SELECT n, count(*)::int FROM item GROUP BY n")


@pytest.mark.slow
def test_two_versions_of_the_package_work_on_one_run_and_back(
    crew: Crew, later: LaterVersion
) -> None:
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    old = crew.start(as_users_do=True)
    run = crew.enqueue("count")
    crew.wait_for_rows(run, 3_000)  # each statement has been prepared by then

    # forward: the ledger first, then a worker of the later version beside the one that works
    told = later("db", "upgrade")
    assert f"upgraded from version {VERSION} to {VERSION + 1}" in told
    new = later.start()
    before = batches(old, new)
    crew.wait(
        lambda: all(now > then + 5 for now, then in zip(batches(old, new), before, strict=True)),
        "both versions have committed batches of the run on the upgraded ledger",
    )
    said = said_of_workers(ours(crew, "doctor", "--json"))
    assert f"({OURS})" in said["seen"]
    assert f"({LATER})" in said["seen"]
    assert said["versions"] == f"workers have version {LATER} of backfill, and this program {OURS}"

    # back: this version finds nothing to do, and goes on alone
    new.terminate()
    assert new.wait(30) == 0
    assert "there is nothing to do" in ours(crew, "db", "upgrade")
    crew.start(as_users_do=True)
    crew.wait_for_rows(run, crew.counts(run).settled + 1_000)
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    assert written(crew) == [(1, ROWS)]
    (by_later,) = crew.query("SELECT sum(later)::int FROM backfill.slice WHERE run = %s", run)
    assert by_later == (batches(new)[0],)

    # what the later version has begun, and uses nothing of it, is worked on by this one
    again = later("enqueue", "count", "--rate", "none", "--batch-rows", "1000").strip()
    crew.wait_for(again, RunState.SUCCEEDED)
    assert written(crew) == [(2, ROWS)]
    told = "".join(worker.log.read_text() for worker in crew.workers)
    assert "FeatureNotSupported" not in told
    assert "LedgerError" not in told
