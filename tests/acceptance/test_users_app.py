"""Runs on a user's own Celery application: beside its tasks, on its broker, under its settings."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

import backfill
from backfill.celery import install
from backfill.errors import ExitCode, ProjectError, RefusedError
from backfill.events import Event
from backfill.job.registry import Registry
from backfill.model import RunState
from backfill.project import Project
from backfill.settings import load
from backfill.worker import installed, wiring
from backfill.worker.app import app_of
from backfill.worker.send import WORK
from tests import starting
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import Crew, Worker, each_row_once
from tests.docs.pages import ROOT, blocks
from tests.services import RedisServer

ROWS = 40_000

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=2_000, concurrency=2, rate="2000/s")
"""

#: Settings that would spoil our task if it took any of them.
CONTRARY: dict[str, Any] = {
    "task_serializer": "yaml",
    "accept_content": ["yaml", "json"],
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_ignore_result": False,
    "task_track_started": True,
    "task_time_limit": 1,
    "task_soft_time_limit": 1,
    "task_default_rate_limit": "1/h",
    "task_annotations": {"*": {"rate_limit": "1/h", "acks_late": False}},
    "task_routes": {"*": {"queue": "elsewhere"}},
    "task_default_queue": "shop",
}

PAGE = ROOT / "docs" / "how-to" / "celery-app.md"

#: What the page shows, with our settings, and a task of the user's own.
APP = """
{page}

app.conf.update(broker_url={broker!r}, **{settings!r})


@app.task(queue="shop", serializer="json")
def greet(path):
    with open(path, "w") as file:
        file.write("hello")
"""

WEB = """
import sys

import backfill
from {app} import app, greet
from {jobs}.work import Count

if __name__ == "__main__":
    greet.delay(sys.argv[1])
    print(backfill.enqueue(Count))
"""


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[str]:
    """Another Redis than that of the checkpoint."""
    with redis_server.database() as url:
        yield url


@pytest.fixture
def shop(make_crew: MakeCrew, broker: str) -> Crew:
    """A project whose Celery application is its own."""
    crew = make_crew()
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    (crew.folder / "shop_app.py").write_text(
        APP.format(page=blocks(PAGE, "py")[0].text, broker=broker, settings=CONTRARY)
    )
    (crew.folder / "web.py").write_text(WEB.format(app="shop_app", jobs=crew.package))
    return crew


def start(crew: Crew, app: str, *arguments: str) -> Worker:
    """Start `celery -A APP worker`, and wait until it has reported itself."""
    name = f"w{len(crew.workers)}"
    log = crew.folder / f"{name}.log"
    process = starting.start(
        ["-m", "celery", "-A", app, "worker", "-n", f"{name}@%h", "-l", "INFO", *arguments],
        folder=crew.folder,
        environ=crew.environ,
        stdout=log,
    )
    worker = Worker(name, process, log)
    crew.workers.append(worker)
    crew.wait_for_workers(worker)
    return worker


def lists_in(url: str) -> set[str]:
    """The lists in a Redis: queues with messages."""
    with closing(redis.Redis.from_url(url, decode_responses=True)) as client:
        return set(client.scan_iter(_type="list"))


@pytest.mark.slow
def test_a_run_works_on_a_users_own_application(shop: Crew, redis_url: str) -> None:
    crew = shop
    worker = start(crew, "shop_app", "-c", "2", "-Q", "shop,backfill")
    greeted = crew.folder / "greeted"
    web = starting.run(
        [str(crew.folder / "web.py"), str(greeted)], folder=crew.folder, environ=crew.environ
    )
    assert web.returncode == 0, web.stderr
    run = web.stdout.split()[-1]
    crew.wait_for_rows(run, 1_000)
    crew.wait(lambda: greeted.exists() and greeted.read_text() == "hello", "the other task is done")
    before = set(worker.children)
    crew.wait(lambda: worker.kill_a_child(random.Random(7)), "a child is killed")
    crew.wait(
        lambda: len(worker.children) == 2 and len(before & set(worker.children)) == 1,
        "another follows",
    )
    crew.wait_for_rows(run, crew.counts(run).settled + 1_000)
    worker.terminate()
    assert worker.wait(30) == 0
    assert not crew.held(run), "its slices were not returned"
    assert crew.state(run) is RunState.RUNNING
    assert not {key for key in lists_in(redis_url) if not key.startswith("backfill:")}
    # its log is the application's: Celery's form, our events in it
    assert (
        f"INFO/MainProcess] {Event.WORKER_STARTED} worker='{worker.name}@" in worker.log.read_text()
    )
    start(crew, "shop_app", "-c", "2", "-Q", "backfill")
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)


