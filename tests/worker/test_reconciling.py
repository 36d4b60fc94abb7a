"""The reconciler's timer: what goes wrong in a round is over with it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from backfill.worker.reconcile import Reconciling
from tests.acceptance.crew import Crew
from tests.chaos.proxy import Proxy
from tests.services import PostgresServer


@pytest.fixture
def proxy(crew: Crew, redis_url: str) -> Iterator[Proxy]:
    """Between the project and its Redis."""
    port = urlsplit(redis_url).port
    assert port is not None
    with Proxy(port) as proxy:
        crew.add_environment(
            BACKFILL_REDIS_URL=redis_url.replace(f":{port}", f":{proxy.address[1]}")
        )
        yield proxy


def see_a_further_round(crew: Crew) -> None:
    """Wait until the timer has said once more that its worker lives."""
    ((seen_at,),) = crew.query("SELECT max(seen_at) FROM backfill.worker")
    crew.wait(
        lambda: crew.query("SELECT FROM backfill.worker WHERE seen_at > %s", seen_at),
        "a further round",
        seconds=10,
    )


def test_the_timer_goes_on_when_the_broker_goes_at_any_of_its_commands(
    crew: Crew, proxy: Proxy
) -> None:
    """Between Kombu's PING and our question Redis may go: that is raised as Redis's own error."""
    crew.enqueue("count")
    crew.conn.execute("UPDATE backfill.slot SET sent_at = '-infinity'")
    proxy.lose_reply = lambda piece: b"LLEN" in piece and not proxy.lost
    timer = Reconciling(crew.project, crew.app, ["default"], name="a")
    timer.start()
    crew.wait(lambda: proxy.lost, "the broker goes while the queue's length is asked for")
    see_a_further_round(crew)
    see_a_further_round(crew)
    crew.wait(
        lambda: not crew.query("SELECT FROM backfill.slot WHERE sent_at < now() - interval '1 h'"),
        "what was lost is sent",
    )
    timer.stop()


def test_a_database_that_hangs_keeps_no_other_ones_runs_waiting(
    crew: Crew, postgres_server: PostgresServer, template_database: str
) -> None:
    with postgres_server.database(template_database) as other:
        url = postgres_server.url(other)
        port = urlsplit(url).port
        assert port is not None
        with Proxy(port) as proxy:
            crew.add_environment(OTHER_URL=url.replace(f":{port}", f":{proxy.address[1]}"))
            with (crew.folder / "backfill.toml").open("a", encoding="utf-8") as settings:
                settings.write(
                    '[databases.default]\nurl_env = "BACKFILL_DATABASE_URL"\n'
                    '[databases.other]\nurl_env = "OTHER_URL"\n'
                )
            timer = Reconciling(crew.project, crew.app, ["other", "default"], name="a")
            timer.start()
            with psycopg.connect(url, autocommit=True) as conn:
                crew.wait(
                    lambda: conn.execute("SELECT name FROM backfill.worker").fetchall(),
                    "the other database is reconciled, too",
                )
                proxy.delay_seconds = 3600.0
                for _ in range(5):
                    see_a_further_round(crew)
                proxy.cut()
                timer.stop()
