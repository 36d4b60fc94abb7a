"""Update, Insert and Delete: what is written, and how each row paged is counted (I2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import pytest

from backfill.job import Delete, Insert, Job, Options, Param, Row, Sql, Table, Update
from backfill.model import Counts
from tests.engine.factory import Worksite
from tests.engine.jobs import Increment, IncrementInPython, Label, LabelInPython, Purge

BY_TEN = Options(batch_rows=10, slice_rows=40)


def _archive(site: Worksite, *, present: Sequence[int] = ()) -> None:
    """A table to insert into, with some of the rows there already."""
    site.execute(
        "CREATE TABLE archive (id bigint PRIMARY KEY, n int, label text DEFAULT 'by default')"
    )
    for key in present:
        site.execute("INSERT INTO archive VALUES (%s, -1, 'early')", key)


# --- Update ------------------------------------------------------------------------------------


class Together(Job):
    source = Table("t", columns=["n"])
    target = Update("n")

    def transform_batch(self, rows: Sequence[Row]) -> list[dict[str, object] | None]:
        return [None if row.id % 5 == 0 else {"n": row.n + 1} for row in rows]


def test_a_batch_of_results_is_aligned_with_its_rows(site: Worksite) -> None:
    site.numbers(100)
    done = site.run(Together, options=BY_TEN)
    assert done.counts == Counts(paged=100, written=80, unchanged=20)
    assert site.value("SELECT bool_and((n = 1) = (mod(id, 5) <> 0)) FROM t")


class Since(Job):
    source = Table("t", where="id >= %(first)s AND mod(id, 2) = 0 AND 'a%b' LIKE 'a%'")
    transform = Sql(n="n + %(step)s", label="'%' || %(step)s")
    target = Update()
    first = Param(int)
    step = Param(int, default=1)


def test_parameters_are_bound_and_every_other_percent_sign_is_plain(site: Worksite) -> None:
    site.numbers(100)
    done = site.run(Since, params={"first": 51, "step": 7})
    assert done.counts == Counts(paged=25, written=25)
    assert site.rows("SELECT DISTINCT n, label FROM t WHERE n <> 0") == [(7, "%7")]
    assert done.run.params == {"first": 51, "step": 7}


@pytest.mark.parametrize("job", [Label, LabelInPython])
def test_rows_that_a_trigger_suppresses_are_counted_and_not_asked_for_again(
    site: Worksite, job: type[Job]
) -> None:
    """I2: RETURNING says less than was meant; the completion check knows about them."""
    site.numbers(50)
    site.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN CASE WHEN NEW.id IN (7, 8, 30) THEN NULL ELSE NEW END; END $$"
    )
    site.execute("CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()")
    done = site.run(job, options=BY_TEN)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=50, written=47, suppressed=3)
    assert done.run.passes == 0


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_trigger_recognises_our_writes_by_a_setting_of_the_transaction(
    site: Worksite, job: type[Job]
) -> None:
    """And only ours: to everybody else it is empty."""
    site.numbers(10)
    site.execute(
        "CREATE FUNCTION sign() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.label := coalesce(current_setting('backfill.run', true), '') || '.'; RETURN NEW; END"
        " $$"
    )
    site.execute("CREATE TRIGGER sign BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION sign()")
    done = site.run(job)
    assert site.rows("SELECT DISTINCT label FROM t") == [(f"{done.run.id}.",)]
    site.execute("UPDATE t SET n = 0")
    assert site.rows("SELECT DISTINCT label FROM t") == [(".",)]


def test_a_names_own_capitals_and_reserved_words_are_no_obstacle(site: Worksite) -> None:
    site.execute('CREATE SCHEMA "Odd %s Schema"')
    site.execute(
        'CREATE TABLE "Odd %s Schema"."%select" ("order" bigint PRIMARY KEY, "From" text, "%s" int)'
    )
    site.execute('INSERT INTO "Odd %s Schema"."%select" SELECT generate_series(1, 30)')

    class Odd(Job):
        source = Table('"Odd %s Schema"."%select"', todo='"From" IS NULL')
        transform = Sql({"From": '"%select"."order" || \'.\'', "%s": '"order" * 2'})
        target = Update()

    class OddInPython(Job):
        source = Table('"Odd %s Schema"."%select"', columns=["From"], todo='"From" IS NULL')
        target = Update("From", "%s")

        def transform(self, row: Row) -> dict[str, object]:
            return {"From": f"{row.order}.", "%s": row.order * 2}

    for job in (Odd, OddInPython):
        assert site.run(job, options=BY_TEN).counts.written == 30
        wrong = """SELECT count(*) FROM "Odd %s Schema"."%select"
                    WHERE ("From", "%s") IS DISTINCT FROM ("order" || '.', "order" * 2)"""
        assert site.value(wrong) == 0
        site.execute('UPDATE "Odd %s Schema"."%select" SET "From" = NULL, "%s" = NULL')


@pytest.mark.parametrize("job", [Increment, IncrementInPython, Label, LabelInPython])
def test_a_partitioned_table_is_walked_as_one(site: Worksite, job: type[Job]) -> None:
    """Also its deferred rows: a row lock is the partition's."""
    site.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, label text)"
        " PARTITION BY RANGE (id)"
    )
    for low, high in ((0, 40), (40, 80), (80, 1_000)):
        site.execute(f"CREATE TABLE t_{low} PARTITION OF t FOR VALUES FROM ({low}) TO ({high})")
    site.execute("INSERT INTO t (id) SELECT generate_series(1, 100)")
    run = site.begun(job, options=BY_TEN)
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id IN (39, 40, 41) FOR UPDATE")
        with site.crew(job, run, threads=2):
            assert site.until_state(run, "sweeping").counts.deferred == 3
            other.commit()
    assert site.outcome(run).counts == Counts(paged=100, written=100)
    assert site.value("SELECT count(*) FROM t WHERE n = 1 OR label = 'row ' || id") == 100


