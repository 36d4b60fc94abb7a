"""`backfill report`: a run's report in Markdown, whatever a database and people have said."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import psycopg
import pytest

from tests.cli.conftest import Shop, clean_environment, until
from tests.services import PostgresServer

HOSTILE = "a|b `c` <script>alert(1)</script> **bold**\n\n# A heading [x](y)"
SAFE = r"a\|b \`c\` &lt;script&gt;alert(1)&lt;/script&gt; \*\*bold\*\* # A heading \[x\](y)"

JOBS = '''
from backfill import Job, Options, Param, Quarantine, Sql, Table, Update


class Mark(Job):
    """Mark | every row.

    More that no report needs.
    """

    source = Table("line", columns=["text"], where="id >= %(first)s", todo="marked IS NULL")
    target = Update("marked")
    options = Options(batch_rows=50, slice_rows=500, quarantine_share=1.0)
    first = Param(int, default=1)

    def transform(self, row):
        if row.text != "good":
            raise Quarantine(row.text)
        return {"marked": True}
'''


@pytest.fixture(scope="module")
def marked_project(
    postgres_server: PostgresServer,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, str]]:
    """A project, and the name of a database with one run of it, made once and copied for each test.

    The run was paused, tuned and resumed, and two bad rows keep it from its end.
    """
    folder = tmp_path_factory.mktemp("marked")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "__init__.py").touch()
    (folder / "jobs" / "line.py").write_text(JOBS, encoding="utf-8")
    (folder / "backfill.toml").write_text('jobs = ["jobs"]\n', encoding="utf-8")
    with postgres_server.database(template_database) as name:
        url = postgres_server.url(name)
        with psycopg.connect(url, autocommit=True) as conn:
            shop = Shop(folder, url, {**clean_environment(), "BACKFILL_DATABASE_URL": url}, conn)
            _mark(shop)
        yield folder, name


def _mark(shop: Shop) -> None:
    shop.conn.execute("CREATE TABLE line (id int PRIMARY KEY, text text, marked boolean)")
    shop.conn.execute("INSERT INTO line SELECT i, 'good' FROM generate_series(1, 2000) AS i")
    shop.conn.execute("UPDATE line SET text = %s WHERE id IN (7, 1700)", [HOSTILE])
    shop.conn.execute("ANALYZE line")
    work = shop.start("run", "mark", "--rate", "500/s")
    until(lambda: shop.number("SELECT coalesce(sum(paged), 0) FROM backfill.slice") > 100, "work")
    assert shop("pause", "mark", "--reason", HOSTILE).code == 0
    assert work.end().code == 5
    assert shop("tune", "mark", "--rate", "100000/s", "--concurrency", "3").code == 0
    assert shop("run", "mark").code == 6


@pytest.fixture
def marked(
    marked_project: tuple[Path, str], postgres_server: PostgresServer, tmp_path: Path
) -> Iterator[Shop]:
    """A copy of it."""
    folder, template = marked_project
    copytree(folder, tmp_path, dirs_exist_ok=True)
    with postgres_server.database(template) as name:
        url = postgres_server.url(name)
        with psycopg.connect(url, autocommit=True) as conn:
            yield Shop(tmp_path, url, {**clean_environment(), "BACKFILL_DATABASE_URL": url}, conn)


def report(shop: Shop, *arguments: str) -> list[str]:
    done = shop("report", "mark", *arguments)
    assert done.code == 0, done.told
    assert done.stderr == ""
    return done.stdout.splitlines()


def cells(line: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def row(lines: list[str], first: str) -> list[str]:
    """The other cells of the one line whose first cell is this."""
    (found,) = [cells(line) for line in lines if line.startswith(f"| {first} |")]
    return found[1:]


def test_a_report_says_what_was_run_how_it_went_and_who_did_what(marked: Shop) -> None:
    assert marked("quarantine", "accept", "mark").code == 0
    run = marked.latest("mark")
    lines = report(marked)
    assert lines[0] == f"# Backfill `{run.id}`"
    assert re.fullmatch(
        r"\*\*succeeded\*\* after [\d.]+ s of work: 2,000 paged = 1,998 written \+ 2 quarantined",
        lines[2],
    )
    assert row(lines, "job") == ["`mark`, version 1"]
    assert row(lines, "docstring") == [r"Mark \| every row."]
    assert row(lines, "fills") == ["`line.marked`"]
    assert row(lines, "table") == ["`line`, by the key `id` (integer)"]
    assert row(lines, "scope") == ["`id >= %(first)s`"]
    assert row(lines, "todo") == ["`marked IS NULL`"]
    assert row(lines, "parameters") == ["`first = 1`"]
    (options,) = row(lines, "options that differ from the defaults")
    assert options == (
        "`batch_rows = 50`, `slice_rows = 500`, `concurrency = 3`, `rate = 100000/s`,"
        " `quarantine_share = 1.0`"
    )
    assert re.fullmatch(r"[\w.@-]+, \d{4}-\d\d-\d\d [\d:]{8}", row(lines, "asked for by")[0])
    assert row(lines, "written") == ["1,998"]
    assert row(lines, r"**all that were paged**") == ["**2,000**"]
    assert "When it began, 2,000 rows were to do (counted)." in lines
    assert row(lines, "none: the transform refused them") == ["0", "2"]
    assert any(line.startswith("It agrees: every slice is finished") for line in lines)
    assert "4 slices: 4 done." in lines
    changes = [cells(line)[1] for line in lines if "→" in line or "quarantined rows" in line]
    assert changes == [
        "`concurrency`: `2` → `3`",
        "`rate`: `500/s` → `100000/s`",
        "2 quarantined rows left as they are",
    ]


def test_its_pauses_are_told_with_reasons_that_break_nothing(marked: Shop) -> None:
    lines = report(marked)
    (user,) = [cells(line) for line in lines if line.startswith("| user |")]
    (quarantine,) = [cells(line) for line in lines if line.startswith("| quarantine |")]
    cause, reason, since, until_, lasted, by, ended_by = user
    assert (cause, reason) == ("user", SAFE)
    assert since <= until_
    assert lasted.endswith(" s")
    assert by == ended_by
    assert quarantine[1] == "2 rows are in quarantine; everything else is done"
    assert quarantine[3] == "still"
    assert lines[2].startswith("**paused (quarantine)** after ")
    headings = [line for line in lines if line.startswith("#")]
    assert headings[1:] == [
        f"## {name}"
        for name in (
            *("What it did", "Rows", "Time", "Speed", "Pauses", "Changes while it lived"),
            *("Signals", "Quarantine", "Completion check", "Slices", "Versions"),
        )
    ]


def test_every_table_has_the_same_cells_in_each_line(marked: Shop) -> None:
    for lines in (report(marked), report(marked, "--rows")):
        width = 0
        for before, line in zip(["", *lines], lines, strict=False):
            if line.startswith("|"):
                width = len(cells(line)) if not before.startswith("|") else width
                assert len(cells(line)) == width, line


def test_rows_are_told_of_only_when_they_are_asked_for(marked: Shop) -> None:
    told = "\n".join(report(marked))
    assert "1700" not in told
    assert told.count("script") == 2, "the reason of the pause alone"
    assert "Keys and messages may quote rows, so they are left out" in told
    lines = report(marked, "--rows")
    assert row(lines, "7") == ["", SAFE, "waits"]
    assert row(lines, "1700") == ["", SAFE, "waits"]
    assert "<script>" not in "\n".join(lines)


def test_time_paused_is_no_time_at_work(marked: Shop) -> None:
    marked.conn.execute(
        "UPDATE backfill.event SET at = at - interval '3 hours' WHERE id <="
        " (SELECT min(id) FROM backfill.event WHERE name = 'run.paused')"
    )
    marked.conn.execute("UPDATE backfill.run SET started_at = started_at - interval '3 hours'")
    lines = report(marked)
    assert row(lines, "from begin to end")[0].startswith("3 h ")
    assert row(lines, "of that paused, or failed and not taken up")[0].startswith("3 h ")
    assert row(lines, "of that at work")[0].endswith(" s")
    (mean,) = [line for line in lines if line.endswith("rows/s on average while it worked.")]
    assert float(mean.split()[0].replace(",", "")) > 50
    parts = [cells(line) for line in lines if line.endswith("| paused |")]
    assert len(parts) >= 5


def test_the_speed_over_time_is_that_of_the_pulses(marked: Shop) -> None:
    marked.conn.execute("DELETE FROM backfill.pulse")
    marked.conn.execute("DELETE FROM backfill.event")
    marked.conn.execute(
        "UPDATE backfill.run SET state = 'failed', started_at = '2026-11-21 10:00+00',"
        " finished_at = '2026-11-21 11:40+00'"
    )
    # 1,900 rows in the first fifty minutes, 100 in the others
    marked.conn.execute(
        "INSERT INTO backfill.pulse (run, at, state, settled, speed, batch_rows, batch_seconds,"
        " signals) SELECT id, '2026-11-21 10:00+00'::timestamptz + i * interval '599.999 s', '',"
        " least(380 * i, 1900) + greatest(0, i - 5) * 20, CASE WHEN i > 5 THEN 0.5 ELSE 1 END, 40,"
        " 0.02, jsonb_build_object('replication_lag_seconds', i)"
        " FROM backfill.run, generate_series(1, 10) AS i"
    )
    lines = report(marked)
    parts = [cells(line) for line in lines if line.endswith("| 40 | 20 ms |")]
    assert [part[1] for part in parts] == ["380"] * 5 + ["20"] * 5
    assert [part[3] for part in parts] == ["100 %"] * 5 + ["50 %"] * 5
    (line,) = [line for line in lines if "█" in line]
    assert line == f"`{'█' * 30}{'▁' * 30}`"
    assert row(lines, "`replication_lag_seconds`") == ["1", "10"]


def test_a_live_run_is_reported_as_it_is_now(marked: Shop) -> None:
    lines = report(marked)
    assert any(line.startswith("The run is live: all this may change.") for line in lines)
    assert row(lines, "ended") == ["not yet"]
    assert "It has not agreed yet: the run has not succeeded." in lines


def test_a_run_that_has_not_begun_and_a_job_that_is_gone_are_no_problem(marked: Shop) -> None:
    marked.conn.execute("UPDATE backfill.run SET started_at = NULL")
    (marked.folder / "jobs" / "line.py").write_text("raise OSError\n", encoding="utf-8")
    lines = report(marked)
    assert "It has not begun to work." in lines
    assert not any("docstring" in line for line in lines)


def test_it_is_written_into_a_file_whole_or_not_at_all(marked: Shop) -> None:
    page = marked.folder / "report.md"
    page.write_text("what was there before, and longer " * 1000)
    done = marked("report", "mark", "--output", str(page))
    assert (done.code, done.stdout) == (0, "")
    assert page.read_text(encoding="utf-8").startswith("# Backfill `mark-")
    assert page.stat().st_mode & 0o777 == 0o644
    assert not list(marked.folder.glob(".report.md*")), "nothing is left beside it"
    link, real = marked.folder / "link.md", marked.folder / "real.md"
    real.write_text("before")
    link.symlink_to(real)
    os.mkfifo(marked.folder / "pipe")
    reading = os.open(marked.folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for path in (link, marked.folder / "pipe"):
        assert marked("report", "mark", "--output", str(path)).code == 0
    assert os.read(reading, 100_000).startswith(b"# Backfill")
    os.close(reading)
    assert link.is_symlink(), "what it points to is written, and the link stays"
    assert real.read_text().startswith("# Backfill `mark-")
    assert (marked.folder / "pipe").is_fifo(), "as a device, it is no file to be replaced"
    gone = marked("report", "mark", "--output", str(marked.folder / "no" / "report.md"))
    assert gone.code == 5
    assert "cannot be written: No such file or directory" in gone.stderr


def test_why_a_run_failed_is_told_without_keys_unless_they_are_asked_for(shop: Shop) -> None:
    shop.users(50)
    shop.conn.execute("UPDATE users SET email = NULL WHERE id = 31")
    assert shop("run", "lower_email").code == 1
    told = shop("report", "lower_email").stdout
    assert "rows still match the todo" in told
    assert "(keys are left out)" in told
    assert "for example" not in told
    assert "; for example 31" in shop("report", "lower_email", "--rows").stdout
    assert "| 3 |" in told, "the slice was walked again three times"


def test_it_can_be_read_while_it_works(shop: Shop) -> None:
    shop.users(5000)
    work = shop.start("run", "count_visits", "--rate", "500/s")
    until(lambda: shop.number("SELECT coalesce(sum(paged), 0) FROM backfill.slice") > 100, "work")
    done = shop("report")
    assert done.code == 0
    assert "**running** after " in done.stdout
    assert "The job has no todo" not in done.stdout
    work.send(signal.SIGINT)
    work.end()


def test_a_report_of_nothing_is_a_clear_mistake(shop: Shop, tmp_path: Path) -> None:
    assert shop("report", "nothing").code == 2
    assert shop("report").code == 2
