"""What the ledger's tables refuse by themselves: arrows, sums, half a lease (I1, I2)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import product

import psycopg
import pytest
from psycopg import sql

from backfill.errors import RefusedError
from backfill.model import LIVE, TRANSITIONS, Counts, PauseCause, RunState, SlicePhase
from backfill.pg.changes import set_state
from backfill.pg.connect import Connection, transaction
from backfill.pg.ledger import Ledger, get_run

OUTCOMES = [name for name in Counts().as_dict() if name != "paged"]


def insert_run(conn: Connection, run: str, state: str = "queued", *, job: str = "") -> None:
    """A run written past the engine; only updates of the state pass the trigger."""
    conn.execute(
        "INSERT INTO backfill.run (id, job, job_version, fingerprint, declaration, params, options,"
        " executor, requested_by, source, state)"
        " VALUES (%s, %s, 1, '', '{}', '{}', '{}', 'local', 'test', '{}', %s)",
        [run, job or run, state],
    )


def insert_slice(conn: Connection, **values: object) -> None:
    """A slice of run `r` with these values, the others as the table gives them."""
    conn.execute(
        sql.SQL(
            "INSERT INTO backfill.slice (run, number, upto, {}) VALUES ('r', 1, '{{9}}', {})"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Placeholder, values)),
        ),
        values,
    )


def test_the_trigger_lets_pass_exactly_the_arrows_of_the_table_in_code(pg: Connection) -> None:
    passed: dict[RunState, set[RunState]] = {state: set() for state in RunState}
    for old, new in product(RunState, RunState):
        run = f"{old}-{new}"
        insert_run(pg, run, old)
        with suppress(psycopg.errors.CheckViolation):
            pg.execute("UPDATE backfill.run SET state = %s WHERE id = %s", [str(new), run])
            if old is not new:
                passed[old].add(new)
    assert passed == {state: set(arrows) for state, arrows in TRANSITIONS.items()}


@pytest.mark.parametrize("old", RunState)
def test_code_and_ledger_refuse_the_same_arrows(
    pg: Connection, ledger: Ledger, old: RunState
) -> None:
    for new in RunState:
        run = f"{old}-{new}"
        insert_run(pg, run, old)
        with transaction(pg):
            locked = get_run(pg, ledger, run, lock=True)
            if new in TRANSITIONS[old]:
                set_state(pg, ledger, locked, new)
            else:
                with pytest.raises(RefusedError, match=f"is {old} and cannot become {new}"):
                    set_state(pg, ledger, locked, new)
        assert get_run(pg, ledger, run).run_state is (new if new in TRANSITIONS[old] else old)


def test_the_trigger_names_the_run_and_both_states(pg: Connection) -> None:
    insert_run(pg, "r", "succeeded")
    with pytest.raises(
        psycopg.errors.CheckViolation, match="run r cannot go from succeeded to running"
    ):
        pg.execute("UPDATE backfill.run SET state = 'running' WHERE id = 'r'")


def test_writing_the_same_state_again_is_no_arrow_and_passes(pg: Connection) -> None:
    insert_run(pg, "r", "succeeded")
    pg.execute("UPDATE backfill.run SET state = 'succeeded' WHERE id = 'r'")


@pytest.mark.parametrize("state", RunState)
def test_a_job_has_one_live_run(pg: Connection, state: RunState) -> None:
    insert_run(pg, "first", state, job="fill")
    if state in LIVE:
        with pytest.raises(psycopg.errors.UniqueViolation, match="run_one_live_per_job"):
            insert_run(pg, "second", "queued", job="fill")
    else:
        insert_run(pg, "second", "queued", job="fill")


@pytest.mark.parametrize(
    ("table", "column", "known"),
    [
        ("run", "state", list(RunState)),
        ("pause", "cause", list(PauseCause)),
        ("slice", "phase", list(SlicePhase)),
    ],
)
def test_the_ledger_knows_the_words_that_code_knows(
    pg: Connection, table: str, column: str, known: list[str]
) -> None:
    found = pg.execute(
        "SELECT (regexp_matches(pg_get_constraintdef(oid), '''([^'']+)''', 'g'))[1]"
        " FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c' AND conname = %s",
        [f"backfill.{table}", f"{table}_{column}_check"],
    ).fetchall()
    assert sorted(word for (word,) in found) == sorted(map(str, known))


def test_a_state_that_nobody_knows_is_refused(pg: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        insert_run(pg, "r", "done")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_key_paged_needs_an_outcome(pg: Connection, outcome: str) -> None:
    insert_run(pg, "r")
    with pytest.raises(psycopg.errors.CheckViolation, match="every_key_has_one_outcome"):
        insert_slice(pg, paged=3, **{outcome: 2})
    with pytest.raises(psycopg.errors.CheckViolation, match="every_key_has_one_outcome"):
        insert_slice(pg, paged=1, **{outcome: 2})
    insert_slice(pg, paged=2, **{outcome: 2})


def test_outcomes_of_all_kinds_add_up_together(pg: Connection) -> None:
    insert_run(pg, "r")
    counts = {name: 10**i for i, name in enumerate(OUTCOMES)}
    with pytest.raises(psycopg.errors.CheckViolation, match="every_key_has_one_outcome"):
        insert_slice(pg, paged=sum(counts.values()) + 1, **counts)
    insert_slice(pg, paged=sum(counts.values()), **counts)


@pytest.mark.parametrize(
    ("values", "is_whole"),
    [
        ({"holder": "a", "lease_until": "now"}, True),
        ({"holder": None, "lease_until": None}, True),
        ({"holder": "a", "lease_until": None}, False),
        ({"holder": None, "lease_until": "now"}, False),
    ],
)
def test_whoever_holds_a_slice_has_a_lease(
    pg: Connection, values: Mapping[str, str | None], is_whole: bool
) -> None:
    insert_run(pg, "r")
    if is_whole:
        insert_slice(pg, **values)
    else:
        with pytest.raises(psycopg.errors.CheckViolation, match="held_means_leased"):
            insert_slice(pg, **values)


@pytest.mark.parametrize("phase", SlicePhase)
def test_only_a_slice_that_is_walked_or_swept_may_have_deferred_rows(
    pg: Connection, phase: SlicePhase
) -> None:
    insert_run(pg, "r")
    values = {"phase": str(phase), "paged": 1, "deferred": 1}
    if phase in {SlicePhase.WALK, SlicePhase.SWEEP}:
        insert_slice(pg, **values)
    else:
        with pytest.raises(psycopg.errors.CheckViolation, match="done_means_nothing_deferred"):
            insert_slice(pg, **values)
