"""Signals by a user's own SQL, and by PromQL of a small server that answers as Prometheus."""

from __future__ import annotations

import json
import math
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill.pg import prometheus
from backfill.pg.connect import Connection
from backfill.pg.health import QUERY_SECONDS
from backfill.pg.ledger import Ledger, get_run
from backfill.pg.signals import QUERIES_SECONDS
from backfill.signals import Reading, SignalSpec, UnreadableError
from tests.pg.holding import insert_run
from tests.pg.sampling import HandClock, asked_for, own_query, reader_of, sample, value, variable

# ------------------------------------------------------------------------------------------- SQL


def by_sql(pg: Connection, ledger: Ledger, query: str) -> Reading:
    with reader_of(own_query("mine", query)) as reader:
        return sample(reader, pg, ledger)["mine"]


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("SELECT count(*) FROM job WHERE state = 'ready'", 2),
        ("SELECT 1.5::numeric;", 1.5),
        ("SELECT -3 -- a remark", -3),
        ("WITH ready AS (SELECT 1 FROM job) SELECT count(*) FROM ready", 3),
        ("SELECT count(*) FROM job WHERE state LIKE 're%' OR state = '{}'", 2),
        ("VALUES (7)", 7),
        ("SELECT '8'", 8),
        ("SELECT extract(epoch FROM interval '2 minutes')", 120),
    ],
)
def test_a_query_gives_one_number(
    pg: Connection, ledger: Ledger, run: str, query: str, number: float
) -> None:
    pg.execute("CREATE TABLE job (state text)")
    pg.execute("INSERT INTO job VALUES ('ready'), ('ready'), ('done')")
    assert value(by_sql(pg, ledger, query)) == number


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT count(*) FROM absent", 'relation "absent" does not exist'),
        ("SELECT 1 WHERE false", "no value"),
        ("SELECT NULL::float8", "no value"),
        ("SELECT generate_series(1, 2)", "more than one row"),
        ("SELECT 1, 2", "only one column"),
        ("SELECT now()", "cannot cast type timestamp with time zone"),
        ("SELECT 'NaN'::float8", "gives nan"),
        ("SELECT 'Infinity'::float8", "gives inf"),
        ("SELECT 1/0", "DivisionByZero (22012)"),
        ("SELEKT 1", "syntax error"),
        ("SELECT 1); COMMIT; SELECT (1", "multiple commands"),
        ("SELECT pg_sleep(60)::text", "no answer within 1 s"),
        ("SELECT set_config('a.b', nextval('numbers')::text, true)", "read-only transaction"),
    ],
)
def test_a_query_that_gives_none_is_a_problem_and_spoils_no_other(
    pg: Connection, ledger: Ledger, run: str, query: str, words: str
) -> None:
    pg.execute("CREATE SEQUENCE numbers")
    signals = {**own_query("mine", query), **asked_for("replication_lag_bytes")}
    with reader_of(signals) as reader:
        found = sample(reader, pg, ledger)
    assert found["mine"].value is None
    assert words in found["mine"].problem
    assert value(found["replication_lag_bytes"]) == 0


def test_a_row_s_value_in_an_error_is_not_told(pg: Connection, ledger: Ledger, run: str) -> None:
    reading = by_sql(pg, ledger, "SELECT 's3cret'::text")
    assert "InvalidTextRepresentation" in reading.problem
    assert "s3cret" not in reading.problem


