"""`backfill watch` with real workers: on terminals of several sizes, of several runs, and away."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest
from psycopg import connect, conninfo

from backfill.local.redis import LocalRedis
from tests.cli.conftest import Command, Shop, until
from tests.cli.test_terminal import Terminal

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-7][0-9;]*m")


def plain(told: str) -> str:
    """What is seen of it."""
    return _CONTROL.sub("", told)


def frames(told: str) -> list[list[str]]:
    """What was drawn, one after the other: each begins where the cursor had been taken back to."""
    drawn = re.split(r"(?:\x1b\[1A\x1b\[2K)+|\x1b\[2J", told)
    return [plain(one).replace("\r", "").strip("\n").split("\n") for one in drawn]


@pytest.fixture
def own_redis() -> Iterator[LocalRedis]:
    """A Redis that a test may stop."""
    with LocalRedis() as server:
        yield server


@pytest.fixture
def worked(celery_shop: Shop) -> Shop:
    """A shop with 3,000 users, and a worker."""
    celery_shop.users(3_000)
    worker(celery_shop)
    return celery_shop


def worker(shop: Shop) -> Command:
    started = shop.start("worker", "--concurrency", "2", "--name", "w1@%h")
    until(lambda: shop.number("SELECT count(*) FROM backfill.worker"), "the worker is there")
    return started


def enqueue(shop: Shop, job: str, *more: str) -> str:
    done = shop("enqueue", job, *more)
    assert done.code == 0, done.told
    return done.stdout.strip()


@pytest.mark.parametrize(("columns", "lines"), [(60, 15), (120, 40)])
def test_a_picture_of_the_run_fits_the_terminal(worked: Shop, columns: int, lines: int) -> None:
    run = enqueue(worked, "count_visits", "--rate", "600/s")
    worked.environ["LINES"] = str(lines)
    terminal = Terminal(worked, "watch", run, columns=columns)
    until(lambda: re.search(r"about .* left", plain(terminal.told)), "how long it takes")
    until(lambda: re.search(r"rows/s +[▁▂▃▄▅▆▇█]", plain(terminal.told)), "its rate over time")
    until(lambda: "slot 0" in plain(terminal.told), "who works")
    assert terminal.end() == 0
    told = plain(terminal.told)
    assert "of 3,000" in told
    assert "its rate of 600/s" in told
    assert "it has begun: 3,000 rows to do" in told
    assert told.rstrip().endswith("3,000 paged = 3,000 written")
    drawn = [frame for frame in frames(terminal.told) if any("rows/s" in line for line in frame)]
    assert len(drawn) > 2
    for frame in drawn[:-1]:
        assert len(frame) < lines
        assert max(map(len, frame)) < columns


def test_no_color_is_obeyed(celery_shop: Shop) -> None:
    celery_shop.users(10)
    enqueue(celery_shop, "count_visits")
    coloured = Terminal(celery_shop, "watch")
    celery_shop.environ["NO_COLOR"] = "1"
    terminal = Terminal(celery_shop, "watch")
    for one in (coloured, terminal):
        until(lambda one=one: "no worker is running" in one.told, "it is drawn")  # type: ignore[misc]
        one.process.send_signal(signal.SIGINT)
        assert one.end() == 130
    assert _COLOUR.search(coloured.told)
    assert not _COLOUR.search(terminal.told)


def test_all_live_runs_are_watched_and_those_that_begin_meanwhile(worked: Shop) -> None:
    first = enqueue(worked, "count_visits", "--rate", "300/s")
    watching = worked.start("watch")
    watching.until_told(first)
    second = enqueue(worked, "lower_email")
    watching.until_told(f"{second} succeeded")
    done = watching.end()
    assert done.code == 0
    assert f"{first} succeeded" in done.stdout


def test_of_several_runs_the_worst_code_is_returned(worked: Shop) -> None:
    worked.conn.execute("UPDATE users SET age = -1 WHERE id = 7")
    good, bad = enqueue(worked, "lower_email"), enqueue(worked, "judge_age")
    done = worked("watch", good, "judge_age")
    assert done.code == 6
    assert f"{good} succeeded" in done.stdout
    assert f"{bad} paused (quarantine)" in done.stdout


def test_ctrl_c_leaves_several_runs_alone_and_says_so(celery_shop: Shop) -> None:
    celery_shop.users(10)
    runs = [enqueue(celery_shop, job) for job in ("lower_email", "count_visits")]
    terminal = Terminal(celery_shop, "watch")
    until(lambda: all(run in terminal.told for run in runs), "both are drawn")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "the runs are left alone" in terminal.told
    assert terminal.told.rfind("\x1b[?25h") > terminal.told.rfind("\x1b[?25l") >= 0
    assert celery_shop.number("SELECT count(*) FROM backfill.run WHERE state = 'queued'") == 2


def test_watching_goes_on_when_redis_goes_away_and_comes_back(
    shop: Shop, own_redis: LocalRedis
) -> None:
    """I4."""
    shop.environ["BACKFILL_REDIS_URL"] = own_redis.url()
    shop.users(3_000)
    worker(shop)
    run = enqueue(shop, "count_visits", "--rate", "150/s")
    terminal = Terminal(shop, "watch", run)
    until(lambda: "rows/s" in terminal.told, "it is drawn")
    lines = shop.start("watch", run)
    lines.until_told("users.visits")
    own_redis.stop()
    until(lambda: "reading from the ledger" in plain(terminal.told), "the terminal says so")
    lines.until_told("Redis does not answer; reading from the ledger instead")
    own_redis.start()
    lines.until_told("Redis answers again")
    shop("tune", run, "--rate", "none")
    assert terminal.end() == 0
    assert lines.end().code == 0
    assert "reading from the ledger" not in "\n".join(frames(terminal.told)[-2])


def test_json_is_a_line_for_each_change_of_each_run(worked: Shop) -> None:
    runs = {enqueue(worked, "lower_email"), enqueue(worked, "count_visits", "--rate", "250/s")}
    done = worked("watch", *runs, "--json")
    assert done.code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["run"] for line in lines} == runs
    assert len({json.dumps(line) for line in lines}) == len(lines)
    for run in runs:
        of_it = [line for line in lines if line["run"] == run]
        assert of_it[-1]["state"] == "succeeded"
        settled = [line["counts"]["paged"] for line in of_it]
        assert settled == sorted(settled)
    known = [line for line in lines if line["eta_seconds"] is not None]
    assert known
    for line in known:
        assert 0 <= line["eta_low_seconds"] <= line["eta_seconds"] <= line["eta_high_seconds"]
    assert set(lines[0]) | {"quarantine"} == set(
        json.loads(worked("status", next(iter(runs)), "--json").stdout)
    )


def test_a_database_that_is_away_is_waited_for(shop: Shop) -> None:
    """The ledger's server is not there for a while, as when it starts anew."""
    shop.users(3_000)
    run = shop.start("run", "count_visits", "--rate", "500/s")
    until(lambda: shop.number("SELECT count(*) FROM backfill.slice"), "a slice")
    watching = shop.start("watch")
    watching.until_told("users.visits")
    name = shop.conn.info.dbname
    admin = f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS '
    other = conninfo.make_conninfo(shop.url, dbname="postgres")
    with connect(other, autocommit=True) as conn:
        conn.execute((admin + "false").encode())
        try:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                " AND pid <> pg_backend_pid() AND pid <> %s",
                [name, shop.conn.info.backend_pid],
            )
            watching.until_told("the database does not answer; trying again")
        finally:
            conn.execute((admin + "true").encode())
    done = watching.end()
    assert done.code == 0, done.told
    assert "3,000 paged = 3,000 written" in done.stdout
    assert run.end().code == 0
