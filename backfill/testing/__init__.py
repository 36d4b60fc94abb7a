"""For your own tests: run a job on a database of the test, whole, or killed at every batch.

    from backfill.testing import interrupt, run

    def test_every_address_is_folded(url):          # a database with committed tables
        done = run(LowerEmail, url)
        assert [row["email_lower"] for row in done.rows] == ["ada@x.org", "bob@x.org"]
        assert done.counts.written == 2

    def test_a_dying_worker_changes_nothing(url):
        interrupt(LowerEmail, url)

It is the real engine, without Redis, with a ledger of its own in that database, which is gone
afterwards. See docs/how-to/test-your-job.md.
"""

from backfill.testing.interruption import At, interrupt
from backfill.testing.site import NotFinishedError, Outcome, Quarantined
from backfill.testing.whole import run

__all__ = ["At", "NotFinishedError", "Outcome", "Quarantined", "interrupt", "run"]
