"""What a storm rages over: a table, three jobs that show every row done twice or not at all, truth.

None of the jobs has a todo, and none is idempotent: only the ledger knows what has been done. The
tables tell afterwards, row by row, how often it was. Rows of all outcomes are among them, and an
application holds and deletes rows meanwhile.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from backfill.model import RunState
from backfill.pg.connect import Connection
from tests.acceptance.crew import Crew

KEYS = {
    "bigint": ("id bigint PRIMARY KEY", "i"),
    "uuid": ("id uuid PRIMARY KEY", "gen_random_uuid()"),
    "composite": ("region text, number int, PRIMARY KEY (region, number)", "'r' || i % 7, i"),
}
JOBS = """
options = Options(
    batch_rows=200, slice_rows={slice_rows}, concurrency=3, rate="{rate}/s",
    quarantine_rows=100_000, quarantine_share=1.0,
)

class CountInSql(Job):
    source = Table("item")
    transform = Sql(by_sql="by_sql + 1")
    target = Update()
    options = options

class CountInPython(Job):
    source = Table("item", columns=["seq", "by_python"])
    target = Update("by_python")
    options = options

    def transform(self, row):
        if row.seq % 1000 == 7:
            raise Quarantine("an odd one")
        if row.seq % 1000 == 8:
            return None
        return {{"by_python": row.by_python + 1}}

class Copy(Job):
    source = Table("item", columns=["seq"])
    target = Insert("copy", on_conflict="error", columns=["seq"])
    options = options
"""
NAMES = ("count_in_sql", "count_in_python", "copy")
#: In each thousand rows: one that a CHECK refuses to the job in SQL, so that it is halved out; one
#: that the Python refuses, one that it leaves as it is; one whose update a trigger suppresses.
REFUSED, ODD, LEFT, SUPPRESSED = 6, 7, 8, 9
#: Rows from this one of each thousand on may be held and deleted by the application.
ORDINARY = 20


#: A batch names to the server (`application_name`) the epoch under which its holder took the slice;
#: the ledger's row has the epoch of who holds it now. Where a batch is recorded the two are one, or
#: an old holder has committed: also when every row comes out right, which its lock sees to.
WITNESS = """
CREATE TABLE IF NOT EXISTS witness (run text, slice int, epoch bigint, name text);
CREATE OR REPLACE FUNCTION bear_witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.witness
    VALUES (NEW.run, NEW.number, NEW.epoch, current_setting('application_name'));
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER bear_witness AFTER UPDATE OF batch_rows ON backfill.slice FOR EACH ROW
EXECUTE FUNCTION bear_witness();
"""


@dataclass(slots=True)
class Field:
    """A table of `rows` rows (a multiple of 1,000), its three runs, and who deletes from it.

    Attributes:
        deletes: by seq, how the rows were (by_sql, by_python) that the application meant to delete
            last; whether it did, the table says.
    """

    crew: Crew
    rows: int
    runs: dict[str, str] = field(default_factory=dict)
    deletes: dict[int, tuple[int, int]] = field(default_factory=dict)
    _holder: Connection | None = None

    def make(self, key: str, *, rate: int) -> None:
        """Make the tables anew, and enqueue the runs."""
        definition, values = KEYS[key]
        conn = self.crew.conn
        self.deletes.clear()
        conn.execute("DROP TABLE IF EXISTS item, copy")
        conn.execute(
            f"CREATE TABLE item ({definition}, seq int NOT NULL, by_sql int NOT NULL DEFAULT 0"
            f" CHECK (seq % 1000 <> {REFUSED} OR by_sql = 0),"
            " by_python int NOT NULL DEFAULT 0)".encode()
        )
        conn.execute(
            f"INSERT INTO item SELECT {values}, i FROM generate_series(1, {self.rows}) i".encode()
        )
        conn.execute("CREATE INDEX ON item (seq)")
        conn.execute("CREATE TABLE copy (seq int NOT NULL)")
        conn.execute(
            "CREATE OR REPLACE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END'"
        )
        conn.execute(
            "CREATE TRIGGER suppress BEFORE UPDATE ON item FOR EACH ROW"
            f" WHEN (old.seq % 1000 = {SUPPRESSED}) EXECUTE FUNCTION suppress()".encode()
        )
        conn.execute("ANALYZE item")
        conn.execute(WITNESS.encode())
        self.crew.write_jobs(JOBS.format(rate=rate, slice_rows=max(1_000, self.rows // 8)))
        self.runs = {name: self.crew.enqueue(name) for name in NAMES}

    @property
    def is_worked_on(self) -> bool:
        """A run is still to be disturbed."""
        return any(
            self.crew.state(run).is_live and self.crew.state(run) is not RunState.PAUSED
            for run in self.runs.values()
        )

    @property
    def settled(self) -> int:
        """Keys of all three runs whose outcome is final."""
        return sum(self.crew.counts(run).settled for run in self.runs.values())

    # -- the application --------------------------------------------------------------------

    def hold_rows(self, chance: random.Random) -> None:
        """Lock some rows until `let_rows_go`."""
        self.let_rows_go()
        first = chance.randrange(self.rows // 1000) * 1000 + chance.randrange(ORDINARY, 980)
        holder = psycopg.connect(
            self.crew.environ["BACKFILL_DATABASE_URL"], application_name="the application"
        )
        try:
            # an application waits for locks, too; never for longer than a batch
            holder.execute("SET LOCAL lock_timeout = '2s'")
            holder.execute(
                "SELECT FROM item WHERE seq BETWEEN %s AND %s ORDER BY seq FOR UPDATE",
                [first, first + 19],
            )
            going = holder.execute(
                "DELETE FROM item WHERE seq BETWEEN %s AND %s RETURNING seq, by_sql, by_python",
                [first, first + 2],
            ).fetchall()
        except psycopg.OperationalError:
            holder.close()
            return
        self.deletes.update({seq: (by_sql, by_python) for seq, by_sql, by_python in going})
        self._holder = holder

    def let_rows_go(self) -> None:
        """Commit the deletes, and let the others go."""
        if self._holder is not None:
            # its backend was ended; by way of a pooler psycopg finds two errors for one COMMIT then
            with suppress(psycopg.OperationalError, psycopg.InternalError):
                self._holder.commit()
            self._holder.close()
            self._holder = None
