"""Who publishes: the process that has the sampler's lease, and what it knows goes with it."""

from __future__ import annotations

from backfill.engine import lifecycle
from backfill.pg import samples
from backfill.worker.publishing import _Publishing
from tests.acceptance.crew import Crew


def test_a_run_that_ended_under_anothers_lease_is_not_ended_again(crew: Crew) -> None:
    """A second last pulse, hours late, would stretch the run's chart by those hours."""
    run = crew.enqueue("count")
    conn, ledger = crew.desk.conn, crew.desk.ledger
    project = crew.project
    publishers = {name: _Publishing(project, "default", name=name) for name in ("a", "b")}

    def rounds(leader: str) -> None:
        crew.conn.execute("UPDATE backfill.ledger SET sampler_until = '-infinity'")
        assert samples.take_lease(conn, ledger, by=leader, seconds=60)
        for publisher in publishers.values():
            publisher.round(crew.desk)

    rounds("a")
    rounds("b")
    lifecycle.cancel(conn, ledger, run, reason="enough", by="a person")
    rounds("b")
    pulses = crew.query("SELECT state FROM backfill.pulse ORDER BY at")
    assert pulses[-1] == ("cancelled",)
    rounds("a")
    assert crew.query("SELECT state FROM backfill.pulse ORDER BY at") == pulses
    for publisher in publishers.values():
        publisher.end(None)