# --- Insert ------------------------------------------------------------------------------------


class Copy(Job):
    """Columns of the same name, without a transform."""

    source = Table("t")
    target = Insert("archive", on_conflict="skip", columns=["id", "n"])


class CopyInSql(Job):
    source = Table("t")
    transform = Sql(id="id", n="n + 1")
    target = Insert("archive", on_conflict="skip")


class CopyInPython(Job):
    source = Table("t", columns=["n"])
    target = Insert("archive", on_conflict="skip")

    def transform(self, row: Row) -> dict[str, object]:
        return {"id": row.id, "n": row.n + 1}


@pytest.mark.parametrize("job", [Copy, CopyInSql, CopyInPython])
def test_an_insert_skips_what_is_there_and_counts_it(site: Worksite, job: type[Job]) -> None:
    """I2: skipped is not written, and not lost in silence."""
    site.numbers(100)
    _archive(site, present=[3, 50, 99])
    done = site.run(job, options=BY_TEN, threads=2)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=100, written=97, skipped=3)
    assert site.value("SELECT count(*) FROM archive") == 100
    assert site.value("SELECT count(*) FROM archive WHERE label = 'early' AND n = -1") == 3
    assert site.value("SELECT count(*) FROM archive WHERE label = 'by default'") == 97


def _insert_job(
    on_conflict: Literal["update", "error"], *, python: bool, conflict: Sequence[str] | None = None
) -> type[Job]:
    wanted = Insert("archive", on_conflict=on_conflict, conflict=conflict)

    class InSql(Job):
        name = "overwrite"
        source = Table("t")
        transform = Sql(id="id", n="n + 1")
        target = wanted

    class InPython(Job):
        name = "overwrite"
        source = Table("t", columns=["n"])
        target = wanted

        def transform(self, row: Row) -> dict[str, object]:
            return {"id": row.id, "n": row.n + 1}

    return InPython if python else InSql


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("conflict", [None, ["id"]])
def test_an_insert_overwrites_what_is_there(
    site: Worksite, python: bool, conflict: list[str] | None
) -> None:
    """The primary key says what that means, unless other columns are named."""
    site.numbers(100)
    _archive(site, present=[3, 50, 99])
    job = _insert_job("update", python=python, conflict=conflict)
    done = site.run(job, options=BY_TEN)
    assert done.counts == Counts(paged=100, written=100)
    assert site.rows("SELECT DISTINCT n FROM archive") == [(1,)]
    # columns that are not written keep what they had
    assert site.value("SELECT count(*) FROM archive WHERE label = 'early'") == 3