def test_a_query_that_waits_for_a_lock_is_given_up(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    pg.execute("CREATE TABLE job (state text)")
    with psycopg.connect(db_url) as other:
        other.execute("LOCK TABLE job")
        assert by_sql(pg, ledger, "SELECT count(*) FROM job").value is None
    assert value(by_sql(pg, ledger, "SELECT count(*) FROM job")) == 0


def test_slow_queries_have_a_bound_together(pg: Connection, ledger: Ledger, run: str) -> None:
    class Slow(HandClock):
        """Every look at the clock is a query's full time later."""

        def monotonic(self) -> float:
            self.seconds += QUERY_SECONDS
            return self.seconds

    names = [f"query_{i}" for i in range(6)]
    signals = {name: own_query(name, "SELECT 1")[name] for name in names}
    with reader_of(signals, clock=Slow()) as reader:
        found = sample(reader, pg, ledger)
    read = [name for name in names if found[name].value is not None]
    assert read == names[: int(QUERIES_SECONDS / QUERY_SECONDS)]
    assert "not asked" in found[names[-1]].problem


def test_a_query_is_asked_once_for_all_runs(pg: Connection, ledger: Ledger, run: str) -> None:
    insert_run(pg, "other-zzzzz")
    runs = [get_run(pg, ledger, name) for name in (run, "other-zzzzz")]
    with reader_of(own_query("mine", "SELECT extract(epoch FROM clock_timestamp())")) as reader:
        first, second = reader.read(pg, ledger, runs).values()
    assert value(first[0]) == value(second[0])


# -------------------------------------------------------------------------------------- Prometheus


@dataclass
class FakePrometheus:
    """What the server answers next, and what it was asked."""

    url: str
    body: bytes = b""
    status: int = 200
    asked: list[tuple[str, dict[str, list[str]], str | None]] = field(default_factory=list)
    open_gate: threading.Event = field(default_factory=threading.Event)

    def says(self, result: Any, kind: str = "vector", **more: Any) -> None:
        data = {"resultType": kind, "result": result}
        self.body = json.dumps({"status": "success", "data": data, **more}).encode()
        self.status = 200


@pytest.fixture
def server() -> Iterator[FakePrometheus]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            fake.asked.append((self.path, parse_qs(form), self.headers["Authorization"]))
            fake.open_gate.wait(30)
            self.send_response(fake.status)
            self.send_header("Content-Length", str(len(fake.body)))
            self.end_headers()
            self.wfile.write(fake.body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakePrometheus(url=f"http://127.0.0.1:{http.server_address[1]}")
    fake.open_gate.set()
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.open_gate.set()
        http.shutdown()
        http.server_close()
        thread.join(30)


def p99(**values: Any) -> dict[str, SignalSpec]:
    return {
        "p99": SignalSpec(
            name="p99", unit="s", stop=0.5, resume=0.2, kind="prometheus", query="the_p99", **values
        )
    }


def test_one_number_of_prometheus_is_a_signal(
    pg: Connection, ledger: Ledger, run: str, server: FakePrometheus
) -> None:
    with reader_of(p99(), prometheus=variable("PROMETHEUS_URL", server.url)) as reader:
        server.says([{"metric": {}, "value": [1435781451.781, "0.25"]}])
        assert value(sample(reader, pg, ledger)["p99"]) == 0.25
        server.says([1435781451.781, "3"], "scalar")
        assert value(sample(reader, pg, ledger)["p99"]) == 3
    path, form, login = server.asked[0]
    assert (path, form["query"], login) == ("/api/v1/query", ["the_p99"], None)


def test_the_login_and_the_path_of_its_url_are_used(server: FakePrometheus) -> None:
    server.says([0, "1"], "scalar")
    url = server.url.replace("http://", "http://ann:s3%2Fcret@") + "/prom/"
    assert prometheus.query(variable("PROMETHEUS_URL", url), "up") == 1
    path, _, login = server.asked[0]
    assert path == "/prom/api/v1/query"
    assert login is not None
    assert b64decode(login.removeprefix("Basic ")) == b"ann:s3/cret"


@pytest.mark.parametrize("note", ["PromQL info: metric might not be a counter"])
def test_a_note_on_style_is_no_warning(server: FakePrometheus, note: str) -> None:
    server.says([0, "1"], "scalar", warnings=[note])
    assert prometheus.query(variable("PROMETHEUS_URL", server.url), "up") == 1


def sample_of(text: str) -> list[dict[str, object]]:
    return [{"metric": {}, "value": [0, text]}]


@pytest.mark.parametrize(
    ("result", "kind", "words"),
    [
        ([], "vector", "matches no series"),
        (sample_of("1") * 2, "vector", "has 2 values"),
        (sample_of("NaN"), "vector", "answers with NaN"),
        (sample_of("+Inf"), "vector", "answers with +Inf"),
        (sample_of("x"), "vector", "no number"),
        ([{"metric": {}, "histogram": [0, {}]}], "vector", "no number"),
        ([3], "vector", "no number"),
        ("3", "vector", "answers with a vector"),
        ([], "matrix", "answers with a matrix"),
        ([0, "x"], "string", "answers with a string"),
        (None, "scalar", "no number"),
    ],
    ids=str,
)
def test_what_is_not_one_number_is_a_problem(
    server: FakePrometheus, result: Any, kind: str, words: str
) -> None:
    server.says(result, kind)
    assert words in problem_of(server)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, {"status": "error", "error": "parse error at char 3"}, "400: parse error at char 3"),
        (422, {"status": "error", "error": "too many samples"}, "422: too many samples"),
        (503, {"status": "error", "errorType": "timeout"}, "503: no reason given"),
        (200, {"status": "error", "error": "odd"}, "200: odd"),
        (200, {"status": "success"}, "without the JSON"),
        (200, [], "without the JSON"),
        (200, "<html>", "without the JSON"),
        (502, "<html>Bad Gateway", "answered 502"),
        (
            200,
            {
                "status": "success",
                "data": {"resultType": "scalar", "result": [0, "1"]},
                "warnings": ["store eu is away"],
            },
            "store eu is away",
        ),
    ],
    ids=str,
)
def test_an_answer_that_is_no_success_is_a_problem(
    server: FakePrometheus, status: int, body: Any, words: str
) -> None:
    server.status = status
    server.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert words in problem_of(server)


