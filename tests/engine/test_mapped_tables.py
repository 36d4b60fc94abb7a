"""Jobs over a Django model and an SQLAlchemy class, on the tables that these libraries make."""

from __future__ import annotations

import sqlalchemy as sa
from django.db import connection, models
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backfill.job import Job, Sql, Table, Update
from backfill.model import Counts
from tests import django_setup  # noqa: F401 - before models are declared
from tests.engine.factory import Worksite


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "Odd %s {} Orders"
    __table_args__ = {"schema": "My.App"}
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


class Book(models.Model):  # type: ignore[misc]  # Django ships no types
    n = models.IntegerField()

    class Meta:
        app_label = "library"
        db_table = '"My.App"."Odd Books"'


def test_an_sqlalchemy_class_is_the_table_that_it_creates(site: Worksite) -> None:
    site.execute('CREATE SCHEMA "My.App"')
    engine = sa.create_engine(site.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        connection.execute(sa.insert(Order), [{"id": i, "n": 0} for i in range(1, 13)])
    engine.dispose()
    _increments(site, Order, '"My.App"."Odd %s {} Orders"')


def test_a_django_model_is_the_table_that_it_creates(site: Worksite) -> None:
    site.execute('CREATE SCHEMA "My.App"')
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        editor.create_model(Book)
    for statement in editor.collected_sql:
        site.execute(statement)
    site.execute('INSERT INTO "My.App"."Odd Books" (n) SELECT 0 FROM generate_series(1, 12)')
    _increments(site, Book, '"My.App"."Odd Books"')


def _increments(site: Worksite, table: type, name: str) -> None:
    parts: dict[str, object] = {
        "source": Table(table),
        "transform": Sql(n="n + 1"),
        "target": Update(),
    }
    done = site.run(type("Increment", (Job,), parts))
    assert (done.state, done.counts) == ("succeeded", Counts(paged=12, written=12))
    assert site.rows(
        f"SELECT DISTINCT n FROM {name}",
    ) == [(1,)]
