"""The fixtures that hand out PostgreSQL and Redis: fresh each time, and never silently missing."""

from __future__ import annotations

import psycopg
import pytest
import redis

from backfill.local import process
from backfill.local.redis import LocalRedis
from tests import services
from tests.services import PostgresServer, RedisServer


def test_each_database_is_a_new_copy_of_its_template_and_is_dropped(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as template:
        with psycopg.connect(postgres_server.url(template), autocommit=True) as connection:
            connection.execute("CREATE TABLE t AS SELECT 42 AS n")
        with postgres_server.database(template) as name:
            held = psycopg.connect(postgres_server.url(name))  # a test may forget to close it
            held.execute("DELETE FROM t")
            held.commit()
        with (
            postgres_server.database(template) as other,
            psycopg.connect(postgres_server.url(other)) as connection,
        ):
            assert connection.execute("SELECT n FROM t").fetchall() == [(42,)]
        with pytest.raises(psycopg.OperationalError):
            held.execute("SELECT 1")
        held.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgres_server.url(name))


def test_a_test_has_the_ledger_in_a_database_of_its_own(
    conn: psycopg.Connection, template_database: str
) -> None:
    row = conn.execute("SELECT current_database(), to_regnamespace('backfill')").fetchone()
    assert row is not None
    assert row[0] != template_database
    assert row[1] == "backfill"
    assert conn.autocommit


def test_a_test_has_an_empty_redis_of_its_own(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == 0
    client.close()


def test_a_logical_database_is_emptied_and_not_handed_out_next(own_redis: LocalRedis) -> None:
    server = RedisServer(own_redis.url())
    with server.database() as first:
        client = redis.Redis.from_url(first)
        client.set("key", "value")
    assert client.dbsize() == 0
    client.close()
    with server.database() as second:
        assert second != first


def test_a_logical_database_with_data_in_it_is_left_alone(own_redis: LocalRedis) -> None:
    somebodys = redis.Redis.from_url(own_redis.url(1))
    somebodys.set("key", "value")
    server = RedisServer(own_redis.url())
    for _ in range(15):
        with server.database() as url:
            assert not url.endswith(("/0", "/1"))
    assert somebodys.get("key") == b"value"
    somebodys.close()


@pytest.mark.parametrize(
    ("variable", "scheme", "running"),
    [
        ("BACKFILL_TEST_DATABASE_URL", "postgresql", services.running_postgres),
        ("BACKFILL_TEST_REDIS_URL", "redis", services.running_redis),
    ],
)
def test_a_named_service_that_is_missing_fails(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str, running: type
) -> None:
    url = f"{scheme}://name:secret-word@127.0.0.1:{process.free_port()}/0"
    monkeypatch.setenv(variable, url)
    with pytest.raises(pytest.fail.Exception, match=variable) as caught, running():
        pass
    assert "secret-word" not in str(caught.value)
