"""Which rows an Insert meets: by constants, by generated columns, by all that it writes."""

from __future__ import annotations

from typing import Any

import pytest

from backfill import Insert, Job, Options, Row, Sql, Table
from backfill.errors import BackfillError
from tests.engine.factory import Worksite

TINY = Options(batch_rows=5, slice_rows=10, concurrency=1)


def taking(target: Insert, **parts: Any) -> type[Job]:
    return type("Take", (Job,), {"source": Table("s"), "target": target, "options": TINY, **parts})


@pytest.fixture
def shop(site: Worksite) -> Worksite:
    site.execute("CREATE TABLE s (id int PRIMARY KEY, name text)")
    site.execute("INSERT INTO s SELECT i, 'Name ' || i FROM generate_series(1, 12) AS i")
    return site


@pytest.mark.parametrize("transform", [None, Sql(id="id"), lambda self, row: {"id": row.id}])
def test_a_row_whose_columns_all_are_the_conflicts_is_moved_where_it_is_there_already(
    shop: Worksite, transform: Any
) -> None:
    shop.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 6)")
    target = Insert("t", on_conflict="update", delete_source=True)
    done = shop.run(taking(target, **({} if transform is None else {"transform": transform})))
    assert (done.state, done.counts.written, done.counts.suppressed) == ("succeeded", 12, 0)
    assert shop.value("SELECT count(*) FROM s") == 0
    assert shop.value("SELECT count(*) FROM t") == 12


def test_an_equal_value_is_the_sources_when_it_is_updated(shop: Worksite) -> None:
    shop.execute("CREATE TABLE t (price numeric PRIMARY KEY); INSERT INTO t VALUES (3.00)")
    job = taking(Insert("t", on_conflict="update"), transform=Sql(price="id::numeric"))
    assert shop.run(job).counts.written == 12
    assert shop.rows("SELECT price::text FROM t WHERE price = 3") == [("3",)]


@pytest.mark.parametrize("constant", ["'7'", "7", "1", "NULL", "-1", "'user'"])
def test_a_constant_may_be_one_of_the_conflicts_columns(shop: Worksite, constant: str) -> None:
    shop.execute("CREATE TABLE t (tenant text, id int, UNIQUE NULLS NOT DISTINCT (tenant, id))")
    target = Insert("t", on_conflict="skip", conflict=["tenant", "id"])
    done = shop.run(taking(target, transform=Sql(tenant=f"{constant}", id="id")))
    assert (done.state, done.counts.written) == ("succeeded", 12)
    assert shop.value("SELECT count(*) FROM t") == 12


@pytest.mark.parametrize(("how", "named"), [("skip", None), ("update", None), ("skip", ["id"])])
def test_a_conflict_by_a_deferrable_constraint_is_refused_before_the_run(
    shop: Worksite, how: Any, named: list[str] | None
) -> None:
    shop.execute("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, name text UNIQUE)")
    with pytest.raises(BackfillError, match=r"t_pkey of public\.t is DEFERRABLE"):
        shop.run(taking(Insert("t", on_conflict=how, conflict=named)))
    done = shop.run(taking(Insert("t", on_conflict="update", conflict=["name"])))
    assert (done.state, done.counts.written) == ("succeeded", 12)


def lower(self: Job, row: Row) -> dict[str, object]:
    return {"name": row.name}


@pytest.mark.parametrize("transform", [Sql(name="name"), lower])
def test_a_generated_column_may_be_the_conflicts(shop: Worksite, transform: Any) -> None:
    shop.execute(
        "CREATE TABLE t (name text, low text GENERATED ALWAYS AS (lower(name)) STORED UNIQUE)"
    )
    shop.execute("INSERT INTO t VALUES ('NAME 3')")
    target = Insert("t", on_conflict="skip", conflict=["low"])
    done = shop.run(taking(target, transform=transform))
    assert (done.state, done.counts.written) == ("succeeded", 11)
    assert shop.value("SELECT count(*) FROM t") == 12


@pytest.mark.parametrize(("returned", "told"), [({1: 2}, "the columns 1;"), ({}, "(none)")])
def test_columns_that_are_no_names_pause_the_run_and_are_told(
    shop: Worksite, returned: dict[Any, Any], told: str
) -> None:
    shop.execute("CREATE TABLE t (id int)")
    done = shop.run(taking(Insert("t", on_conflict="error"), transform=lambda self, row: returned))
    assert done.state == "paused"
    assert told in done.why_paused


WIDE = """
CREATE TABLE t (id int PRIMARY KEY, name text);
CREATE INDEX ON t (name);
CREATE FUNCTION strict() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = 5 THEN RAISE EXCEPTION 'no' USING ERRCODE = 'MY001'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER strict BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION strict();
"""


def test_a_row_that_an_index_or_a_trigger_refuses_is_found_and_the_others_are_written(
    shop: Worksite,
) -> None:
    """A value too long for its index, and a RAISE under a code of its own."""
    shop.execute(WIDE)
    shop.execute(
        "UPDATE s SET name = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i)"
        " WHERE id = 3"
    )
    done = shop.run(taking(Insert("t", on_conflict="error")))
    assert done.counts.quarantined == 2
    assert shop.rows("SELECT key, sqlstate FROM backfill.quarantine ORDER BY 1") == [
        (["3"], "54000"),
        (["5"], "MY001"),
    ]
    assert shop.value("SELECT count(*) FROM t") == 10
