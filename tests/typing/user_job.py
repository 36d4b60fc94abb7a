"""Jobs as users write them, under a strict configuration of their own."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal

import psycopg
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backfill import (
    BatchInfo,
    Bounds,
    Call,
    Delete,
    Insert,
    Job,
    Options,
    Param,
    Quarantine,
    Query,
    RetryLater,
    Row,
    RunInfo,
    Sql,
    Table,
    Update,
    key_of,
)
from backfill.testing import Outcome, interrupt, run


class FillDeparture(Job):
    """Every flight's departure."""

    name = "fill_departure"
    version = 2
    source = Table("flights", key=["year", "id"], columns=["hour"], where="year >= %(since)s")
    target = Update("departs_at")
    options = Options(rate="20000/s", window="22:00-06:00 Europe/Berlin", batch_rows=500)
    retry_on = (TimeoutError,)
    since = Param(int, default=2013, help="first year")
    until = Param(date)
    token = Param(str, secret=True, env="GEOCODER_KEY")

    def setup(self, conn: psycopg.Connection) -> None:
        self.zones: dict[str, str] = dict(
            conn.execute("SELECT faa, tzone FROM airports").fetchall()
        )

    def transform(self, row: Row) -> Mapping[str, object] | None:
        if row.hour is None:
            raise Quarantine("no hour")
        if row["hour"] == 24:
            raise RetryLater("midnight", seconds=1.5)
        first_year: int = self.since
        last_day: date = self.until
        key: tuple[object, ...] = key_of(row)
        return {"departs_at": first_year + last_day.year, "key": key, "token": self.token.strip()}

    def before_run(self, run: RunInfo) -> None:
        print(run.id, self.run.database)

    def after_batch(self, batch: BatchInfo) -> None:
        print(batch.counts.written, batch.seconds)


class LowerEmail(Job):
    source = Table("users", todo="email_lower IS NULL")
    transform = Sql(email_lower="lower(email)")
    target = Update()


class SplitNames(Job):
    source = Table("users")
    target = Insert("names", on_conflict="skip", conflict=["user_id", "position"])

    def transform(self, row: Row) -> Iterator[Mapping[str, object]]:
        for position, name in enumerate(row.names):
            yield {"user_id": row.id, "position": position, "name": name}


class Discount(Job):
    source = Query("SELECT id, note FROM orders", key="id", table="orders", todo="note IS NULL")
    transform = Sql(note="'none'")
    target = Update()


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)


class CopyAccounts(Job):
    source = Table(Account, todo="copied IS NULL")
    target = Insert(sqlalchemy.table("copies"), on_conflict="skip")


class UsersJob(Job, abstract=True):
    source = Table("users")
    share = Param(Decimal, default=Decimal("0.5"))


class Score(UsersJob):
    target = Update("score")

    def transform_batch(self, rows: Sequence[Row]) -> Sequence[Mapping[str, object] | None]:
        return [{"score": row.points * self.share} for row in rows]


class DropLeft(UsersJob):
    target = Delete()

    def transform(self, row: Row) -> bool:
        return bool(row.left_at)


class Announce(UsersJob):
    target = Call()
    options = Options(lock="optimistic")

    def transform(self, row: Row) -> None:
        print(row.id)


first_year_param: Param[int] = FillDeparture.since


def test_the_score(url: str) -> None:
    done: Outcome = run(Discount, url, bounds=Bounds(from_key=3, limit=2))
    assert [row["id"] for row in done.rows] == [3, 4]
    assert interrupt(Discount, url, at="before COMMIT").counts.written == 2
