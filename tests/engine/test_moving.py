"""`Insert(delete_source=True)`: every row is in exactly one of the two tables, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backfill.engine.checks.subject import examine
from backfill.errors import DeclarationError, RefusedError
from backfill.job import Delete, Insert, Job, Options, Query, Row, Sql, Table
from backfill.job.declaration import declaration_of
from backfill.model import Counts
from tests.engine.factory import Worksite
from tests.engine.strikes import POINTS, Blow, Strike, work_through

BY_TEN = Options(batch_rows=10, slice_rows=40)
UNLOCKED = Options(batch_rows=10, slice_rows=40, lock="optimistic")


class Archive(Job):
    source = Table("t", where="mod(id, 2) = 0")
    target = Insert("archive", on_conflict="error", delete_source=True)


class ArchiveInSql(Job):
    source = Table("t", where="mod(id, 2) = 0")
    transform = Sql(id="id", label="'was ' || n")
    target = Insert("archive", on_conflict="update", delete_source=True)


class ArchiveQuery(Job):
    source = Query("SELECT id, label FROM t WHERE mod(id, 2) = 0", key="id", table="t")
    target = Insert("archive", on_conflict="error", columns=["id", "label"], delete_source=True)


class Split(Job):
    """Row 6 stays where it is, row 8 cannot be written."""

    source = Table("t", columns=["n"], where="mod(id, 2) = 0")
    target = Insert("parts", on_conflict="error", columns=["id", "part"], delete_source=True)

    def transform(self, row: Row) -> Iterator[dict[str, object]]:
        if row.id == 6:
            return
        yield {"id": row.id, "part": 1}
        yield {"id": row.id, "part": object() if row.id == 8 else 2}


@pytest.fixture
def moving(site: Worksite) -> Worksite:
    """A hundred rows, and where they are to be moved to."""
    site.numbers(100)
    site.execute("CREATE TABLE archive (LIKE t INCLUDING ALL)")
    site.execute("CREATE TABLE parts (id bigint, part int, PRIMARY KEY (id, part))")
    return site


def _each_is_in_one(site: Worksite) -> bool:
    both = "SELECT count(*), count(DISTINCT id) FROM (TABLE t UNION ALL TABLE archive) AS both_"
    return site.rows(both) == [(100, 100)]


@pytest.mark.parametrize("job", [Archive, ArchiveInSql, ArchiveQuery])
def test_rows_are_moved(moving: Worksite, job: type[Job]) -> None:
    done = moving.run(job, options=BY_TEN, threads=2)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=50, written=50)
    assert moving.value("SELECT bool_and(mod(id, 2) = 1) FROM t")
    assert _each_is_in_one(moving)


def test_what_is_there_already_stays_in_the_source_too(moving: Worksite) -> None:
    moving.execute("INSERT INTO archive (id, label) VALUES (10, 'early')")
    done = moving.run(Archive, options=BY_TEN)
    assert done.counts == Counts(paged=50, written=49, quarantined=1)
    assert moving.rows("SELECT id FROM t WHERE mod(id, 2) = 0") == [(10,)]
    assert moving.value("SELECT label FROM archive WHERE id = 10") == "early"


@pytest.mark.parametrize("options", [BY_TEN, UNLOCKED])
def test_one_row_into_several_is_moved_as_a_whole_or_not_at_all(
    moving: Worksite, options: Options
) -> None:
    moving.execute("INSERT INTO parts VALUES (20, 2)")
    done = moving.run(Split, options=options)
    assert done.counts == Counts(paged=50, written=47, unchanged=1, quarantined=2)
    assert {row.key for row in done.quarantine} == {("8",), ("20",)}
    assert moving.value("SELECT array_agg(id ORDER BY id) FROM t WHERE mod(id, 2) = 0") == [
        6,
        8,
        20,
    ]
    assert moving.rows("SELECT id, count(*) FROM parts GROUP BY 1 HAVING count(*) <> 2") == [
        (20, 1)
    ]


_SUPPRESS = """
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RETURN CASE WHEN coalesce(NEW.id, OLD.id) = 12 {} THEN NULL
                     ELSE coalesce(NEW, OLD) END; END $$
