"""A project that counts items by text keys, some of which go into quarantine."""

from __future__ import annotations

from collections.abc import Iterable

from tests.acceptance.crew import Crew

JOB = '''
class Count(Job):
    """Count each item once."""
    source = Table("item", columns=["n"])
    target = Update("n")
    options = Options(batch_rows=20, slice_rows=100, concurrency=2, quarantine_share=1.0)

    def transform(self, row):
        if row.n < 0:
            raise Quarantine(f"{row.id} is negative")
        return {"n": row.n + 1}
'''


def arrange(crew: Crew, good: Iterable[str], bad: Iterable[str], *, jobs: str = "") -> None:
    """Make the table and the job.

    Args:
        good: keys of items that are counted from 0 to 1.
        bad: keys of items that are negative.
        jobs: more of them.
    """
    crew.conn.execute('CREATE TABLE item (id text COLLATE "C" PRIMARY KEY, n int NOT NULL)')
    crew.conn.execute(
        "INSERT INTO item SELECT unnest(%s::text[]), 0 UNION ALL SELECT unnest(%s::text[]), -1",
        [list(good), list(bad)],
    )
    crew.conn.execute("ANALYZE item")
    crew.write_jobs(JOB + jobs)
