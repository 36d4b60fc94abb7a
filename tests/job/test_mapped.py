"""Models of Django and classes of SQLAlchemy as tables, with the libraries themselves.

What each library would write into its own SQL is what backfill must mean.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from django.db import models
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backfill import Insert, Query, Table
from backfill.errors import DeclarationError
from backfill.job.mapped import TableLike
from tests import django_setup  # noqa: F401 - before models are declared


def model(name: str, base: Any = models.Model, **meta: object) -> Any:
    options = type("Meta", (), {"app_label": "shop", **meta})
    return type(name, (base,), {"__module__": __name__, "Meta": options})


ORDER = model("Order")
DJANGO = {
    ORDER: "shop_order",
    model("Renamed", db_table="orders"): "orders",
    model("Reserved", db_table="order"): "order",
    model("Capital", db_table="Orders"): '"Orders"',
    model("Spaced", db_table="odd %s {} name"): '"odd %s {} name"',
    model("Schema", db_table='"my schema"."Orders"'): '"my schema"."Orders"',
    model("Trick", db_table='app"."orders'): '"app"."orders"',
    model("Proxy", ORDER, proxy=True): "shop_order",
    model("Child", ORDER): "shop_child",
    model("Unmanaged", managed=False, db_table="legacy"): "legacy",
}


@pytest.mark.parametrize(("model", "name"), DJANGO.items(), ids=DJANGO.values())
def test_a_django_model_is_its_table(model: Any, name: str) -> None:
    from django.db.backends.postgresql.operations import DatabaseOperations

    assert Table(model).table == name
    # Django's own quoting, where it quotes what needs none
    quoted = DatabaseOperations(None).quote_name(model._meta.db_table)
    assert quoted.replace('"', "") == name.replace('"', "")
    assert quoted in {name, f'"{name}"'}


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Capital(Base):
    __tablename__ = 'Odd "%s" Name'
    __table_args__ = {"schema": "My.Schema"}
    id: Mapped[int] = mapped_column(primary_key=True)


class Manager(User):
    """Of single-table inheritance: its rows are in its parent's table."""


TABLES = sa.MetaData(schema="app")
SQLALCHEMY: dict[str, TableLike] = {
    "users": User,
    '"My.Schema"."Odd ""%s"" Name"': Capital,
    "app.orders": sa.Table("orders", TABLES, sa.Column("id", sa.Integer, primary_key=True)),
    '"CamelCase"': sa.table("CamelCase"),
    "app.order": sa.Table("order", TABLES),
    "Folded": sa.table(sa.sql.quoted_name("Folded", quote=False)),
}


@pytest.mark.parametrize(("name", "table"), SQLALCHEMY.items(), ids=list(SQLALCHEMY))
def test_an_sqlalchemy_class_or_table_is_its_table(name: str, table: TableLike) -> None:
    assert Table(table).table == name
    mapped: Any = getattr(table, "__table__", table)
    preparer: Any = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
    written = preparer.format_table(mapped)
    # psycopg's paramstyle doubles each %; what needs no quotes may have them
    assert written.replace("%%", "%").replace('"order"', "order") == name


def test_a_class_of_single_table_inheritance_is_the_whole_table() -> None:
    assert Table(Manager).table == "users"


def test_all_that_name_a_table_take_them() -> None:
    assert Insert(User, on_conflict="skip").table == "users"
    assert Query("TABLE users", key="id", table=ORDER).table == "shop_order"


untyped_table: Callable[..., Table] = Table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (model("Abstract", abstract=True), "the model Abstract is abstract"),
        (ORDER(), "the table is an instance of the model Order"),
        (Base, "the class Base is mapped to no table"),
        (User(), "the table is of type User"),
        (sa.select(User).subquery("users"), "the table is of type Subquery"),
        (User.__table__.alias("u"), "the table is of type Alias"),
        (sa.MetaData(), "the table is of type MetaData"),
        (model("TooMuch", db_table='a"."b"."c'), "no table's name for PostgreSQL"),
    ],
)
def test_what_has_no_table_is_refused(table: object, message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as refused:
        untyped_table(table)
    assert "Table(" in refused.value.remedy or "inherits from it" in refused.value.remedy


def test_neither_library_is_imported() -> None:
    code = (
        "import sys, backfill; backfill.Table('a');"
        " print(*{'django', 'sqlalchemy'} & {*sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "\n"
