"""Compares what a run says with what it did: row by row, slice by slice, and who is left behind.

Each check names what is wrong; none of them asks the engine's own code for the truth.
"""

from __future__ import annotations

from backfill.model import RunState
from tests.acceptance.crew import Crew
from tests.chaos.field import LEFT, ODD, REFUSED, SUPPRESSED, Field

#: A transaction of a process that was killed or stopped ends within its idle time-out (5 s) and
#: the look for its client (0.5 s); with some room for a busy machine.
LEFT_BEHIND_SECONDS = 12.0

_SLICES_THAT_DO_NOT_ADD_UP = """
    SELECT number, paged, written, unchanged, skipped, quarantined, suppressed, gone, deferred
    FROM backfill.slice WHERE run = %s AND (
        phase <> 'done' OR holder IS NOT NULL OR deferred <> 0
        OR paged <> written + unchanged + skipped + quarantined + suppressed + gone)
"""
_SLICES_THAT_DO_NOT_TILE = """
    SELECT number FROM (
        SELECT number, "after", lag(upto) OVER (ORDER BY number) AS before FROM backfill.slice
        WHERE run = %s) AS s
    WHERE "after" IS DISTINCT FROM before
"""
_UNDER_AN_OLD_EPOCH = """
    SELECT slice, epoch, name FROM witness
    WHERE run = %s AND name NOT LIKE 'backfill %% ' || slice || '.' || epoch LIMIT 20
"""
_LEFT_BEHIND = """
    SELECT a.pid, a.application_name, a.state, clock_timestamp() - a.xact_start
    FROM pg_stat_activity a JOIN pg_locks l USING (pid)
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND l.granted
    AND l.locktype IN ('relation', 'tuple', 'transactionid', 'advisory')
    AND (a.xact_start IS NULL OR clock_timestamp() - a.xact_start > interval '2 s')
"""


def check_ledger(crew: Crew, run: str) -> None:
    """I2 by the ledger alone: the run succeeded, and its slices tile its keys and add up."""
    assert crew.state(run) is RunState.SUCCEEDED, crew.told()
    assert crew.query(_SLICES_THAT_DO_NOT_ADD_UP, run) == []
    assert crew.query(_SLICES_THAT_DO_NOT_TILE, run) == []
    ((paged, total, slices, placed, done),) = crew.query(
        "SELECT sum(s.paged)::bigint, sum(s.written + s.unchanged + s.skipped + s.quarantined"
        " + s.suppressed + s.gone)::bigint, count(*), max(r.slices), bool_and(r.frontier_done)"
        " FROM backfill.slice s JOIN backfill.run r ON r.id = s.run WHERE s.run = %s",
        run,
    )
    counts = crew.counts(run)
    assert (paged, slices, done) == (total, placed, True)
    assert (counts.paged, counts.total) == (paged, total), "the run's totals are not its slices'"
    assert crew.query("SELECT FROM witness WHERE run = %s LIMIT 1", run), "nobody bore witness"
    check_epochs(crew, run)


def under_old_epochs(crew: Crew, run: str) -> list[tuple[object, ...]]:
    """Batches that were recorded under another epoch than their slice had: slice, epoch, name."""
    return crew.query(_UNDER_AN_OLD_EPOCH, run)


def check_epochs(crew: Crew, run: str) -> None:
    """I3: who has lost a slice commits nothing."""
    assert under_old_epochs(crew, run) == [], "an old holder committed"


def check_nobody_is_left(crew: Crew) -> None:
    """No session holds a lock for longer than a batch may take."""
    crew.wait(
        lambda: not crew.query(_LEFT_BEHIND), "no locks are left", seconds=LEFT_BEHIND_SECONDS
    )


def check_truth(field: Field) -> None:
    """I1 by the rows: each was done once, and the ledger counted what was done."""
    crew, thousands = field.crew, field.rows // 1000
    there = {seq for (seq,) in crew.query("SELECT seq FROM item")}
    deleted = {seq: were for seq, were in field.deletes.items() if seq not in there}
    assert len(there) + len(deleted) == field.rows, "rows vanished that nobody deleted"

    wrong = crew.query(
        "SELECT seq, by_sql, by_python FROM item WHERE"
        f" by_sql <> CASE WHEN seq %% 1000 IN ({REFUSED}, {SUPPRESSED}) THEN 0 ELSE 1 END"
        f" OR by_python <> CASE WHEN seq %% 1000 IN ({ODD}, {LEFT}, {SUPPRESSED}) THEN 0 ELSE 1 END"
        " LIMIT 20"
    )
    assert wrong == [], "rows that were not written exactly once"
    doubled = crew.query("SELECT seq, count(*) FROM copy GROUP BY seq HAVING count(*) > 1 LIMIT 20")
    assert doubled == [], "rows that were copied more than once"
    copied = {seq for (seq,) in crew.query("SELECT seq FROM copy")}
    assert there <= copied, f"rows that were not copied: {list(there - copied)[:20]}"
    assert copied - there <= deleted.keys(), "rows were copied that never were"

    sums = crew.query("SELECT sum(by_sql)::bigint, sum(by_python)::bigint FROM item")[0]
    did = {
        "count_in_sql": sums[0] + sum(were[0] for were in deleted.values()),  # type: ignore[operator]
        "count_in_python": sums[1] + sum(were[1] for were in deleted.values()),  # type: ignore[operator]
        "copy": len(copied),
    }
    others = {
        "count_in_sql": {"quarantined": thousands, "suppressed": thousands},
        "count_in_python": {
            "quarantined": thousands,
            "suppressed": thousands,
            "unchanged": thousands,
        },
        "copy": {},
    }
    for name, run in field.runs.items():
        counts = crew.counts(run)
        told = {key: value for key, value in counts.as_dict().items() if value}
        missed = field.rows - len(deleted) - sum(others[name].values())
        assert counts.written == did[name], f"{name} wrote {did[name]} rows and says {told}"
        assert missed <= counts.written <= missed + len(deleted), f"{name}: {told}"
        assert counts.gone <= len(deleted), f"{name}: {told}, and {len(deleted)} were deleted"
        for outcome in ("unchanged", "skipped", "quarantined", "suppressed"):
            expected = others[name].get(outcome, 0)
            assert getattr(counts, outcome) == expected, f"{name}: {outcome} in {told}"
        assert crew.query(
            "SELECT count(*) FROM backfill.quarantine WHERE run = %s AND accepted", run
        ) == [(others[name].get("quarantined", 0),)]