def test_our_application_started_by_celery_itself_speaks_as_ours(shop: Crew) -> None:
    worker = start(shop, "backfill.worker.app:celery_app", "-c", "1")
    worker.terminate()
    assert worker.wait(30) == 0
    told = [json.loads(line) for line in worker.log.read_text().splitlines() if line[:1] == "{"]
    assert {Event.WORKER_STARTED, Event.WORKER_STOPPED} <= {line["event"] for line in told}


# --------------------------------------------------------------------------------- in this process


@pytest.fixture
def app(shop: Crew, monkeypatch: pytest.MonkeyPatch) -> Celery:
    """An application with contrary settings and a broker in memory, with us on it."""
    monkeypatch.setattr(installed, "_installed", None)
    for name in ("BACKFILL_DATABASE_URL",):
        monkeypatch.setenv(name, shop.environ[name])
    monkeypatch.delenv("BACKFILL_REDIS_URL", raising=False)
    monkeypatch.chdir(shop.folder)
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(CONTRARY)
    install(app)
    return app


def test_what_our_task_needs_holds_under_any_settings(app: Celery) -> None:
    task = app.tasks[WORK]
    held = {
        "serializer": "json",
        "acks_late": True,
        "reject_on_worker_lost": True,
        "acks_on_failure_or_timeout": True,
        "ignore_result": True,
        "track_started": False,
        "rate_limit": 0,
        "max_retries": 0,
        "autoretry_for": (),
    }
    assert {name: getattr(task, name) for name in held} == held
    assert min(task.time_limit, task.soft_time_limit) > 86_400


def test_installing_twice_changes_nothing(app: Celery) -> None:
    task, wired = app.tasks[WORK], wiring.wiring_of(app)
    install(app)
    assert app.tasks[WORK] is task
    assert wiring.wiring_of(app) is wired


def job_of(shop: Crew) -> type[backfill.Job]:
    registry: Registry = shop.project.registry
    return registry.find("count")


def test_enqueue_sends_json_to_our_queue_through_the_application(app: Celery, shop: Crew) -> None:
    """Without a Redis of ours, too."""
    run = backfill.enqueue(job_of(shop))
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("backfill")
        messages = [queue.get(block=False) for _ in range(2)]
        queue.close()
    assert {message.content_type for message in messages} == {"application/json"}
    assert [message.payload[1]["run"] for message in messages] == [run, run]
    assert sorted(message.payload[1]["slot"] for message in messages) == [0, 1]


def test_an_application_that_cannot_serve_is_refused_before_anything_is_written(
    app: Celery, shop: Crew
) -> None:
    job = job_of(shop)
    app.conf.task_always_eager = True
    with pytest.raises(RefusedError, match="task_always_eager") as eager:
        backfill.enqueue(job)
    assert "backfill.run" in eager.value.remedy
    app.conf.task_always_eager = False
    app.conf.task_create_missing_queues = False
    app.amqp.queues.create_missing = False
    with pytest.raises(RefusedError, match="has no queue backfill") as missing:
        backfill.enqueue(job)
    assert 'Queue("backfill")' in missing.value.remedy
    assert shop.query("SELECT FROM backfill.run") == []


def test_a_worker_that_would_throw_our_messages_away_does_not_start(
    app: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    app.conf.accept_content = ["yaml"]
    worker: Any = SimpleNamespace(app=app, hostname="w@h")
    wiring._set_up(instance=worker)  # it takes other queues only
    app.amqp.queues.select(["backfill"])
    with pytest.raises(SystemExit) as end:
        wiring._set_up(instance=worker)
    assert end.value.code == ExitCode.REFUSED
    assert "accepts no JSON" in capsys.readouterr().err


def test_the_settings_name_the_application_for_the_command_line(
    app: Celery, shop: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its project is the one that the command acts in, not the one around the current folder."""
    (shop.folder / "named_app.py").write_text(
        "from celery import Celery\nfrom backfill.celery import install\n"
        "app = Celery('named', broker='memory://', set_as_current=False)\ninstall(app)\nother = 7\n"
    )
    settings = shop.folder / "backfill.toml"
    plain = settings.read_text()
    monkeypatch.chdir("/")
    settings.write_text(f'celery_app = "named_app:app"\n{plain}')
    project = Project(load(shop.folder, shop.environ), shop.environ)
    found = app_of(project)
    assert found.main == "named"
    assert (wired := wiring.wiring_of(found)) is not None
    assert wired.project is project
    for mistake, why in (
        ("named_app:other", "is a int and no Celery application"),
        ("named_app:missing", "AttributeError"),
        ("no_such_module:app", "ModuleNotFoundError"),
    ):
        settings.write_text(f'celery_app = "{mistake}"\n{plain}')
        with pytest.raises(ProjectError, match=why):
            app_of(Project(load(shop.folder, shop.environ), shop.environ))