def test_a_server_that_is_away_is_a_problem() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://ann:s3cret@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnreadableError) as caught:
            prometheus.query(variable("PROMETHEUS_URL", url), "up")
    assert str(caught.value) == "Prometheus (PROMETHEUS_URL) does not answer: Connection refused"


@pytest.mark.parametrize("url", [None, "postgresql://s3cret", "http://s3cret:x/", "http://[s3cret"])
def test_a_url_that_is_none_is_a_problem_that_does_not_show_it(url: str | None) -> None:
    with pytest.raises(UnreadableError) as caught:
        prometheus.query(variable("PROMETHEUS_URL", url), "up")
    assert "PROMETHEUS_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_hangs_is_given_up_and_the_others_are_read(
    pg: Connection, ledger: Ledger, run: str, server: FakePrometheus
) -> None:
    server.open_gate.clear()
    signals = {**p99(), **own_query("mine", "SELECT 1")}
    with reader_of(signals, prometheus=variable("PROMETHEUS_URL", server.url)) as reader:
        found = sample(reader, pg, ledger)
        assert "does not answer: TimeoutError" in found["p99"].problem
        assert value(found["mine"]) == 1


def problem_of(server: FakePrometheus) -> str:
    with pytest.raises(UnreadableError) as caught:
        prometheus.query(variable("PROMETHEUS_URL", server.url), "up")
    return str(caught.value)


_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "data", "resultType", "result", "value", "warnings"]), inner
        )
    ),
    max_leaves=8,
)


@given(
    body=_json.map(json.dumps).map(str.encode)
    | st.binary(max_size=20)
    | _json.map(
        lambda result: json.dumps(
            {"status": "success", "data": {"resultType": "vector", "result": result}}
        ).encode()
    ),
    status=st.sampled_from([200, 200, 200, 404, 500]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_it_answers_is_a_finite_number_or_a_problem(
    server: FakePrometheus, body: bytes, status: int
) -> None:
    server.body, server.status = body, status
    try:
        number = prometheus.query(variable("PROMETHEUS_URL", server.url), "up")
    except UnreadableError as error:
        number, said = 0.0, str(error)
    else:
        said = "PROMETHEUS_URL"
    assert math.isfinite(number)
    assert "PROMETHEUS_URL" in said
