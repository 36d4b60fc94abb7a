"""What an Insert must not do with its own source's rows: take them again, or lose them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from backfill import Insert, Job, Options, Query, Sql, Table
from backfill.errors import BackfillError
from tests.engine.factory import Worksite

TINY = Options(batch_rows=5, slice_rows=10, concurrency=1)

PARTS = """
CREATE TABLE whole (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE middle PARTITION OF whole FOR VALUES FROM (0) TO (50) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF middle FOR VALUES FROM (0) TO (10);
CREATE TABLE high PARTITION OF whole FOR VALUES FROM (50) TO (99);
INSERT INTO whole SELECT i, 'v' FROM generate_series(0, 9) AS i;
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE kid (PRIMARY KEY (id)) INHERITS (parent);
INSERT INTO kid SELECT i, 'v' FROM generate_series(1, 12) AS i;
CREATE TABLE plain (id int PRIMARY KEY, v text);
INSERT INTO plain SELECT i, 'v' FROM generate_series(1, 12) AS i;
CREATE VIEW seen AS SELECT * FROM plain;
CREATE VIEW seen_twice AS SELECT * FROM seen;
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE VIEW missing AS
    SELECT * FROM plain p WHERE NOT EXISTS (SELECT FROM other o WHERE o.id = p.id);
"""


def copying(source: str, target: str, *, move: bool = False, **more: Any) -> type[Job]:
    parts: dict[str, object] = {
        "source": Table(source, key="id", **more),
        "target": Insert(
            target, on_conflict="update", conflict=["id"], columns=["id", "v"], delete_source=move
        ),
        "options": TINY,
    }
    return type("Take", (Job,), parts)


SAME = [
    ("low", "whole"),
    ("low", "middle"),
    ("whole", "low"),
    ("parent", "kid"),
    ("plain", "seen"),
    ("plain", "seen_twice"),
    ("plain", "public.plain"),
]


@pytest.mark.parametrize(("source", "target"), SAME)
@pytest.mark.parametrize("move", [True, False])
def test_rows_that_would_be_the_sources_own_are_not_inserted(
    site: Worksite, source: str, target: str, move: bool
) -> None:
    site.execute(PARTS)
    told = "it moves the rows of" if move else "its own source"
    with pytest.raises(BackfillError, match=re.escape(f"{told} public.{source} ")):
        site.enqueue(copying(source, target, move=move))


@pytest.mark.parametrize(
    ("source", "target"), [("kid", "parent"), ("low", "other"), ("plain", "other")]
)
def test_rows_are_moved_to_another_table(site: Worksite, source: str, target: str) -> None:
    """Also from a child to its parent: an insert into the parent stays there."""
    site.execute(PARTS)
    rows = site.rows(f"SELECT id FROM ONLY {source} ORDER BY id")
    done = site.run(copying(source, target, move=True))
    assert (done.state, done.counts.written) == ("succeeded", len(rows))
    assert site.rows(f"SELECT id FROM ONLY {target} ORDER BY id") == rows
    assert site.value(f"SELECT count(*) FROM ONLY {source}") == 0


def test_what_is_missing_is_inserted_though_the_view_reads_the_target(site: Worksite) -> None:
    site.execute(PARTS)
    done = site.run(copying("missing", "other"))
    assert (done.state, site.value("SELECT count(*) FROM other")) == ("succeeded", 12)


def test_a_todo_that_excludes_them_lets_a_table_grow_by_its_own_rows(site: Worksite) -> None:
    site.execute(PARTS)
    job = type(
        "Take",
        (Job,),
        {
            "source": Table("low", key="id", todo="v = 'v'"),
            "transform": Sql(id="id + 50", v="'new'"),
            "target": Insert("whole", on_conflict="skip"),
        },
    )
    done = site.run(job)
    assert site.rows("SELECT v, count(*) FROM whole GROUP BY v ORDER BY v") == [
        ("new", 10),
        ("v", 10),
    ]
    assert (done.state, done.counts.written) == ("succeeded", 10)


CASCADES = {
    "from the target": "CREATE TABLE gone (id int PRIMARY KEY REFERENCES users ON DELETE CASCADE)",
    "within the source": "ALTER TABLE users ADD parent int REFERENCES users ON DELETE CASCADE;"
    " CREATE TABLE gone (id int PRIMARY KEY)",
    "by another table": "CREATE TABLE x (id int PRIMARY KEY REFERENCES users ON DELETE CASCADE);"
    " CREATE TABLE gone (id int PRIMARY KEY REFERENCES x ON DELETE CASCADE)",
    "from a partition": "CREATE TABLE gone (id int PRIMARY KEY) PARTITION BY RANGE (id);"
    " CREATE TABLE gone_1 PARTITION OF gone FOR VALUES FROM (0) TO (99);"
    " ALTER TABLE gone_1 ADD FOREIGN KEY (id) REFERENCES users ON DELETE CASCADE",
}


def moving_users() -> type[Job]:
    parts = {
        "source": Table("users"),
        "target": Insert("gone", on_conflict="error", columns=["id"], delete_source=True),
    }
    return type("Retire", (Job,), parts)


@pytest.mark.parametrize("how", CASCADES)
def test_a_move_whose_deletion_would_take_others_with_it_is_refused(
    site: Worksite, how: str
) -> None:
    site.execute("CREATE TABLE users (id int PRIMARY KEY)")
    site.execute(CASCADES[how])
    with pytest.raises(BackfillError, match="deletes rows that are not to go, by the foreign key"):
        site.enqueue(moving_users())


def test_a_move_may_take_what_only_belongs_to_the_moved_rows_with_it(site: Worksite) -> None:
    site.execute("CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1), (2)")
    site.execute("CREATE TABLE gone (id int PRIMARY KEY)")
    site.execute("CREATE TABLE visit (id int REFERENCES users ON DELETE CASCADE)")
    site.execute("INSERT INTO visit VALUES (1)")
    done = site.run(moving_users())
    assert (done.state, site.rows("TABLE gone ORDER BY 1")) == ("succeeded", [(1,), (2,)])
    assert site.rows("TABLE visit") == []


@pytest.mark.parametrize(
    "expression",
    [
        "unnest(string_to_array(v, ','))",
        "count(*)::text",
        "max(v)",
        "row_number() OVER (ORDER BY id)::text",
    ],
)
@pytest.mark.parametrize("source", ["plain", "seen", "the query"])
def test_what_does_not_give_one_value_for_each_row_is_not_inserted(
    site: Worksite, expression: str, source: str
) -> None:
    site.execute(PARTS)
    is_query = source == "the query"
    job = type(
        "Take",
        (Job,),
        {
            "source": Query("TABLE plain", key="id") if is_query else Table(source, key="id"),
            "transform": Sql(id="id", v=expression),
            "target": Insert("other", on_conflict="skip"),
        },
    )
    with pytest.raises(BackfillError, match="an expression does not give one value for each row"):
        site.enqueue(job)


def test_a_sub_select_may_aggregate(site: Worksite) -> None:
    site.execute(PARTS)
    job = type(
        "Take",
        (Job,),
        {
            "source": Table("plain"),
            "transform": Sql(
                id="id", v="(SELECT count(*)::text FROM kid WHERE kid.id <= plain.id)"
            ),
            "target": Insert("other", on_conflict="error"),
        },
    )
    assert site.run(job).counts.written == 12
    assert site.rows("SELECT v FROM other WHERE id = 7") == [("7",)]
