"""Rows that cannot be processed: they alone go into quarantine, and the others are written.

I1, I2: a quarantined key is recorded in the transaction of the rows around it, and counted once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest

from backfill.checkpoint import CALL_SECONDS, Checkpoint
from backfill.engine import lifecycle
from backfill.errors import Quarantine
from backfill.job import Insert, Job, Options, Row, Sql, Table, Update
from backfill.pg import slices
from tests.engine.factory import Outcome, Worksite

#: Every table of these tests: `raw` is what the job reads, `word` and `amount` what it writes.
TABLE = """
CREATE TABLE parcel (
    id bigint PRIMARY KEY, raw text NOT NULL DEFAULT '12',
    word varchar(8), amount int CHECK (amount >= 0))
"""
SOURCE = Table("parcel", columns=["raw"], todo="word IS NULL")

#: How often a transform was called with a row: (id, raw).
CALLS: Counter[tuple[int, str]] = Counter()
_LOCK = threading.Lock()


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    CALLS.clear()


def _count(rows: Iterable[Row]) -> None:
    with _LOCK:
        CALLS.update((row.id, row.raw) for row in rows)


def _values(row: Row) -> dict[str, object]:
    """What the row's `raw` says, right or wrong."""
    match row.raw:
        case "refuse":
            raise Quarantine("the parcel has no address")
        case "raise":
            raise ValueError("a plain mistake")
        case "negative":
            return {"word": "x", "amount": -1}
        case "long":
            return {"word": "far too long", "amount": 1}
        case "letters":
            return {"word": "x", "amount": "letters"}
        case "object":
            return {"word": "x", "amount": object()}
        case raw:
            return {"word": raw, "amount": int(raw)}


class Weigh(Job):
    source = SOURCE
    target = Update("word", "amount")

    def transform(self, row: Row) -> dict[str, object]:
        _count([row])
        return _values(row)


class WeighTogether(Job):
    """A batch with a row that raises is refused as a whole, by the transform itself."""

    source = SOURCE
    target = Update("word", "amount")

    def transform_batch(self, rows: Sequence[Row]) -> list[dict[str, object]]:
        _count(rows)
        return [_values(row) for row in rows]


class WeighInSql(Job):
    source = SOURCE
    transform = Sql(
        word="CASE WHEN raw = 'long' THEN 'far too long' ELSE 'x' END",
        amount="CASE raw WHEN 'negative' THEN -1 WHEN 'long' THEN 1"
        " WHEN 'zero' THEN 1 / (length(raw) - 4) ELSE raw::int END",
    )
    target = Update()


#: raw → (SQLSTATE, a part of the reason)
REASONS: dict[str, tuple[str | None, str]] = {
    "refuse": (None, "the parcel has no address"),
    "raise": (None, "ValueError: a plain mistake"),
    "negative": ("23514", "check constraint"),
    "long": ("22001", "too long"),
    "letters": ("22P02", "invalid input syntax"),
    "object": (None, "type object cannot be written"),
    "zero": ("22012", "division by zero"),
}


def _poison(site: Worksite, *, rows: int, bad: dict[int, str]) -> None:
    site.execute(TABLE)
    site.execute("INSERT INTO parcel (id) SELECT generate_series(1, %s)", rows)
    for key, raw in bad.items():
        site.execute("UPDATE parcel SET raw = %s WHERE id = %s", raw, key)
    site.execute("ANALYZE parcel")


def _check_quarantine(outcome: Outcome, bad: dict[int, str]) -> None:
    """Exactly the bad rows, each with its own reason."""
    assert {row.key: row.sqlstate for row in outcome.quarantine} == {
        (str(key),): REASONS[raw][0] for key, raw in bad.items()
    }
    for row in outcome.quarantine:
        assert REASONS[bad[int(row.key[0])]][1] in row.message


def _spread(kinds: Sequence[str], *, count: int, first: int, step: int) -> dict[int, str]:
    return {first + step * i: kinds[i % len(kinds)] for i in range(count)}


