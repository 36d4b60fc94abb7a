"""`make demo`: the whole story on real servers, workers and data, on fewer rows.

It is run as a user runs it, in a copy of the project, with a TMPDIR of its own: every process that
it starts has that name in its environment, and every file lies in it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backfill.local import account
from tests.local.conftest import BOUND_SECONDS, eventually

#: Five times what the whole story takes with these arguments.
STORY_SECONDS = 250
SMALL = ("--rows", "12000", "--seconds", "6")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(STORY_SECONDS + BOUND_SECONDS),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found there"),
]

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of this project, as far as the demo needs it."""
    shutil.copytree(JOBS, tmp_path / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "backfill.toml").write_text('jobs = ["jobs"]\n')
    return tmp_path


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A TMPDIR that the server's account can reach."""
    directory = account.scratch_directory("demo-test-", account.service_account())
    yield directory
    account.remove_tree(directory)


Demo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def demo(project: Path, scratch: Path) -> Iterator[Demo]:
    """Start the demo; what a failed test leaves of it is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        # settings of another database, as a developer's shell may have them, must not lead it there
        elsewhere = {
            "BACKFILL_DATABASE_URL": "postgresql://nobody@203.0.113.1/x",
            "PGSSLMODE": "no",
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "backfill.local.demo", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=project,
                env={**os.environ, **elsewhere, "TMPDIR": str(scratch)},
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    subprocess.run(
        [sys.executable, "-m", "backfill.local.demo", "--stop"],
        cwd=project,
        stdout=subprocess.DEVNULL,
        check=False,
    )


def processes_of(scratch: Path) -> list[str]:
    """Live processes that have the directory in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(scratch).encode() in (process / "environ").read_bytes():
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{process.name} {command.decode(errors='replace')}")
        except OSError:  # it has just ended, or is another account's
            continue
    return found


def is_nothing_left(scratch: Path) -> bool:
    return not processes_of(scratch) and not list(scratch.iterdir())


def said_until(process: subprocess.Popen[str], words: str) -> str:
    """What the demo says up to the line with these words."""
    assert process.stdout is not None
    said = []
    bound = threading.Timer(STORY_SECONDS, process.kill)
    bound.start()
    try:
        for line in process.stdout:
            said.append(line)
            if words in line:
                return "".join(said)
    finally:
        bound.cancel()
    pytest.fail(f"it ended without saying {words!r}:\n{''.join(said)}")


def test_the_story_ends_well_though_a_worker_is_killed_and_leaves_nothing_behind(
    demo: Demo, scratch: Path
) -> None:
    process = demo(*SMALL)
    said, _ = process.communicate(timeout=STORY_SECONDS)

    assert process.returncode == 0, said
    killed = re.search(r"worker (w\d) killed with SIGKILL; its lease of slices? (.*) runs", said)
    assert killed is not None, said
    for number in killed[2].split(" and "):
        assert f"slice {number} of {killed[1]} goes on with w" in said
    for job in ("fill_departs_at", "fill_carrier_id", "split_flight_times"):
        assert re.search(rf"{job}-\w+ has succeeded", said)
        assert f"{job}: 0 rows differ\n" in said
    assert said.count("= 12,") + said.count("= 11,") == 3  # outcomes that add up to the rows
    assert "ALTER COLUMN departs_at SET NOT NULL;" in said
    assert re.search(r"[1-9][\d,]* short transactions, the longest took \d+ ms, 0 errors", said)
    assert "Traceback" not in said
    eventually(lambda: is_nothing_left(scratch), "processes and files are gone")


def test_ctrl_c_in_mid_run_ends_everything_that_it_had_started(demo: Demo, scratch: Path) -> None:
    process = demo("--rows", "12000", "--seconds", "60")
    said_until(process, "worked on")
    assert len(processes_of(scratch)) > 5  # servers, workers, their children: the check can fail

    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=BOUND_SECONDS)

    assert process.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert "psycopg" not in said
    assert is_nothing_left(scratch), processes_of(scratch)


def test_when_the_demo_itself_is_killed_its_guards_leave_nothing_behind(
    demo: Demo, scratch: Path
) -> None:
    process = demo("--rows", "12000", "--seconds", "60")
    said_until(process, "worked on")
    process.kill()
    process.communicate(timeout=BOUND_SECONDS)
    eventually(lambda: is_nothing_left(scratch), f"gone: {processes_of(scratch)}")


def test_a_kept_demo_can_be_used_and_is_ended_by_a_later_process(
    demo: Demo, project: Path, scratch: Path
) -> None:
    process = demo(*SMALL, "--keep")
    said_until(process, "To end it all:")
    process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode == 0
    environment = project / ".demo" / "env"
    assert environment.stat().st_mode & 0o077 == 0  # the database's password is in it

    status = subprocess.run(
        ["/bin/sh", "-c", f". ./.demo/env; {sys.executable} -m backfill status --json"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert status.stdout.count('"succeeded"') == 3
    again = demo("--keep")
    assert "make demo-stop" in again.communicate(timeout=BOUND_SECONDS)[0]
    assert again.returncode == 5

    stop = demo("--stop")
    stop.communicate(timeout=BOUND_SECONDS)
    assert stop.returncode == 0
    assert is_nothing_left(scratch), processes_of(scratch)
    assert not environment.parent.exists()


def test_a_job_that_writes_wrong_values_is_found_by_the_plain_statement(
    demo: Demo, project: Path, scratch: Path
) -> None:
    jobs = project / "jobs" / "flights.py"
    right = jobs.read_text()
    wrong = right.replace("WHERE a.carrier = flights.carrier)", "WHERE a.carrier = 'UA')")
    assert wrong != right
    jobs.write_text(wrong)

    process = demo(*SMALL)
    said, _ = process.communicate(timeout=STORY_SECONDS)

    assert process.returncode == 1
    assert "rows are not as fill_carrier_id should have left them" in said
    assert "Traceback" not in said
    assert is_nothing_left(scratch), processes_of(scratch)


def test_a_run_that_stops_ends_the_demo_with_its_reason(
    demo: Demo, project: Path, scratch: Path
) -> None:
    jobs = project / "jobs" / "flights.py"
    right = jobs.read_text()
    broken = right.replace("if row.sched_dep_time is None:", 'if row.nonsense == "":')
    assert broken != right
    jobs.write_text(broken)

    process = demo(*SMALL)
    said, _ = process.communicate(timeout=STORY_SECONDS)

    assert process.returncode == 1
    assert re.search(r"error: run fill_departs_at-\w+ is paused: quarantine", said)
    assert "Traceback" not in said
    assert is_nothing_left(scratch), processes_of(scratch)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--rows", "5"], 2, "--rows: 5 is no whole number from 2000"),
        (["--seconds", "soon"], 2, "--seconds: soon is no whole number"),
        (["--stop"], 0, "No demo was left running here"),
    ],
)
def test_arguments_are_understood_or_refused_in_a_sentence(
    demo: Demo, arguments: list[str], code: int, words: str
) -> None:
    process = demo(*arguments)
    said, _ = process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode == code
    assert words in said
    assert "Traceback" not in said


def test_without_the_repositorys_jobs_it_says_where_to_run_it(demo: Demo, project: Path) -> None:
    shutil.rmtree(project / "jobs")
    process = demo()
    said, _ = process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode == 3
    assert "make demo" in said
    assert "Traceback" not in said
