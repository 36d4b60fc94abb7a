"""A query as the source: keys of its table are locked, then it is read again for exactly these.

So joins are seen as they are when the row is written, and no statement computes the query as a
whole.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

import pytest

from backfill.engine import page
from backfill.errors import BackfillError, DeclarationError, ProjectError
from backfill.job import Call, Delete, Insert, Job, Options, Param, Query, Row, Sql, Table, Update
from backfill.model import Counts
from tests.engine.factory import Worksite, until

TINY = Options(batch_rows=3, slice_rows=8, concurrency=1)
TOTALS = """
SELECT o.id, o.total, c.name AS customer, c.discount
  FROM orders o JOIN customers c ON c.id = o.customer
 WHERE c.discount >= %(least)s
"""


@pytest.fixture
def shop(site: Worksite) -> Worksite:
    """20 orders of 4 customers; customer 4 has no discount, 2 and 4 of 5 orders are odd."""
    site.execute(
        """
        CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, discount int NOT NULL);
        CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL REFERENCES customers,
            total int NOT NULL DEFAULT 100, n int NOT NULL DEFAULT 0, note text);
        INSERT INTO customers SELECT i, 'c' || i, (4 - i) * 10 FROM generate_series(1, 4) i;
        INSERT INTO orders (id, customer) SELECT i, 1 + i % 4 FROM generate_series(1, 20) i;
        """
    )
    return site


ORDERS = Query(TOTALS, key="id", table="orders", todo="total = 100")


class Discount(Job):
    """PostgreSQL computes, from columns of the join."""

    source = ORDERS
    transform = Sql(total="total - discount", note="customer || '!'", n="100 - total + 1")
    target = Update()
    least = Param(int, default=1)


class DiscountInPython(Job):
    source = ORDERS
    target = Update("total", "note", "n")
    least = Param(int, default=1)

    def transform(self, row: Row) -> dict[str, object]:
        assert set(row) == {"id", "total", "customer", "discount"}
        return {"total": row.total - row.discount, "note": f"{row.customer}!", "n": 1}


@pytest.mark.parametrize("job", [Discount, DiscountInPython])
def test_an_update_writes_the_table_from_the_joins_columns(shop: Worksite, job: type[Job]) -> None:
    done = shop.run(job, options=TINY)
    assert (done.state, done.quarantine) == ("succeeded", [])
    assert done.counts == Counts(paged=15, written=15)
    expected = [
        (i, 100 - (3 - i % 4) * 10, f"c{1 + i % 4}!", 1) if i % 4 != 3 else (i, 100, None, 0)
        for i in range(1, 21)
    ]
    assert shop.rows("SELECT id, total, note, n FROM orders ORDER BY id") == expected


class Mark(Job):
    """A query that groups: nothing of it can be locked by itself."""

    source = Query(
        "SELECT customer AS id, sum(total) AS total, min(id) AS first FROM orders"
        " GROUP BY customer HAVING sum(total) > 100",
        key="id",
        table="customers",
    )
    target = Update("name")

    def transform(self, row: Row) -> dict[str, object]:
        return {"name": f"{row.total} since {row.first}"}


def test_a_query_that_groups_is_never_computed_as_a_whole(shop: Worksite) -> None:
    shop.execute("CREATE INDEX ON orders (customer)")
    done = shop.run(Mark, options=TINY)
    assert done.counts == Counts(paged=4, written=4)
    assert shop.rows("SELECT name FROM customers ORDER BY id") == [
        ("500 since 4",),
        ("500 since 1",),
        ("500 since 2",),
        ("500 since 3",),
    ]


@pytest.mark.parametrize("in_python", [False, True])
def test_delete_takes_the_rows_of_the_table(shop: Worksite, in_python: bool) -> None:
    parts: dict[str, object] = {
        "source": Query(TOTALS, key="id", table="orders"),
        "target": Delete(),
        "least": Param(int, default=20),
    }
    if in_python:
        parts["transform"] = lambda self, row: row.discount == 30
    done = shop.run(type("Purge", (Job,), parts), options=TINY)
    gone = Counts(paged=10, written=5, unchanged=5) if in_python else Counts(paged=10, written=10)
    assert (done.state, done.counts) == ("succeeded", gone)
    assert shop.value("SELECT count(*) FROM orders") == (15 if in_python else 10)


@pytest.mark.parametrize("transform", [None, Sql(id="id", who="upper(customer)")])
def test_insert_copies_what_the_query_gives(shop: Worksite, transform: Sql | None) -> None:
    shop.execute("CREATE TABLE billed (id bigint PRIMARY KEY, customer text, who text)")
    parts: dict[str, object] = {
        "source": Query(TOTALS, key="id", table="orders"),
        "target": Insert("billed", on_conflict="skip"),
        "least": Param(int, default=1),
    }
    if transform is not None:
        parts["transform"] = transform
    done = shop.run(type("Bill", (Job,), parts), options=TINY)
    assert (done.state, done.counts) == ("succeeded", Counts(paged=15, written=15))
    who = "upper(c.name)" if transform else "NULL"
    customer = "NULL" if transform else "c.name"
    assert shop.rows("SELECT * FROM billed ORDER BY id") == shop.rows(
        f"SELECT o.id, {customer}, {who} FROM orders o JOIN customers c ON c.id = customer"
        " WHERE c.id < 4 ORDER BY o.id"
    )


@pytest.mark.parametrize("job", [Discount, DiscountInPython])
def test_a_row_that_was_held_is_written_with_what_the_join_says_after_the_wait(
    shop: Worksite, job: type[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locking join would return the other table's old values. What left the query is gone."""
    monkeypatch.setattr(page, "PATIENT_TRIES", 0)  # the sweep waits for the row at once
    run = shop.begun(job, options=replace(TINY, lock_timeout_seconds=0.9))
    with shop.session() as other:
        other.execute("UPDATE orders SET note = 'held' WHERE id = 2")
        other.execute("UPDATE customers SET discount = 5 WHERE id = 3")
        other.execute("UPDATE orders SET customer = 4 WHERE id = 9")
        with shop.crew(job, run):
            until(
                lambda: shop.rows(
                    "SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted"
                    " AND a.datname = current_database()"
                ),
                what="the sweep to wait for the row",
            )
            other.commit()
    done = shop.outcome(run)
    assert (done.state, done.counts) == ("succeeded", Counts(paged=15, written=14, gone=1))
    assert shop.rows("SELECT total, n FROM orders WHERE id IN (2, 6, 9) ORDER BY id") == [
        (95, 1),
        (90, 1),
        (100, 0),
    ]