@pytest.mark.parametrize(
    ("job", "kinds"),
    [
        (Weigh, ["refuse", "negative", "long", "raise", "letters", "object"]),
        (WeighTogether, ["refuse", "negative", "long", "raise", "letters", "object"]),
        (WeighInSql, ["negative", "long", "letters", "zero"]),
    ],
)
def test_of_50000_rows_exactly_the_25_bad_ones_are_in_quarantine_each_with_its_reason(
    site: Worksite, job: type[Job], kinds: list[str]
) -> None:
    """I2, and a Python transform sees no unchanged row twice on the way."""
    bad = _spread(kinds, count=25, first=1_500, step=1_900)
    _poison(site, rows=50_000, bad=bad)
    paused = site.run(job, threads=2)

    assert paused.state == "paused"
    assert paused.why_paused.startswith("quarantine: 25 rows")
    _check_quarantine(paused, bad)
    assert (paused.counts.written, paused.counts.quarantined) == (49_975, 25)
    assert site.value("SELECT count(*) FROM parcel WHERE word IS NOT NULL") == 49_975
    if job is Weigh:
        assert len(CALLS) == 50_000
        assert set(CALLS.values()) == {1}

    # mended, taken again, done
    site.execute("UPDATE parcel SET raw = '7' WHERE word IS NULL")
    released = lifecycle.release_quarantine(site.conn, site.ledger, paused.run.id, by="the test")
    assert released == 25
    done = site.work(job, paused.run, threads=2)
    assert done.state == "succeeded"
    assert (done.counts.written, done.counts.paged) == (50_000, 50_000)
    assert done.quarantine == []
    assert site.value("SELECT count(*) FROM parcel WHERE amount = 7") == 25
    if job is Weigh:
        assert set(CALLS.values()) == {1}


@pytest.mark.parametrize("job", [Weigh, WeighTogether])
def test_values_once_computed_are_not_computed_again_when_the_write_is_refused(
    site: Worksite, job: type[Job]
) -> None:
    """Not even by transform_batch, which is called again only when it raised itself."""
    bad = _spread(["negative", "long"], count=6, first=3, step=13)
    _poison(site, rows=100, bad=bad)
    options = Options(batch_rows=64, quarantine_share=1.0)
    paused = site.run(job, options=options)
    _check_quarantine(paused, bad)
    assert len(CALLS) == 100
    assert set(CALLS.values()) == {1}


def test_a_batch_that_its_transform_refuses_is_halved_until_the_bad_row_is_alone(
    site: Worksite,
) -> None:
    bad = {50: "raise"}
    _poison(site, rows=64, bad=bad)
    paused = site.run(WeighTogether, options=Options(batch_rows=64))
    _check_quarantine(paused, bad)
    # once as a part of each half, quarter, … down to itself
    assert CALLS[50, "raise"] == 7
    assert max(count for (key, _), count in CALLS.items() if key <= 32) == 2


def test_accepting_the_quarantine_ends_the_run_and_leaves_the_rows_as_they_are(
    site: Worksite,
) -> None:
    bad = {5: "refuse", 60: "negative"}
    _poison(site, rows=100, bad=bad)
    paused = site.run(Weigh, options=Options(quarantine_share=1.0))
    assert paused.state == "paused"
    assert lifecycle.accept_quarantine(site.conn, site.ledger, paused.run.id, by="Ada") == 2
    done = site.work(Weigh, paused.run)
    assert done.state == "succeeded"
    assert [row.accepted for row in done.quarantine] == [True, True]
    assert done.counts.quarantined == 2
    accepted = done.event("rows.accepted")
    assert (accepted.caused_by, accepted.detail) == ("Ada", {"rows": 2})
    assert site.rows("SELECT id FROM parcel WHERE word IS NULL ORDER BY id") == [(5,), (60,)]


def test_rows_that_are_still_bad_when_they_are_taken_again_go_back_into_quarantine(
    site: Worksite,
) -> None:
    bad = {5: "refuse", 60: "negative", 61: "long"}
    _poison(site, rows=100, bad=bad)
    options = Options(quarantine_share=1.0)
    paused = site.run(Weigh, options=options)
    site.execute("UPDATE parcel SET raw = '7' WHERE id = 60")
    lifecycle.release_quarantine(site.conn, site.ledger, paused.run.id, by="the test")
    again = site.work(Weigh, paused.run)
    assert again.state == "paused"
    _check_quarantine(again, {5: "refuse", 61: "long"})
    assert (again.counts.written, again.counts.quarantined, again.counts.paged) == (98, 2, 100)


