"""A dry run: what it shows and measures is what a run would do, and nothing of it stays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from psycopg import sql

from backfill.engine import dryrun
from backfill.engine.dryrun import DryRun, Place
from backfill.errors import Quarantine, RefusedError, RetryLater
from backfill.job import Call, Delete, Insert, Job, Options, Row, Sql, Table, Target, Update
from backfill.job.declaration import declaration_of
from backfill.model import BatchInfo, RunInfo
from backfill.operate.before import dry_run_job
from backfill.pg.connect import Connection
from backfill.project import Project
from backfill.settings import load
from tests.engine.factory import Worksite

LEFT = Table("t", columns=["n"], todo="label IS NULL")


class Label(Job):
    """By Python; the key 3 is refused by it, and what is written for 5 by PostgreSQL."""

    source = LEFT
    target = Update("label")
    calls: list[int] = []

    def setup(self, conn: Connection) -> None:
        self.prefix = conn.execute("SELECT 'row '").fetchone()

    def transform(self, row: Row) -> dict[str, object] | None:
        self.calls.append(row.id)
        if row.id == 3:
            raise Quarantine("not this one")
        if row.id == 4:
            return None
        return {"label": "a\x00b" if row.id == 5 else f"{self.prefix[0]}{row.id}"}  # type: ignore[index]  # setup has set it

    def before_run(self, run: RunInfo) -> None:
        raise AssertionError("a dry run is no run")

    def after_batch(self, batch: BatchInfo) -> None:
        raise AssertionError("a dry run commits no batch")

    after_run = before_run


class LabelBySql(Job):
    source = LEFT
    transform = Sql(label="'row ' || id")
    target = Update()


def make(target: Target, transform: Any = None, source: Table = LEFT) -> type[Job]:
    parts = {"transform": transform} if transform is not None else {}
    return type("Made", (Job,), {"source": source, "target": target, **parts})


def tried(
    site: Worksite,
    job: type[Job],
    *,
    rows: int = 10,
    shown: int = 2,
    options: Options | None = None,
    url: str | None = None,
    with_effects: bool = False,
) -> DryRun:
    environ = {**os.environ, "BACKFILL_DATABASE_URL": url or site.url}
    return dry_run_job(
        Project(load(None, environ), environ),
        declaration_of(job),
        params={},
        options=options or Options(),
        rows=rows,
        shown=shown,
        with_effects=with_effects,
    )


def changes(place: Place) -> list[tuple[Sequence[str] | None, dict[str, tuple[Any, Any]]]]:
    return [
        (c.key, {n: ((c.before or {}).get(n), (c.after or {}).get(n)) for n in c.columns})
        for c in place.changes
    ]


@pytest.fixture
def table(site: Worksite) -> Iterator[Worksite]:
    """Ten rows; afterwards neither they nor the ledger have changed."""
    site.numbers(10)
    kept = "SELECT array_agg(t ORDER BY id) FROM t"
    before = site.value(kept)
    ledger = "SELECT (SELECT count(*) FROM backfill.event) + (SELECT count(*) FROM backfill.run)"
    yield site
    assert site.value(kept) == before
    assert site.value(ledger) == 0


def test_rows_are_shown_before_and_after_and_the_refused_with_their_reasons(
    table: Worksite,
) -> None:
    Label.calls.clear()
    done = tried(table, Label, shown=2)
    (place,) = done.places
    assert changes(place) == [
        (("1",), {"label": (None, "row 1")}),
        (("2",), {"label": (None, "row 2")}),
    ]
    assert [(one.key, one.sqlstate, one.message) for one in place.refused] == [
        (("3",), None, "not this one"),
        (("5",), None, place.refused[1].message),
    ]
    assert "NUL" in place.refused[1].message or "\\x00" in repr(place.refused[1].message)
    assert (place.taken, place.written, place.unchanged, place.missing) == (10, 7, 1, 0)
    assert not done.is_clean
    assert Label.calls == list(range(1, 11)), "what was shown was transformed a second time"


def test_what_postgresql_computes_is_tried_by_the_same_statements(table: Worksite) -> None:
    done = tried(table, LabelBySql, shown=1)
    (place,) = done.places
    assert changes(place) == [(("1",), {"label": (None, "row 1")})]
    assert (place.taken, place.written, done.is_clean) == (10, 10, True)
    assert done.matching is not None
    assert (done.matching.rows, done.matching.is_exact) == (10, True)
    seconds, wal = done.estimates
    assert seconds.value is not None
    assert seconds.value == pytest.approx(place.seconds)
    assert wal.value == place.wal_bytes
    assert place.wal_bytes is not None
    assert place.wal_bytes > 10 * 50


def test_deleted_and_inserted_rows_are_shown(table: Worksite) -> None:
    (place,) = tried(table, make(Delete()), shown=1).places
    assert changes(place) == [
        (("1",), {"id": ("1", None), "n": ("0", None), "label": (None, None),
                  "done": ("false", None)})
    ]  # fmt: skip
    table.execute("CREATE TABLE u (id bigint PRIMARY KEY, label text DEFAULT 'by default')")
    table.execute("INSERT INTO u VALUES (2, 'there')")
    copy = make(Insert("u", on_conflict="skip"), Sql(id="id"))
    (place,) = tried(table, copy, shown=2).places
    assert changes(place) == [(None, {"id": (None, "1"), "label": (None, "by default")})]
    assert (place.written, place.missing) == (9, 1)
    several = make(
        Insert("u", on_conflict="update", columns=["id", "label"]),
        lambda self, row: iter([{"id": row.id, "label": f"{i}"} for i in range(1)]),
    )
    (place,) = tried(table, several, shown=1).places
    assert changes(place) == [(None, {"id": (None, "1"), "label": (None, "0")})]
    assert table.rows("SELECT * FROM u") == [(2, "there")]


def test_rows_of_a_batch_that_is_refused_are_found_by_halving(table: Worksite) -> None:
    """As a run does it, up to the budget at which it would stop."""
    table.execute("ALTER TABLE t ADD CHECK (label <> 'row 7')")
    (place,) = tried(table, LabelBySql, shown=10).places
    assert [(one.key, one.sqlstate) for one in place.refused] == [(("7",), "23514")]
    assert (place.taken, place.written, place.undone) == (10, 9, 0)
    assert len(place.changes) == 9
    table.execute("ALTER TABLE t ADD CHECK (label <> '' AND id < 0) NOT VALID")
    done = tried(table, LabelBySql, options=Options(quarantine_rows=3))
    assert len(done.places[0].refused) == 4
    assert any("would stop at its budget" in warning for warning in done.warnings)


def test_deferred_constraints_are_checked_although_nothing_is_committed(table: Worksite) -> None:
    table.execute(
        "CREATE TABLE p (label text PRIMARY KEY); INSERT INTO p SELECT 'row ' || i FROM"
        " generate_series(1, 9) AS i; ALTER TABLE t ADD FOREIGN KEY (label) REFERENCES p"
        " DEFERRABLE INITIALLY DEFERRED"
    )
    (place,) = tried(table, LabelBySql).places
    assert [(one.key, one.sqlstate) for one in place.refused] == [(("10",), "23503")]


def test_a_todo_that_the_write_does_not_end_is_told(table: Worksite) -> None:
    for job in (
        make(Update(), Sql(n="1")),
        make(Update("n"), lambda self, row: {"n": 1} if row.id > 1 else None),
    ):
        done = tried(table, job)
        assert not done.is_clean
        assert done.places[0].undone == done.places[0].written > 8
        assert "the completion check would find them" in done.warnings[-1]


def test_rows_that_others_hold_are_passed_by_and_a_locked_table_is_refused(
    table: Worksite,
) -> None:
    """Nobody is made to wait, and nobody is waited for longer than a batch does."""
    with table.session() as other:
        other.execute("SELECT FROM t WHERE id <= 4 FOR UPDATE")
        (place,) = tried(table, LabelBySql, shown=1).places
        assert (place.taken, place.written) == (6, 6)
        assert place.changes[0].key == ("5",)


def test_triggers_see_that_a_backfill_writes_and_what_they_do_is_rolled_back(
    table: Worksite,
) -> None:
    table.execute(
        "CREATE TABLE seen (run text); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO seen VALUES (current_setting('backfill.run')); NEW.n = 7;"
        " NEW.label = NEW.label || ' by ' || current_setting('backfill.run'); RETURN NEW; END $$;"
        "CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    (place,) = tried(table, LabelBySql, shown=1).places
    assert changes(place) == [(("1",), {"n": ("0", "7"), "label": (None, "row 1 by dry-run")})]
    assert table.rows("SELECT * FROM seen") == []


def test_what_would_pause_or_delay_a_run_is_told(table: Worksite) -> None:
    def away(self: Job, row: Row) -> None:
        raise RetryLater("the API is away")

    assert tried(table, make(Update("n"), away)).places[0].problem == (
        "the run would wait: the API is away"
    )
    wrong = make(Update("n"), lambda self, row: {"m": 1})
    done = tried(table, wrong)
    assert done.places[0].problem.startswith("the run would pause: Made: the transform returned")
    assert [estimate.value for estimate in done.estimates] == [None, None]
    assert not done.is_clean


def test_a_larger_table_is_tried_in_its_beginning_its_middle_and_its_end(site: Worksite) -> None:
    """By composite keys with names that must be quoted; the places do not overlap."""
    site.execute(
        'CREATE TABLE "50% t" ("k%" text, n int, label text, PRIMARY KEY ("k%", n)); INSERT INTO'
        ' "50% t" SELECT chr(97 + i / 100), i, NULL FROM generate_series(0, 999) AS i;'
        'ANALYZE "50% t"'
    )
    job = make(Update(), Sql(label="\"k%\" || 'x'"), Table('"50% t"', todo="label IS NULL"))
    done = tried(site, job, rows=30, shown=1)
    assert [place.name for place in done.places] == ["beginning", "middle", "end"]
    assert [place.taken for place in done.places] == [30, 30, 30]
    keys = [int(place.changes[0].key[1]) for place in done.places if place.changes[0].key]
    assert keys[0] == 0
    assert 300 < keys[1] < 800
    assert keys[2] == 970
    assert site.value('SELECT count(label) FROM "50% t"') == 0
    # few rows match, all of them behind the middle: each is met once
    site.execute('UPDATE "50% t" SET label = \'done\' WHERE n <> 996; ANALYZE "50% t"')
    assert sum(place.taken for place in tried(site, job, rows=30).places) == 1


def test_it_needs_no_ledger_and_no_more_rights_than_a_batch(table: Worksite) -> None:
    """A role that may not see all columns is shown those that it may."""
    role = f"trier_of_{table.conn.info.dbname}"
    name = sql.Identifier(role)
    table.execute("DROP SCHEMA backfill CASCADE")
    table.conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    try:
        for grant in (
            "GRANT SELECT (id, label) ON t TO {}",
            "GRANT UPDATE (label) ON t TO {}",
            "ALTER ROLE {} SET default_transaction_isolation = 'serializable'",
        ):
            table.conn.execute(sql.SQL(grant).format(name))
        url = table.url.replace("postgres@", f"{role}@")
        assert url != table.url
        job = make(Update(), Sql(label="'x'"), Table("t", todo="label IS NULL"))
        (place,) = tried(table, job, shown=1, url=url).places
        assert place.changes[0].before == {"id": "1", "label": None}
    finally:
        table.conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
        table.conn.execute(sql.SQL("DROP ROLE {}").format(name))
        table.execute(
            "CREATE SCHEMA backfill; CREATE TABLE backfill.event (); CREATE TABLE backfill.run ()"
        )


def test_an_empty_table_has_nothing_to_try(site: Worksite) -> None:
    site.numbers(0)
    done = tried(site, LabelBySql)
    assert (done.places, done.is_clean) == ([], True)


def test_an_effect_outside_the_database_is_refused_unless_it_is_allowed(table: Worksite) -> None:
    """And then it happens once a row, outside any transaction."""
    called: list[int] = []

    def call(self: Job, row: Row) -> None:
        open_ones = table.value(
            "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL"
            " AND application_name LIKE 'backfill dry-run%%' AND datname = current_database()"
        )
        called.append(row.id + 100 * open_ones)

    job = make(Call(), call)
    with pytest.raises(RefusedError, match="cannot be rolled back"):
        tried(table, job)
    assert called == []
    (place,) = tried(table, job, shown=2, with_effects=True).places
    assert called == list(range(1, 11))
    assert (place.taken, place.refused) == (10, [])


def test_rows_read_without_locks_are_tried_like_that(table: Worksite) -> None:
    def change(self: Job, row: Row) -> dict[str, object]:
        if row.id == 4:  # somebody is faster
            table.execute("UPDATE t SET n = 0 WHERE id = 4; UPDATE t SET n = 5 WHERE id = 4")
        return {"label": f"row {row.id}"}

    try:
        options = Options(lock="optimistic")
        done = tried(table, make(Update("label"), change), shown=2, options=options)
    finally:
        table.execute("UPDATE t SET n = 0 WHERE id = 4")
    (place,) = done.places
    assert changes(place) == [
        (("1",), {"label": (None, "row 1")}),
        (("2",), {"label": (None, "row 2")}),
    ]
    assert (place.paged, place.taken, place.written) == (10, 9, 9)


def test_a_place_ends_after_its_time(table: Worksite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dryrun, "PLACE_SECONDS", 0.0)
    assert tried(table, LabelBySql).places[0].taken == 0