@pytest.mark.parametrize("in_python", [False, True])
def test_a_row_that_fails_is_found_and_the_others_are_written(
    shop: Worksite, in_python: bool
) -> None:
    shop.execute("UPDATE orders SET n = 0; UPDATE orders SET n = 1 WHERE id <> 7")
    parts: dict[str, object] = {
        "source": Query(
            "SELECT id, total / 2 AS half, n, note FROM orders",
            key="id",
            table="orders",
            todo="note IS NULL",
        ),
        "target": Update("note"),
        "transform": (lambda self, row: {"note": str(row.half // row.n)})
        if in_python
        else Sql(note="half / n"),
    }
    done = shop.run(type("Halve", (Job,), parts), options=TINY)
    assert done.counts == Counts(paged=20, written=19, quarantined=1)
    assert [row.key for row in done.quarantine] == [("7",)]
    assert shop.rows("SELECT note, count(*) FROM orders GROUP BY 1") == [(None, 1), ("50", 19)]


@pytest.mark.parametrize("in_python", [False, True])
def test_a_key_that_the_query_gives_twice_stops_the_run(shop: Worksite, in_python: bool) -> None:
    parts: dict[str, object] = {
        "source": Query(
            "SELECT o.id, c.name FROM orders o JOIN customers c ON c.id IN (o.customer, o.id)",
            key="id",
            table="orders",
        ),
        "target": Update("note"),
        "transform": (lambda self, row: {"note": row.name}) if in_python else Sql(note="name"),
    }
    done = shop.run(type("Twice", (Job,), parts), options=TINY)
    assert "the query gives two rows of one key; a row of public.orders" in done.why_paused
    assert "can be given once only" in done.why_paused
    assert shop.value("SELECT count(note) FROM orders") == 0


class Announce(Job):
    """Calls for each customer with orders, of whom all is known when it is called."""

    source = Query(
        "SELECT c.id, c.name, count(*) AS orders FROM customers c"
        " JOIN orders o ON o.customer = c.id OR c.id = -1 WHERE c.id < 4 GROUP BY c.id",
        key="id",
        table="customers",
    )
    target = Call()
    told: ClassVar[list[tuple[int, str, int]]] = []

    def transform(self, row: Row) -> None:
        self.told.append((row.id, row.name, row.orders))


def test_a_call_is_given_the_rows_of_the_query(shop: Worksite) -> None:
    Announce.told.clear()
    done = shop.run(Announce, options=Options(batch_rows=2, slice_rows=3, concurrency=1))
    assert (done.state, done.counts) == ("succeeded", Counts(paged=3, written=3))
    assert Announce.told == [(1, "c1", 5), (2, "c2", 5), (3, "c3", 5)]


def test_a_call_for_a_key_that_the_query_gives_twice_is_refused(shop: Worksite) -> None:
    """The second row may lie behind the page's end, where the cursor passes it."""
    told: list[int] = []
    for rows in (1, 3):
        parts: dict[str, object] = {
            "source": Query(
                "SELECT c.id FROM customers c, generate_series(1, 2) i WHERE c.id = 4 OR i = 1",
                key="id",
                table="customers",
            ),
            "target": Call(),
            "transform": lambda self, row: told.append(row.id),
        }
        options = Options(batch_rows=rows, slice_rows=10, concurrency=1)
        done = shop.run(type(f"Twice{rows}", (Job,), parts), options=options)
        assert "two rows have the same key (id); for example (4)" in done.why_paused
        shop.execute("DELETE FROM backfill.run")
    assert set(told) == {1, 2, 3}


@pytest.mark.parametrize("transform", [None, Sql(id="id", customer="upper(customer)")])
def test_rows_of_the_table_are_moved_with_what_the_query_says(
    shop: Worksite, transform: Sql | None
) -> None:
    shop.execute("CREATE TABLE archive (id bigint PRIMARY KEY, customer text)")
    parts: dict[str, object] = {
        "source": Query(TOTALS, key="id", table="orders"),
        "target": Insert("archive", on_conflict="error", delete_source=True),
        "least": Param(int, default=1),
    }
    if transform is not None:
        parts["transform"] = transform
    done = shop.run(type("Archive", (Job,), parts), options=TINY)
    assert (done.state, done.counts) == ("succeeded", Counts(paged=15, written=15))
    assert shop.value("SELECT count(*) FROM orders") == 5
    assert shop.value("SELECT min(customer) FROM archive") == ("C1" if transform else "c1")


def test_a_view_is_named_in_a_query_with_its_table(shop: Worksite) -> None:
    shop.execute('CREATE VIEW "Odd %s View" AS SELECT id, n FROM orders WHERE id % 2 = 0')
    job = type(
        "Even",
        (Job,),
        {
            "source": Query('TABLE "Odd %s View"', key="id", table="orders", todo="n % 2 = 0"),
            "transform": Sql(n="n + 1"),
            "target": Update(),
        },
    )
    done = shop.run(job, options=TINY)
    assert (done.state, done.counts) == ("succeeded", Counts(paged=10, written=10))
    assert shop.value("SELECT count(*) FROM orders WHERE n = (id + 1) % 2") == 20


def _of(source: Query | Table, target: object = None) -> type[Job]:
    parts: dict[str, object] = {"source": source, "target": target or Update("n")}
    if target is None:
        parts["transform"] = lambda self, row: {"n": 1}
    return type("Fill", (Job,), parts)


@pytest.mark.parametrize(
    ("query", "kind", "message", "remedy"),
    [
        (
            ("SELECT idd FROM orders", "id"),
            ProjectError,
            'column "idd" does not exist',
            "orders.id",
        ),
        (("SELECT id FROM order", "id"), ProjectError, "syntax error", "Correct it"),
        (("SELECT total FROM orders", "id"), ProjectError, "no column 'id'", "are total"),
        (("SELECT id, 1 AS id FROM orders", "id"), DeclarationError, "two columns", "Name them"),
        (("SELECT id, 1 AS code FROM orders", "code"), ProjectError, "no column 'code'", "columns"),
        (("SELECT id::text FROM orders", "id"), ProjectError, "operator does not exist", "cast"),
        (("SELECT id, note FROM orders", "note"), DeclarationError, "may be NULL", "NOT NULL"),
    ],
)
def test_what_postgresql_cannot_run_is_refused_before_the_run(
    shop: Worksite, query: tuple[str, str], kind: type[BackfillError], message: str, remedy: str
) -> None:
    sql, key = query
    with pytest.raises(kind, match=re.escape(message)) as refused:
        shop.enqueue(_of(Query(sql, key=key, table="orders")))
    assert refused.value.message.startswith("Fill.source: ")
    assert remedy in refused.value.remedy


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_as_a_table_is_told_the_right_form(shop: Worksite, kind: str) -> None:
    shop.execute(f"CREATE {kind} v AS SELECT * FROM orders")
    with pytest.raises(DeclarationError) as refused:
        shop.enqueue(_of(Table("v", key="id")))
    assert 'Query("SELECT * FROM public.v", key="…", table="…")' in refused.value.remedy