"""


@pytest.mark.parametrize(
    ("job", "table", "event", "more"),
    [
        (Archive, "archive", "INSERT", ""),
        (Archive, "t", "DELETE", ""),
        (Split, "parts", "INSERT", "AND NEW.part = 2"),
    ],
)
def test_a_row_that_a_trigger_keeps_back_stays_where_it_was(
    moving: Worksite, job: type[Job], table: str, event: str, more: str
) -> None:
    """Deleting what was not inserted would lose it; inserting what stays would double it."""
    moving.execute(_SUPPRESS.format(more))
    moving.execute(
        f"CREATE TRIGGER keep BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION suppress()"
    )
    done = moving.run(job, options=BY_TEN)
    assert done.counts.suppressed == 1
    assert moving.value("SELECT count(*) FROM t WHERE id = 12") == 1
    assert (
        moving.value(
            "SELECT (SELECT count(*) FROM archive WHERE id = 12)"
            " + (SELECT count(*) FROM parts WHERE id = 12)"
        )
        == 0
    )


def test_a_row_that_others_refer_to_is_not_moved(moving: Worksite) -> None:
    moving.execute("CREATE TABLE child (t_id bigint REFERENCES t)")
    moving.execute("INSERT INTO child VALUES (14)")
    done = moving.run(Archive, options=BY_TEN)
    assert done.counts == Counts(paged=50, written=49, quarantined=1)
    assert done.quarantine[0].sqlstate == "23503"
    assert _each_is_in_one(moving)


@pytest.mark.parametrize("job", [Archive, Split])
def test_a_lost_connection_anywhere_moves_no_row_twice_and_loses_none(
    moving: Worksite, job: type[Job]
) -> None:
    """I1: insert, delete and the cursor are one transaction."""
    run = moving.enqueue(job, options=BY_TEN)
    blows: list[Blow] = ["cut", "vanish", "terminate", "cut", "lose the reply"]
    points = [*POINTS, "after COMMIT"]
    strikes = [Strike(point, 1, blow) for point, blow in zip(points, blows, strict=True)]
    done = work_through(moving, job, run, threads=1, strikes=strikes)
    if job is Archive:
        assert done.counts == Counts(paged=50, written=50)
        assert _each_is_in_one(moving)
    else:
        assert done.counts == Counts(paged=50, written=48, unchanged=1, quarantined=1)
        assert moving.value("SELECT count(*) FROM parts") == 96


def test_what_cannot_be_moved_is_refused(moving: Worksite) -> None:
    with pytest.raises(DeclarationError, match="delete_source=True with on_conflict='skip'"):
        Insert("archive", on_conflict="skip", delete_source=True)
    with pytest.raises(DeclarationError, match="Itself: Insert moves rows from t into itself"):

        class Itself(Job):
            source = Table("t", todo="n = 0")
            target = Insert("t", on_conflict="error", delete_source=True)

    with pytest.raises(DeclarationError, match=r"Nowhere: delete_source=True deletes rows of a"):

        class Nowhere(Job):
            source = Query("SELECT 1 AS id", key="id")
            target = Insert("archive", on_conflict="error", delete_source=True)

    class ItselfInDisguise(Job):
        source = Table("t", todo="n = 0")
        target = Insert("public.t", on_conflict="error", delete_source=True)

    with pytest.raises(RefusedError, match=r"it moves the rows of public\.t into itself"):
        moving.enqueue(ItselfInDisguise)

    class Purge(Job):
        source = Table("t")
        target = Delete()

    run = moving.enqueue(Purge)
    with pytest.raises(RefusedError, match=rf"run {run.id} is live and writes the same rows of"):
        moving.enqueue(Archive)


def test_the_right_to_delete_is_needed(moving: Worksite) -> None:
    moving.execute("CREATE ROLE mover")
    moving.execute("GRANT SELECT, UPDATE ON t TO mover; GRANT INSERT ON archive TO mover")
    try:
        moving.execute("SET ROLE mover")
        _, found = examine(moving.conn, declaration_of(Archive), arguments={})
    finally:
        moving.execute("RESET ROLE")
        moving.execute("DROP OWNED BY mover; DROP ROLE mover")
    assert [(f.name, f.message) for f in found.findings] == [
        ("not-permitted", "Archive.target: permission denied for table t")
    ]
