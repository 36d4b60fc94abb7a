"""What errors quote: no secret is kept or told, and no row's value but in the quarantine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import pytest

from backfill.errors import ProjectError, RetryLater
from backfill.job import Call, Job, Options, Param, Query, Row, Sql, Table, Update
from backfill.job.declaration import bind
from backfill.model import RunInfo
from tests.engine.factory import Worksite

SECRET = "a key/4711"
ROW = "a-value-of-a-row"
LEFT_OUT = (
    "InvalidTextRepresentation (22P02); the message may quote a secret parameter, and is left out"
)
#: None of them stops a run by their number.
ALL = Options(quarantine_share=1.0)


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOCODER_KEY", SECRET)


def make(**parts: object) -> type[Job]:
    """A job named Fill that knows a secret."""
    namespace: dict[str, object] = {
        "source": Table("t", columns=["label"]),
        "target": Update("n"),
        "options": ALL,
        "key": Param(str, secret=True, env="GEOCODER_KEY"),
        "__module__": __name__,
    }
    return type("Fill", (Job,), namespace | parts)


def told(site: Worksite) -> str:
    """All that the ledger keeps in words."""
    return "\n".join(
        str(text)
        for (text,) in site.rows(
            "SELECT message FROM backfill.quarantine UNION ALL SELECT reason FROM backfill.pause"
            " UNION ALL SELECT detail::text FROM backfill.event"
            " UNION ALL SELECT failure FROM backfill.run"
        )
    )


# --- found before a run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"source": Table("t", where="id > %(key)s::int"), "transform": Sql(n="1")},
        {"source": Table("t", where="id > upper(%(key)s)::int"), "transform": Sql(n="1")},
        {"transform": Sql(n="%(key)s::int")},
        {
            "source": Query("SELECT id FROM t WHERE id > %(key)s::int", key="id", table="t"),
            "transform": Sql(n="1"),
        },
    ],
    ids=["where", "made of it", "transform", "query"],
)
def test_a_statement_that_fails_on_a_secret_is_refused_without_it(
    site: Worksite, parts: Mapping[str, object]
) -> None:
    site.numbers(3)
    with pytest.raises(ProjectError) as refused:
        site.enqueue(make(target=Update(), **parts))
    assert "InvalidTextRepresentation (22P02)" in refused.value.message
    assert "may quote a secret parameter" in refused.value.message
    for text in (refused.value.message, refused.value.remedy):
        assert SECRET.upper() not in text.upper()


def test_what_no_secret_is_bound_in_is_quoted(site: Worksite) -> None:
    site.numbers(3)
    with pytest.raises(ProjectError, match='syntax for type bigint: "first"'):
        site.enqueue(
            make(target=Update(), transform=Sql(n="1"), source=Table("t", where="id > 'first'"))
        )


# --- in rows -------------------------------------------------------------------------------------


def raises(error: Exception) -> Callable[[Any, Row], None]:
    def transform(_: Job, row: Row) -> None:
        raise error

    return transform


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"transform": Sql(n="(%(key)s || label)::int"), "target": Update()},
            LEFT_OUT,
        ),
        (
            {"transform": raises(OSError(f"403 for http://x/?key={SECRET}&q=1"))},
            "OSError: 403 for http://x/?key=…&q=1",
        ),
        (
            {"transform": raises(OSError(f"403 for http://x/?key={quote(SECRET, safe='')}&q=1"))},
            "OSError: 403 for http://x/?key=…&q=1",
        ),
        ({"transform": raises(KeyError(SECRET))}, "KeyError: '…'"),
    ],
    ids=["PostgreSQL", "an exception", "in a URL", "repr"],
)
def test_a_row_in_quarantine_has_a_message_without_secrets(
    site: Worksite, parts: Mapping[str, object], message: str
) -> None:
    site.numbers(3)
    site.execute("UPDATE t SET label = 'x'")
    outcome = site.run(make(**parts))
    assert {row.message for row in outcome.quarantine} == {message}
    assert SECRET not in told(site)


def test_a_message_of_a_job_without_a_bound_secret_quotes_its_row(site: Worksite) -> None:
    site.numbers(1)
    site.execute("UPDATE t SET label = %s", ROW)
    outcome = site.run(make(transform=Sql(n="label::int"), target=Update()))
    assert [row.message for row in outcome.quarantine] == [
        f'invalid input syntax for type integer: "{ROW}"'
    ]


# --- outside of rows -----------------------------------------------------------------------------


def test_a_hook_that_quotes_a_secret_pauses_the_run_without_it(site: Worksite) -> None:
    def before_run(_: Job, run: RunInfo) -> None:
        raise OSError(f"http://x/{SECRET}")

    site.numbers(3)
    outcome = site.run(make(before_run=before_run, transform=lambda _, row: None))
    assert outcome.why_paused == "error: Fill.before_run raised OSError: http://x/…"
    assert SECRET not in told(site)


def test_setup_and_init_are_told_without_secrets(site: Worksite) -> None:
    def setup(_: Job, conn: object) -> None:
        raise OSError(f"http://x/{SECRET}")

    site.numbers(3)
    job = make(setup=setup, transform=lambda _, row: None)
    with pytest.raises(ProjectError, match=r"Fill.setup raised OSError: http://x/…"):
        site.bench(job, site.enqueue(job))

    def init(self: Any) -> None:
        raise OSError(f"http://x/{self.key}")

    with pytest.raises(ProjectError, match=r"Fill.__init__ raised OSError: http://x/…"):
        bind(make(__init__=init, transform=lambda _, row: None), {})


def test_an_outage_is_told_without_secrets(
    site: Worksite, capsys: pytest.CaptureFixture[str]
) -> None:
    site.numbers(1)
    calls = []

    def transform(_: Job, row: Row) -> None:
        calls.append(row)
        if len(calls) == 1:
            raise RetryLater(f"429 of http://x/{SECRET}", seconds=0.01)

    assert site.run(make(transform=transform, target=Call())).state == "succeeded"
    written = capsys.readouterr()
    assert "outage: 429 of http://x/…" in written.out + written.err
    assert SECRET not in written.out + written.err


@pytest.mark.parametrize(
    ("body", "summary"),
    [
        ("RAISE 'no % here', what", "RaiseException (P0001)"),
        ("RAISE 'no % here', what USING ERRCODE = '42P01'", "UndefinedTable (42P01)"),
        ("EXECUTE format('SELECT FROM %I', what)", "UndefinedTable (42P01)"),
        ("PERFORM what::int", "InvalidTextRepresentation (22P02)"),
        ("ASSERT false, what", "AssertFailure (P0004)"),
    ],
)
def test_a_scope_that_raises_stops_the_run_and_no_value_of_a_row_is_told(
    site: Worksite, body: str, summary: str
) -> None:
    site.numbers(3)
    site.execute(
        "CREATE FUNCTION judged(what text) RETURNS boolean LANGUAGE plpgsql AS"
        f" $$ BEGIN {body}; RETURN true; END $$"
    )
    job = make(source=Table("t", where="judged(label)"), transform=Sql(n="1"), target=Update())
    run = site.enqueue(job)
    site.execute("UPDATE t SET label = %s", ROW)
    outcome = site.work(job, run)
    assert outcome.why_paused.startswith(f"error: between two batches: {summary};")
    assert ROW not in told(site)


def test_what_postgresql_says_of_names_is_told_also_from_within_a_function(site: Worksite) -> None:
    site.numbers(3)
    site.execute(
        "CREATE FUNCTION judged(what text) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM FROM no_such_table; RETURN true; END $$"
    )
    job = make(source=Table("t", where="judged(label)"), transform=Sql(n="1"), target=Update())
    outcome = site.run(job)
    assert outcome.why_paused.endswith('(42P01): relation "no_such_table" does not exist')
