"""`backfill.settings_signals`: the signals that a file asks for, changes or turns off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import ProjectError
from backfill.settings import load
from backfill.signals import BUILTIN, DEFAULTS, SignalSpec
from tests.settings.conftest import Project, refused

HEAD = '[databases.main]\nurl_env = "DATABASE_URL"\n'


def signals_of(folder: Path) -> Mapping[str, SignalSpec]:
    return load(folder, {}).database("main").signals


def with_signals(project: Project, text: str, head: str = "") -> Path:
    return project(f"{HEAD}{head}\n[databases.main.signals]\n{text}\n")


def test_without_a_word_the_defaults_hold_and_none_is_required(project: Project) -> None:
    assert signals_of(project(HEAD)) == load(None, {}).database().signals == DEFAULTS
    assert not any(spec.required for spec in DEFAULTS.values())


def test_a_default_can_be_turned_off_and_another_asked_for(project: Project) -> None:
    signals = signals_of(
        with_signals(project, "blocked_seconds = false\noldest_transaction_seconds = true")
    )
    assert "blocked_seconds" not in signals
    oldest = BUILTIN["oldest_transaction_seconds"]
    assert signals["oldest_transaction_seconds"] == replace(oldest, required=True)
    assert signals["replication_lag_seconds"] == DEFAULTS["replication_lag_seconds"]


def test_what_is_off_can_be_turned_off_again(project: Project) -> None:
    assert signals_of(with_signals(project, "wal_bytes_per_second = false")) == DEFAULTS


def test_other_thresholds_ask_for_a_signal(project: Project) -> None:
    signals = signals_of(
        with_signals(project, "replication_lag_seconds = { stop = 60, resume = 0.5 }")
    )
    assert signals["replication_lag_seconds"] == SignalSpec(
        name="replication_lag_seconds", unit="s", stop=60, resume=0.5, required=True
    )


def test_signals_of_ones_own_are_read(project: Project) -> None:
    head = 'prometheus_url_env = "PROMETHEUS_URL"'
    text = """
        queue_depth = { sql = "SELECT count(*) FROM job", stop = 1000, resume = 500, unit = "jobs" }
        idle_cpu = { prometheus = 'cpu{url="http://x"}', worse = "below", stop = 10, resume = 20 }
    """
    signals = signals_of(with_signals(project, text, head))
    assert list(signals) == [*DEFAULTS, "queue_depth", "idle_cpu"]
    assert signals["queue_depth"] == SignalSpec(
        name="queue_depth",
        unit="jobs",
        stop=1000,
        resume=500,
        required=True,
        kind="sql",
        query="SELECT count(*) FROM job",
    )
    assert signals["idle_cpu"] == SignalSpec(
        name="idle_cpu",
        unit="",
        stop=10,
        resume=20,
        worse="below",
        required=True,
        kind="prometheus",
        query='cpu{url="http://x"}',
    )


def test_the_value_at_which_a_run_goes_on_may_be_negative_or_0_where_that_can_be_passed(
    project: Project,
) -> None:
    text = """
        surplus = { sql = "SELECT 1", stop = 5, resume = -5 }
        credit = { sql = "SELECT 1", worse = "below", stop = -1, resume = 0 }
    """
    signals = signals_of(with_signals(project, text))
    assert (signals["surplus"].resume, signals["credit"].resume) == (-5, 0)


def test_naming_replicas_asks_for_their_lag(project: Project) -> None:
    head = 'replica_url_envs = ["REPLICA_URL"]'
    usual = signals_of(with_signals(project, "", head))["replica_lag_seconds"]
    assert usual == replace(BUILTIN["replica_lag_seconds"], required=True)
    text = "replica_lag_seconds = { stop = 5, resume = 5 }"
    assert signals_of(with_signals(project, text, head))["replica_lag_seconds"].stop == 5
    text = "replica_lag_seconds = false"
    assert "replica_lag_seconds" not in signals_of(with_signals(project, text, head))


SQL = 'sql = "SELECT 1", '


@pytest.mark.parametrize(
    ("text", "place", "rest"),
    [
        ("replication_lag = true", "replication_lag is no signal", '"replication_lag_'),
        ("blocked = { stop = 1, resume = 1 }", "blocked is no signal", "blocked_seconds"),
        ("mine = false", "mine is no signal", "The signals: replication_lag_seconds"),
        ("blocked_seconds = 5", "blocked_seconds takes a table", "or true, or false"),
        ("mine = 5", "mine takes a table", "{ sql ="),
        ("blocked_seconds = {}", "blocked_seconds] stop is missing", "a number"),
        ("blocked_seconds = { stop = 1 }", "blocked_seconds] resume is missing", ""),
        ("blocked_seconds = { stop = 1, resume = 2 }", "resume is on the wrong side", "below its"),
        ("blocked_seconds = { stop = 1, resume = 0 }", "resume is 0", "would never go on"),
        ("blocked_seconds = { stop = 1, resume = -1 }", "resume is -1", "would never go on"),
        (f"mine = {{ {SQL}stop = 1, resume = 0 }}", "resume is 0", "For a count write resume = 1"),
        ('blocked_seconds = { stop = "1", resume = 0 }', "stop takes a number", "is a string"),
        ("blocked_seconds = { stop = true, resume = 0 }", "stop takes a number", "true or false"),
        ("blocked_seconds = { stop = inf, resume = 0 }", "stop takes a number up to", ""),
        ("blocked_seconds = { stop = nan, resume = 0 }", "stop takes a number up to", ""),
        ("blocked_seconds = { stop = 1, resum = 0 }", "resum is no setting", '"resume"?'),
        ("blocked_seconds = { stop = 1, resume = 0, unit = 'm' }", "unit is no setting", ""),
        (f"blocked_seconds = {{ {SQL}stop = 1, resume = 0 }}", "name of a signal of ours", ""),
        (f"Mine = {{ {SQL}stop = 1, resume = 0 }}", "Mine is no name for a signal", ""),
        (f"mine = {{ {SQL}prometheus = 'up', stop = 1, resume = 0 }}", "both sql and", "Keep one"),
        ("mine = { sql = ' ', stop = 1, resume = 0 }", "sql takes a query", ""),
        ("mine = { sql = 5, stop = 1, resume = 0 }", "sql takes a query", "is a number"),
        (f"mine = {{ {SQL}stop = 1 }}", "mine] resume is missing", ""),
        (f"mine = {{ {SQL}stop = 1, resume = 0, worse = 'up' }}", "worse takes one of above", ""),
        (
            f"mine = {{ {SQL}stop = 2, resume = 1, worse = 'below' }}",
            "resume is on the wrong side of stop",
            "worse below a value resumes above its stop",
        ),
        (f"mine = {{ {SQL}stop = 1, resume = 0, unit = 'a\\nb' }}", "unit takes a short unit", ""),
        (f"mine = {{ {SQL}stop = 1, resume = 0, units = 'b' }}", "units is no setting", '"unit"?'),
        (
            "mine = { prometheus = 'up', stop = 1, resume = 1 }",
            "[databases.main] prometheus_url_env is missing",
            "The signal mine asks Prometheus",
        ),
        (
            "replica_lag_seconds = true",
            "replica_lag_seconds: no replicas are named",
            "replica_url_envs of [databases.main]",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(
    project: Project, text: str, place: str, rest: str
) -> None:
    folder = with_signals(project, text.replace("'a\\nb'", '"a\\nb"'))
    error = refused(folder)
    assert error.message.startswith(f"{folder / 'backfill.toml'}: [databases.main")
    assert place in error.message
    assert rest in str(error)


def test_signals_that_are_no_table_are_refused(project: Project) -> None:
    error = refused(project(f"{HEAD}signals = true"))
    assert "[databases.main] signals takes a table" in error.message


_value = st.one_of(
    st.booleans().map(json.dumps),
    st.integers(-5, 5).map(str),
    st.integers(10**300, 10**320).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["nan", "inf", "[]", "{}", '"above"', '"below"', "2026-05-27", '"SELECT 1"']),
    st.text(max_size=4).map(json.dumps),
)
_key = st.sampled_from(["sql", "prometheus", "stop", "resume", "worse", "unit", "url", "odd"])
_table = st.dictionaries(_key, _value, max_size=6).map(
    lambda pairs: "{ " + ", ".join(f"{key} = {text}" for key, text in pairs.items()) + " }"
)
_name = st.sampled_from([*BUILTIN, "mine", "Mine", '"a b"', "replication_lag"])


@given(st.dictionaries(_name, _table | _value, max_size=4), st.booleans())
def test_any_table_of_signals_is_read_soundly_or_is_a_project_error(
    tmp_path_factory: pytest.TempPathFactory, entries: Mapping[str, str], remote: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-signals"
    folder.mkdir(exist_ok=True)
    head = 'replica_url_envs = ["R"]\nprometheus_url_env = "P"\n' if remote else ""
    lines = "".join(f"{name} = {text}\n" for name, text in entries.items())
    text = f"{HEAD}{head}[databases.main.signals]\n{lines}"
    (folder / "backfill.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        signals = signals_of(folder)
    except ProjectError as error:
        message = error.message
    else:
        message = str(folder)
        for name, spec in signals.items():
            assert spec.name == name
            assert (
                (spec.resume <= spec.stop) if spec.worse == "above" else (spec.resume >= spec.stop)
            )
            assert (spec.kind == "builtin") == (name in BUILTIN) == (not spec.query)
            assert spec.required == (name in entries or name == "replica_lag_seconds")
        assert not {name for name, value in entries.items() if value == "false"} & signals.keys()
    assert str(folder) in message
