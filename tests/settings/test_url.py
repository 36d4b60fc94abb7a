"""`backfill.url`: what a URL may be, and what of it may be shown."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.redis import Channel
from redis import Redis

from backfill.errors import ProjectError
from backfill.redis_url import PARAMETERS, broker_url
from backfill.settings import DatabaseSettings, Settings, load
from backfill.url import UrlVariable, safe_url
from tests.settings.conftest import URL, Project, refused


def test_no_url_is_in_a_repr() -> None:
    settings = load(None, {"BACKFILL_DATABASE_URL": URL, "BACKFILL_REDIS_URL": "redis://:s3cret@r"})
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(settings.database())


@pytest.mark.parametrize(
    "toml",
    [
        f'[databases.main]\nurl = "{URL}"',
        f'[databases.main]\nurl_env = "A"\nurl = "{URL}"',
        f'[databases.main]\nurl_env = "{URL}"',
        '[databases.main]\nurl_env = "A"\npassword = "s3cret"',
        '[redis]\nurl = "redis://:s3cret@r"',
        'redis_url = "redis://:s3cret@r"',
        f'database_url = "{URL}"',
    ],
)
def test_a_literal_url_in_a_file_is_refused_for_that_reason(project: Project, toml: str) -> None:
    error = refused(project(toml))
    assert "would put a secret into a file" in error.message
    assert "url_env" in error.remedy
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql://db.example:5432/shop"),
        ("postgres://h/db?password=s3cret", "postgres://h/db"),
        ("postgresql://h1:1,h2:2/db", "postgresql://h1:1,h2:2/db"),
        ("postgresql://u:s3cret@[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql:///db?host=/run", "postgresql:///db"),
        ("postgresql://%2Frun%2Fpg/db", "postgresql://%2Frun%2Fpg/db"),
        ("redis://:s3cret@r:6379/0", "redis://r:6379/0"),
        ("redis://:s3@cret@r:6379/0", "redis://r:6379/0"),
        ("unix://ann:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        # a password that should have been written with percent signs
        ("postgresql://ann:s3/cret@h/db", "postgresql://…"),
        ("postgresql://ann:12/s3cret@h/db", "postgresql://…"),
        ("postgresql://ann:12?s3cret@h/db", "postgresql://…"),
        ("postgresql://ann:12#s3cret@h/db", "postgresql://…"),
        ("redis://:s3cret", "redis://…"),
        ("postgresql://h/db\nforged", "postgresql://…"),
        ("host=h password=s3cret", "…"),
        ("s3cret", "…"),
        ("", "…"),
    ],
)
def test_a_url_is_shown_as_host_port_and_database(url: str, shown: str) -> None:
    assert safe_url(url) == shown


_part = st.text(min_size=1).filter(lambda text: "Pa55" not in text)


@given(_part, _part, st.sampled_from(["@h:5432/db", "@h", "@h/db?a=b", "@[::1]/db"]))
def test_no_password_is_ever_shown_however_it_is_written(
    before: str, after: str, place: str
) -> None:
    shown = safe_url(f"postgresql://ann:{before}Pa55{after}{place}")
    assert "Pa55" not in shown
    assert "ann" not in shown


@given(st.text(max_size=40) | st.text(max_size=9).map("postgres://".__add__))
def test_any_text_is_a_url_of_postgresql_or_a_project_error(text: str) -> None:
    database = DatabaseSettings(name="main", raw_url=text)
    try:
        url = database.url
    except ProjectError:
        url = "postgresql://"
    assert url.startswith("postgresql://")


@given(st.text(max_size=40) | st.text(max_size=9).map("http://".__add__))
def test_any_text_is_a_url_of_a_web_server_or_a_project_error(text: str) -> None:
    try:
        url = UrlVariable(name="HOOK", named_in="a test", raw=text).http()
    except ProjectError:
        url = text
    assert url == text


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("ann:top@s3cret/x@h:5432/shop", "parts can be told apart"),
        ("ann:12/s3cret@h/shop", "parts can be told apart"),
        ("ann:s3@cret@h/shop", "parts can be told apart"),
        ("h/%ff", "each % and its two digits"),
        ("ann:s3cret%ff@h/shop", "each % and its two digits"),
        ("ann:s3cret%zz@h/shop", "each % and its two digits"),
        ("ann:s3cret%@h/shop", "each % and its two digits"),
        ("h/a%00b", "each % and its two digits"),
        ("h/\udcff", "each % and its two digits"),
        ("ann:s3cret@[::1/shop", "has both of them"),
        ("ann:s3cret@[::1]x:1/shop", "only :port behind"),
        ("ann:s3cret@::1/shop", "stands in [ ], such as [::1]:5432"),
    ],
)
def test_a_url_that_libpq_would_take_apart_wrongly_is_refused(rest: str, told: str) -> None:
    with pytest.raises(ProjectError, match="MAIN") as caught:
        _ = DatabaseSettings(name="m", url_env="MAIN", raw_url=f"postgresql://{rest}").url
    assert told in caught.value.message
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("rest", ["ann:12?b@h/db", "h/db?user=me@tenant", "ann@h?options=a%40b"])
def test_an_at_sign_that_libpq_reads_rightly_is_left_to_it(rest: str) -> None:
    url = f"postgresql://{rest}"
    assert DatabaseSettings(name="m", raw_url=url).url == url


@given(
    st.sampled_from(["h", "[::1]", "10.0.0.1", "", "u:p@h", "u:p%40@[::1]", "%2Frun%2Fpg"]),
    st.none() | st.integers(1, 65_535),
    st.sampled_from(["", "/", "/shop", "/shop?sslmode=verify-full", "?host=/run/pg"]),
)
def test_a_right_url_is_taken_with_each_port(host: str, port: int | None, rest: str) -> None:
    place = host if port is None or not host else f"{host}:{port}"
    another = place.rpartition("@")[2]  # the login stands once
    for scheme in ("postgres://", "postgresql+psycopg://"):
        url = DatabaseSettings(name="main", raw_url=f"{scheme}{place},{another}{rest}").url
        assert url == f"postgresql://{place},{another}{rest}"


@pytest.mark.parametrize(
    ("given_", "used"),
    [
        ("rediss://r:6380/0", "rediss://r:6380/0?ssl_cert_reqs=required"),
        ("REDISS://r", "rediss://r?ssl_cert_reqs=required"),
        ("rediss://r/0?db=1#c", "rediss://r/0?db=1&ssl_cert_reqs=required#c"),
        ("rediss://r/0?ssl_cert_reqs=none", "rediss://r/0?ssl_cert_reqs=none"),
        ("redis://r/0", "redis://r/0"),
    ],
)
def test_a_certificate_is_checked_unless_the_url_says_otherwise(given_: str, used: str) -> None:
    assert Settings(raw_redis_url=given_).redis_url == used


@given(st.text(max_size=40) | st.text(max_size=9).map("redis://".__add__))
def test_any_text_is_a_url_of_redis_or_a_project_error(text: str) -> None:
    settings = Settings(raw_redis_url=text)
    try:
        url = settings.redis_url
    except ProjectError:
        url = None
    assert url is None or url == text


@pytest.mark.parametrize("rest", ["run/redis.sock", "", "ann:s3cret@run/redis.sock", "?db=1"])
def test_a_socket_is_named_by_its_whole_path(rest: str) -> None:
    with pytest.raises(ProjectError, match="with a socket's whole path") as caught:
        _ = Settings(raw_redis_url=f"unix://{rest}").redis_url
    assert "unix:///run/redis.sock" in caught.value.remedy
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told", "remedy"),
    [
        ("redis://r/0?nonsense=s3cret", "parameter nonsense", "Take it out"),
        ("redis://r/0?socket_timout=5", "parameter socket_timout", "mean socket_timeout?"),
        ("redis://r/0?ssl_cert_reqs=none", "redis:// takes none", "Take it out"),
        ("unix:///r.sock?socket_keepalive=1", "unix:// takes none", "Take it out"),
        *(
            (f"redis://r/0?db=1&{name}={value}", f"parameter {name} with a value", f"{name} is ")
            for name, value in [
                *(("db", text) for text in ("", "x", "-1")),
                *(("socket_timeout", text) for text in ("s3cret", "0", "0.0", ".", "-1", "nan")),
                *(("max_connections", text) for text in ("0", "s3cret", "1.5")),
                *(("client_name", "a%20b"), ("protocol", "7"), ("encoding", "latin-1")),
                *(("socket_keepalive", "perhaps"), ("health_check_interval", "1.5")),
            ]
        ),
        ("rediss://r/0?ssl_cert_reqs=s3cret", "parameter ssl_cert_reqs", "optional or required"),
        ("redis://:12?s3cret@r/0", "whose parts can be told apart", "? as %3F"),
        ("redis://:s3cret@h\u2100/0", "whose parts can be told apart", "? as %3F"),
        ("redis://:s3cret@[::1/0", "has both of them", "redis://host:6379/0"),
        ("unix://:12/s3cret@/r.sock", "socket's whole path", "/ as %2F"),
    ],
)
def test_a_parameter_that_no_client_can_use_is_refused(url: str, told: str, remedy: str) -> None:
    with pytest.raises(ProjectError, match="BACKFILL_REDIS_URL") as caught:
        _ = Settings(raw_redis_url=url).redis_url
    assert told in caught.value.message
    assert remedy in caught.value.remedy
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", PARAMETERS)
def test_redis_py_takes_each_parameter_that_is_let_through(scheme: str) -> None:
    values = {"true or false": "true", "utf-8": "utf-8", "none, optional or required": "none"}
    for name, form in PARAMETERS[scheme].items():
        url = Settings(
            raw_redis_url=f"{scheme}:///?{name}={values.get(form.takes, '2')}"
        ).require_redis_url()
        with Redis.from_url(url) as client:
            client.connection_pool.make_connection()


@pytest.mark.parametrize("value", ["1", "10", "0.5", "5.", ".5", "007"])
def test_seconds_are_taken_in_each_form(value: str) -> None:
    url = f"redis://r/0?socket_timeout={value}"
    assert Settings(raw_redis_url=url).redis_url == url


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://r:6379/3", "redis://r:6379/3"),
        ("redis://ann:s3%40t@[::1]/1?db=4&socket_timeout=5", "redis://ann:s3%40t@[::1]/4"),
        ("redis://r?username=ann&password=s%40c", "redis://ann:s%40c@r"),
        ("redis://:a;b@r/0", "redis://:a%3Bb@r/0"),
        (
            "rediss://r/0?client_name=me&ssl_ca_certs=/a%20b&ssl_cert_reqs=required",
            "rediss://r/0?ssl_ca_certs=%2Fa+b&ssl_cert_reqs=required",
        ),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        (
            "unix://ann:s3%40t@/run/a%20b;c?db=2",
            "redis+socket://ann:s3%40t@/run/a%20b%3Bc?virtual_host=2",
        ),
        ("unix:///r.sock?password=s%3At", "redis+socket://:s%3At@/r.sock?virtual_host=0"),
    ],
)
def test_celery_comes_to_the_same_redis(url: str, broker: str) -> None:
    assert broker_url(url) == broker
    ours = Redis.from_url(url).connection_pool.connection_kwargs
    with Celery(broker=broker).connection_for_write() as connection:
        channel = Channel.__new__(Channel)  # making one connects
        channel.connection = SimpleNamespace(client=connection, default_port=6379)
        parameters: Callable[[], dict[str, Any]] = channel._connparams
        theirs = parameters()
    for name, default in {"db": 0, "username": None, "password": None, "path": None}.items():
        assert theirs.get(name, default) == ours.get(name, default)
