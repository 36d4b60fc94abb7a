"""`backfill doctor`: well where all is there, and what is missing named with its remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from click.testing import Result
from psycopg import sql

from backfill.local.redis import LocalRedis
from tests.cli.conftest import Shop, until
from tests.services import PostgresServer


def examined(shop: Shop, *arguments: str, code: int = 0) -> dict[str, tuple[str, str, str]]:
    """By `area/name`: outcome, message, remedy."""
    done = shop("doctor", "--json", *arguments)
    assert done.code == code, done.told
    told: dict[str, Any] = json.loads(done.stdout)
    assert sum(told["counts"].values()) == len(told["examined"])
    return {
        f"{one['area']}/{one['name']}": (one["outcome"], one["message"], one["remedy"])
        for one in told["examined"]
    }


def test_where_all_is_there_all_is_well_but_for_the_tests_superuser(celery_shop: Shop) -> None:
    worker = celery_shop.start("worker", "--concurrency=1", "--name=w1@%h")
    until(lambda: celery_shop.number("SELECT count(*) FROM backfill.worker"), "a worker")
    found = until(
        lambda: found if "workers/answers" in (found := examined(celery_shop)) else None,
        "the worker answers",
    )
    worker.kill()
    warnings = {name for name, (outcome, _, _) in found.items() if outcome == "warning"}
    # the tests' server throws its data away, and their role is one that may do everything
    assert warnings <= {"database default/login-superuser", "database default/server-not-durable"}
    assert "6 jobs" in found["imports/jobs"][1]
    assert "w1@" in found["workers/seen"][1]
    assert "0 messages wait" in found["redis/queue"][1]


def test_for_people_it_is_a_table_that_ends_with_how_many(shop: Shop) -> None:
    done = shop("doctor")
    assert done.code == 0
    assert "database default" in done.stdout
    assert "→ Set it: BACKFILL_REDIS_URL=redis://host:6379/0" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 errors, ")
    assert shop("doctor", "--strict").code == 1


def test_a_project_that_cannot_be_read_is_told_and_nothing_that_follows_from_it(
    shop: Shop,
) -> None:
    shop.settings("jobs = 5\n")
    found = examined(shop, code=1)
    assert set(found) == {"project/versions", "project/settings"}
    assert found["project/settings"][0] == "error"
    assert "jobs" in found["project/settings"][1]


def test_broken_modules_and_jobs_on_unknown_databases_are_told(shop: Shop) -> None:
    (shop.folder / "jobs" / "broken.py").write_text("import no_such_module\n")
    (shop.folder / "jobs" / "far.py").write_text(
        "from backfill import *\n"
        "class Far(Job):\n"
        "    source = Table('t')\n"
        "    target = Delete()\n"
        "    options = Options(database='mian')\n"
    )
    shop.settings('jobs = ["jobs"]\n[databases.main]\nurl_env = "BACKFILL_DATABASE_URL"\n')
    found = examined(shop, code=1)
    assert "no_such_module" in found["imports/broken"][1]
    assert 'far: the project has no database "mian"' in found["imports/job-database"][1]
    assert found["database main/ledger"][0] == "ok"


@contextmanager
def role(shop: Shop, options: str = "") -> Iterator[tuple[str, str]]:
    """A role of its own, without rights; its name, and the URL with it."""
    with psycopg.connect(shop.url, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE doctor_role LOGIN PASSWORD 'sekret' {options}".encode())
        try:
            info = conn.info
            yield (
                "doctor_role",
                f"postgresql://doctor_role:sekret@{info.host}:{info.port}/{info.dbname}",
            )
        finally:
            conn.execute("DROP OWNED BY doctor_role")
            conn.execute("DROP ROLE doctor_role")


def test_a_role_without_rights_is_told_what_it_lacks(shop: Shop) -> None:
    with role(shop, "CONNECTION LIMIT 3") as (name, url):
        shop.environ["BACKFILL_DATABASE_URL"] = url
        found = examined(shop, code=1)
        assert "may not use the ledger" in found["database default/ledger"][1]
        assert "db grants" in found["database default/ledger"][2]
        hidden = found["database default/signals-hidden"]
        assert hidden[0] == "warning"
        assert hidden[2] == f"GRANT pg_read_all_stats TO {name};"
        assert "3 connections" in found["database default/role-connections-few"][1]
        shop.conn.execute("GRANT USAGE ON SCHEMA backfill TO doctor_role")
        shop.conn.execute("GRANT SELECT ON ALL TABLES IN SCHEMA backfill TO doctor_role")
        shop.conn.execute("ALTER ROLE doctor_role SET default_transaction_read_only = on")
        found = examined(shop, code=1)
        assert "UPDATE on run" in found["database default/ledger-rights"][1]
        assert found["database default/server-read-only"][0] == "error"
        told = shop("doctor")
        assert "sekret" not in told.told


def test_a_ledger_that_is_not_there_or_too_new_is_told(shop: Shop) -> None:
    shop.conn.execute("UPDATE backfill.ledger SET version = version + 100, needs_version = 99")
    assert "newer" in examined(shop, code=1)["database default/ledger"][1]
    shop.conn.execute("DROP SCHEMA backfill CASCADE")
    outcome, _, remedy = examined(shop, code=1)["database default/ledger"]
    assert (outcome, "db upgrade" in remedy) == ("error", True)


def test_who_may_not_install_the_ledger_is_told_who_may(shop: Shop) -> None:
    with role(shop) as (name, url):
        shop.environ["BACKFILL_DATABASE_URL"] = url
        shop.conn.execute("GRANT USAGE ON SCHEMA backfill TO doctor_role")
        shop.conn.execute("GRANT SELECT ON backfill.ledger TO doctor_role")
        shop.conn.execute("UPDATE backfill.ledger SET version = version - 1")
        remedy = f"The role {name} may not do it: let the database's owner, or the ledger's, run"
        assert examined(shop, code=1)["database default/ledger"][2].startswith(remedy)
        shop.conn.execute("DROP SCHEMA backfill CASCADE")
        _, message, told = examined(shop, code=1)["database default/ledger"]
        assert "not installed" in message
        assert told.startswith(remedy)
        assert "--sql" in told
        database = shop.conn.info.dbname
        shop.conn.execute(f"GRANT CREATE ON DATABASE {database} TO doctor_role".encode())
        assert "Run `backfill db upgrade`" in examined(shop, code=1)["database default/ledger"][2]


def test_a_database_that_is_only_read_needs_no_ledger(
    shop: Shop, postgres_server: PostgresServer
) -> None:
    with postgres_server.database() as name:
        shop.environ["SHOP_URL"] = postgres_server.url(name)
        shop.settings(
            'jobs = ["jobs"]\n[databases.shop]\nurl_env = "SHOP_URL"\nsource_only = true\n'
            '[databases.default]\nurl_env = "BACKFILL_DATABASE_URL"\n'
        )
        found = examined(shop)
    assert found["database shop/source-only"][0] == "ok"
    assert "database shop/ledger" not in found


def test_a_channel_a_secret_and_an_application_that_are_not_there_are_told(shop: Shop) -> None:
    shop.settings(
        'jobs = ["jobs"]\ncelery_app = "nowhere:app"\n[notify.ops]\nwebhook_url_env = "HOOK"\n'
    )
    found = examined(shop, code=1)
    outcome, message, remedy = found["project/channel"]
    assert (outcome, "channel ops: the environment variable HOOK" in message) == ("warning", True)
    assert ".env" in remedy
    outcome, message, _ = found["imports/secret"]
    assert outcome == "note"
    assert "geocode: the secret parameter token: the variable SHOP_TOKEN" in message
    assert found["imports/celery-app"][0] == "error"
    assert "nowhere" in found["imports/celery-app"][1]


@pytest.mark.parametrize(
    ("broker", "is_told"),
    [
        ("rediss://127.0.0.1:1/0", True),
        ("rediss://127.0.0.1:1/0?ssl_cert_reqs=none", True),
        ("rediss://127.0.0.1:1/0?ssl_cert_reqs=required", False),
        ("redis://127.0.0.1:1/0", False),
    ],
)
def test_a_broker_whose_certificate_nobody_checks_is_told(
    invoke: Callable[..., Result], tmp_path: Path, broker: str, is_told: bool
) -> None:
    (tmp_path / "backfill.toml").write_text('celery_app = "tls_shop_app:app"\n')
    (tmp_path / "tls_shop_app.py").write_text(
        f"from celery import Celery\napp = Celery('shop', broker={broker!r})\n"
    )
    told = json.loads(invoke("doctor", "--json").stdout)["examined"]
    names = {f"{one['area']}/{one['name']}": one["outcome"] for one in told}
    assert names["imports/celery-app"] == "ok"
    assert names["redis/not-named"] == "note", "messages go through the other broker"
    assert names.get("imports/broker-unchecked") == ("warning" if is_told else None)


@pytest.mark.parametrize(
    ("variable", "area", "url"),
    [
        ("BACKFILL_DATABASE_URL", "database default", "postgresql://u:sekret@127.0.0.1:1/x"),
        ("BACKFILL_DATABASE_URL", "database default", "mysql://u:sekret@127.0.0.1/x"),
        ("BACKFILL_REDIS_URL", "redis", "redis://:sekret@127.0.0.1:1/0"),
        ("BACKFILL_REDIS_URL", "redis", "http://:sekret@127.0.0.1:1/0"),
        ("BACKFILL_REDIS_URL", "redis", "redis://:sekret@127.0.0.1:notaport/0"),
    ],
)
def test_a_server_that_cannot_be_reached_is_told_without_the_password(
    shop: Shop, variable: str, area: str, url: str
) -> None:
    shop.environ[variable] = url
    found = examined(shop, code=1)
    outcome, message, remedy = found[f"{area}/unreachable"]
    assert outcome == "error"
    assert remedy
    assert "sekret" not in message + remedy
    assert not any(name.startswith("workers/") and area != "redis" for name in found)


def test_what_is_wrong_with_redis_is_told(shop: Shop, own_redis: LocalRedis) -> None:
    shop.environ["BACKFILL_REDIS_URL"] = own_redis.url()
    with redis.Redis.from_url(own_redis.url()) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        found = examined(shop)
        assert found["redis/eviction"][0] == "warning"
        assert "noeviction" in found["redis/eviction"][2]
        assert "soon it takes no message" in found["redis/memory"][1]
        assert found["redis/persistence"][0] == "note"
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        found = examined(shop)
        assert "redis/eviction" not in found
        assert "in use: it takes no message" in found["redis/memory"][1]
        client.config_set("maxmemory", 0)
        client.config_set("requirepass", "another")
    outcome, message, remedy = examined(shop, code=1)["redis/unreachable"]
    assert (outcome, "refuses the login" in message) == ("error", True)
    assert "BACKFILL_REDIS_URL" in remedy


def test_a_worker_of_another_version_or_another_redis_is_told(celery_shop: Shop) -> None:
    celery_shop.conn.execute(
        sql.SQL(
            "INSERT INTO backfill.worker (name, version, seen_at)"
            " VALUES ('w9@far', '0.0.1', clock_timestamp() + interval '1 minute')"
        )
    )
    found = examined(celery_shop)
    assert "0.0.1" in found["workers/versions"][1]
    assert found["workers/silent"][0] == "warning"
    assert "w9@far" in found["workers/silent"][1]


def test_every_name_is_documented() -> None:
    """`notes.ok("NAME", …` and the like in the code are the names of the reference."""
    root = Path(__file__).parents[2]
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (root / "backfill" / "operate" / "doctor").glob("*.py")
    )
    names = set(re.findall(r'(?:notes\.(?:ok|note|warning|error)|tell)\(\s*"([a-z-]+)"', code))
    page = (root / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    section = page.partition("## backfill doctor\n")[2].partition("\n## ")[0]
    table = section.partition("| area | names |")[2]
    assert names == set(re.findall(r"`([a-z-]+)`", table)) - {
        "project",
        "imports",
        "redis",
        "workers",
    }