@pytest.mark.parametrize("python", [False, True])
def test_an_insert_may_hold_a_conflict_to_be_the_rows_error(site: Worksite, python: bool) -> None:
    site.numbers(100)
    _archive(site, present=[3, 50, 99])
    done = site.run(
        _insert_job("error", python=python),
        options=Options(batch_rows=10, quarantine_share=1.0),
    )
    assert done.counts == Counts(paged=100, written=97, quarantined=3)
    assert {row.key[0]: row.sqlstate for row in done.quarantine} == {
        "3": "23505",
        "50": "23505",
        "99": "23505",
    }


class Split(Job):
    """Several rows for one, or none at all."""

    source = Table("t", columns=["id"])
    target = Insert("piece", on_conflict="skip", conflict=["of", "number"])

    def transform(self, row: Row) -> Iterator[dict[str, object]] | None:
        if row.id % 10 == 0:
            return None
        return iter([{"of": row.id, "number": number} for number in range(row.id % 4)])


def test_one_row_may_become_several_and_counts_as_one(site: Worksite) -> None:
    site.numbers(100)
    site.execute("CREATE TABLE piece (of bigint, number int, PRIMARY KEY (of, number))")
    done = site.run(Split, options=BY_TEN)
    assert done.state == "succeeded"
    meant = {(i, k) for i in range(1, 101) if i % 10 for k in range(i % 4)}
    assert set(site.rows("SELECT of, number FROM piece")) == meant
    with_pieces = len({i for i, _ in meant})
    assert done.counts == Counts(paged=100, written=with_pieces, unchanged=100 - with_pieces)


def test_rows_of_different_columns_are_inserted_each_with_its_own(site: Worksite) -> None:
    """A column that a mapping leaves out gets its default, not NULL."""

    class Uneven(Job):
        source = Table("t", columns=["id"])
        target = Insert("archive", on_conflict="error")

        def transform(self, row: Row) -> dict[str, object]:
            return {"id": row.id} if row.id % 2 else {"label": "even", "id": row.id}

    site.numbers(20)
    _archive(site)
    assert site.run(Uneven).counts == Counts(paged=20, written=20)
    assert site.rows("SELECT label, count(*) FROM archive GROUP BY 1 ORDER BY 1") == [
        ("by default", 10),
        ("even", 10),
    ]


def test_a_job_may_insert_into_its_own_source_when_its_todo_excludes_the_new_rows(
    site: Worksite,
) -> None:
    class Mirror(Job):
        source = Table("t", where="id > 0", todo="NOT EXISTS (SELECT FROM t m WHERE m.id = -t.id)")
        transform = Sql(id="-id", label="'mirror'")
        target = Insert("t", on_conflict="error")

    site.numbers(50)
    done = site.run(Mirror, options=BY_TEN)
    assert done.state == "succeeded"
    assert done.counts.written == 50
    assert site.value("SELECT count(*) FROM t WHERE label = 'mirror' AND id < 0") == 50


# --- Delete ------------------------------------------------------------------------------------


class Weed(Job):
    """Deletes those for which the transform is truthy."""

    source = Table("t", columns=["id"])
    target = Delete()

    def transform(self, row: Row) -> object:
        return row.id % 3 == 0


def test_a_delete_takes_all_that_matches(site: Worksite) -> None:
    site.numbers(100)
    site.execute("UPDATE t SET n = 1 WHERE id > 60")
    done = site.run(Purge, options=BY_TEN, threads=2)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=60, written=60)
    assert site.rows("SELECT min(id), count(*) FROM t") == [(61, 40)]


def test_a_delete_takes_those_that_its_transform_says_yes_to(site: Worksite) -> None:
    site.numbers(100)
    done = site.run(Weed, options=BY_TEN, threads=2)
    assert done.counts == Counts(paged=100, written=33, unchanged=67)
    assert site.value("SELECT count(*) FROM t WHERE mod(id, 3) = 0") == 0


def test_a_row_that_others_refer_to_is_its_own_error_when_it_is_deleted(site: Worksite) -> None:
    site.numbers(20)
    site.execute("CREATE TABLE child (id bigint REFERENCES t)")
    site.execute("INSERT INTO child VALUES (7)")
    done = site.run(Purge, options=Options(quarantine_share=1.0))
    assert done.counts == Counts(paged=20, written=19, quarantined=1)
    assert [(row.key, row.sqlstate) for row in done.quarantine] == [(("7",), "23503")]