def test_the_checkpoint_sees_that_rows_were_taken_out_of_the_quarantine(
    site: Worksite, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: their slice was done, and its counts went back; the copy follows the ledger."""
    monkeypatch.setattr("backfill.checkpoint.SLOW_SECONDS", CALL_SECONDS)  # machines may be busy
    _poison(site, rows=10, bad={3: "raise"})
    paused = site.run(Weigh)
    assert (paused.state, paused.by_phase["done"]) == ("paused", 1)
    checkpoint = Checkpoint(redis_url, site.ledger.id)
    run = paused.run.id
    checkpoint.rebuild(run, slices.all_counts(site.conn, site.ledger, run))
    lifecycle.release_quarantine(site.conn, site.ledger, run, by="the test")
    checkpoint.rebuild(run, slices.all_counts(site.conn, site.ledger, run))
    seen = checkpoint.read(run)
    checkpoint.close()
    assert seen is not None
    assert seen.counts == site.outcome(paused.run).counts
    assert (seen.counts.quarantined, seen.counts.deferred) == (0, 1)


def test_more_rows_in_quarantine_than_allowed_stop_the_run_at_once(site: Worksite) -> None:
    bad = _spread(["refuse", "negative"], count=10, first=10, step=10)
    _poison(site, rows=100, bad=bad)
    options = Options(batch_rows=5, quarantine_rows=3, quarantine_share=1.0)
    paused = site.run(Weigh, options=options)
    assert paused.state == "paused"
    assert paused.why_paused.startswith("quarantine: 4 of 40 rows paged")
    assert paused.counts.paged == 40
    lifecycle.accept_quarantine(site.conn, site.ledger, paused.run.id, by="the test")
    again = site.work(Weigh, paused.run)
    assert again.why_paused.startswith("quarantine: 4 of 80 rows paged")
    lifecycle.accept_quarantine(site.conn, site.ledger, paused.run.id, by="the test")
    assert site.work(Weigh, paused.run).counts.written == 90


def test_a_greater_share_of_the_rows_than_allowed_stops_the_run_once_it_means_something(
    site: Worksite,
) -> None:
    """Of the first few rows any share may be bad; from a thousand on it counts."""
    bad = _spread(["refuse"], count=40, first=50, step=50)
    _poison(site, rows=2_000, bad=bad)
    options = Options(batch_rows=100, quarantine_rows=1_000, quarantine_share=0.019)
    paused = site.run(Weigh, options=options)
    assert paused.why_paused.startswith("quarantine: 20 of 1000 rows paged")
    assert "1.9%" in paused.why_paused


@pytest.mark.parametrize("job", [Weigh, WeighTogether, WeighInSql])
def test_a_bad_row_that_was_deferred_is_found_by_the_sweep(site: Worksite, job: type[Job]) -> None:
    bad = {4: "negative", 6: "long"}
    _poison(site, rows=20, bad=bad)
    run = site.begun(job, options=Options(quarantine_share=1.0))
    with site.session() as other:
        other.execute("SELECT FROM parcel WHERE id BETWEEN 3 AND 8 FOR UPDATE")
        with site.crew(job, run):
            assert site.until_state(run, "sweeping").counts.deferred == 6
            other.commit()
    paused = site.outcome(run)
    assert paused.state == "paused"
    _check_quarantine(paused, bad)
    assert (paused.counts.written, paused.counts.deferred) == (18, 0)


def test_a_trigger_that_raises_is_about_its_row(site: Worksite) -> None:
    """P0001 on write."""
    _poison(site, rows=50, bad={})
    site.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.id = 33 THEN RAISE 'parcel % is sealed', NEW.id; END IF;"
        " RETURN NEW; END $$"
    )
    site.execute(
        "CREATE TRIGGER guard BEFORE UPDATE ON parcel FOR EACH ROW EXECUTE FUNCTION guard()"
    )
    paused = site.run(WeighInSql)
    (row,) = paused.quarantine
    assert (row.key, row.sqlstate, row.message) == (("33",), "P0001", "parcel 33 is sealed")
    assert paused.counts.written == 49


def test_a_constraint_that_is_deferred_is_checked_with_its_row_and_not_in_commit(
    site: Worksite,
) -> None:
    """I5: in COMMIT it would fail outside every time-out, and name no row."""
    _poison(site, rows=20, bad={})
    site.execute("CREATE TABLE box (amount int PRIMARY KEY)")
    site.execute("INSERT INTO box VALUES (12)")
    site.execute(
        "ALTER TABLE parcel ADD FOREIGN KEY (amount) REFERENCES box DEFERRABLE INITIALLY DEFERRED"
    )
    site.execute("UPDATE parcel SET raw = '13' WHERE id = 8")
    paused = site.run(WeighInSql)
    assert [(row.key, row.sqlstate) for row in paused.quarantine] == [(("8",), "23503")]
    assert paused.counts.written == 19


class Ship(Job):
    source = Table("parcel", columns=["raw"])
    target = Insert("shipment", on_conflict="error")

    def transform(self, row: Row) -> dict[str, object]:
        return {"parcel": row.id, "code": row.raw}


def test_an_insert_that_conflicts_is_its_rows_error(site: Worksite) -> None:
    _poison(site, rows=20, bad={7: "taken"})
    site.execute("CREATE TABLE shipment (parcel bigint PRIMARY KEY, code text)")
    site.execute("CREATE UNIQUE INDEX ON shipment (code) WHERE code = 'taken'")
    site.execute("INSERT INTO shipment VALUES (100, 'taken'), (3, 'early')")
    paused = site.run(Ship, options=Options(quarantine_share=1.0))
    assert {row.key: row.sqlstate for row in paused.quarantine} == {
        ("3",): "23505",
        ("7",): "23505",
    }
    assert paused.counts.written == 18
