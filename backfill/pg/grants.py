"""The least rights of a role that works on runs, as SQL: on the ledger, on a job's tables.

The rights on the ledger are those that this program's statements need, table by table; a test reads
the statements and compares. Foreign keys within the ledger need none: PostgreSQL checks them as
the owner. Nor do its identity columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from backfill.errors import UsageError
from backfill.pg.connect import Connection

#: Names that GRANT takes for something else than a role, also in quotes.
_NO_ROLES = {"public", "none"}
#: PostgreSQL cuts longer names (NAMEDATALEN - 1), and would grant to another role.
_LONGEST_NAME = 63

#: By table: each right, with the columns that it is needed for; empty: for all.
LEDGER_RIGHTS: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "ledger": {
        "SELECT": (),
        "UPDATE": (
            "reconciler",
            "reconciler_until",
            "stopped_at",
            "stopped_by",
            "stop_reason",
            "sampler",
            "sampler_until",
            "notifier",
            "notifier_until",
        ),
    },
    "run": {"SELECT": (), "INSERT": (), "UPDATE": ()},
    "write_claim": {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()},
    "pause": {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()},
    "slice": {"SELECT": (), "INSERT": (), "UPDATE": ()},
    "deferred": {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()},
    "quarantine": {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()},
    "slot": {"SELECT": (), "INSERT": (), "UPDATE": ()},
    "event": {"SELECT": (), "INSERT": (), "UPDATE": ("noticed",)},
    "worker": {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()},
    "signal": {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()},
    "schedule": {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()},
    "pulse": {"SELECT": (), "INSERT": ()},
    "notice": {"SELECT": (), "INSERT": (), "UPDATE": ()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """A right on a table, a sequence or a schema.

    Attributes:
        on: what it is on, as SQL, such as `public.users` or `SEQUENCE users_id_seq`; quoted.
        columns: that it is needed for; empty: for all.
    """

    privilege: str
    on: str
    columns: tuple[str, ...] = ()


def role_name(text: str) -> sql.Identifier:
    """A role's name, quoted.

    Raises:
        UsageError: GRANT would not take it for the role of that name.
    """
    if not text or "\x00" in text:
        raise UsageError("ROLE is no name", remedy="Name the role that workers connect as.")
    if text.lower() in _NO_ROLES:
        raise UsageError(
            f"{text!r} is no role: GRANT takes it for everybody or nobody",
            remedy="Name the role that workers connect as.",
        )
    if len(text.encode()) > _LONGEST_NAME:
        raise UsageError(
            f"the role's name has {len(text.encode())} bytes; PostgreSQL's have at most"
            f" {_LONGEST_NAME}",
            remedy="Name the role that workers connect as.",
        )
    return sql.Identifier(text)


def ledger_rights(schema: str) -> Iterator[Right]:
    """What is needed on the ledger."""
    quoted = sql.Identifier(schema).as_string(None)
    yield Right(privilege="USAGE", on=f"SCHEMA {quoted}")
    for table, rights in LEDGER_RIGHTS.items():
        for privilege, columns in rights.items():
            yield Right(
                privilege=privilege,
                on=f"{quoted}.{sql.Identifier(table).as_string(None)}",
                columns=tuple(columns),
            )


# Of each pair of a table and a privilege, with a column or without, those that this role lacks.
_MISSING = """
SELECT DISTINCT needed.privilege || ' on ' || needed.relation
  FROM unnest(%(tables)s::text[], %(privileges)s::text[], %(columns)s::text[])
       AS needed (relation, privilege, attribute)
 WHERE NOT CASE WHEN attribute IS NULL
           THEN has_table_privilege(format('%%I.%%I', %(schema)s::text, relation), privilege)
           ELSE has_column_privilege(format('%%I.%%I', %(schema)s::text, relation), attribute,
                                     privilege) END
 ORDER BY 1
"""


def missing_rights(conn: Connection, schema: str) -> list[str]:
    """What this role lacks on an installed ledger, such as `UPDATE on slice`."""
    needed = [
        (table, privilege, column)
        for table, rights in LEDGER_RIGHTS.items()
        for privilege, columns in rights.items()
        for column in (columns or (None,))
    ]
    found = conn.execute(
        _MISSING,
        {
            "schema": schema,
            "tables": [table for table, _, _ in needed],
            "privileges": [privilege for _, privilege, _ in needed],
            "columns": [column for _, _, column in needed],
        },
    )
    return [told for (told,) in found]


def grants(rights: Iterable[Right], role: sql.Identifier) -> Iterator[str]:
    """The rights as statements, one for each thing that they are on; none twice."""
    told: dict[str, list[str]] = {}
    for right in rights:
        columns = (
            ""
            if not right.columns
            else f" ({', '.join(sql.Identifier(c).as_string(None) for c in right.columns)})"
        )
        listed = told.setdefault(right.on, [])
        if (text := f"{right.privilege}{columns}") not in listed:
            listed.append(text)
    for on, listed in told.items():
        yield f"GRANT {', '.join(listed)} ON {on} TO {role.as_string(None)};"


def default_rights(schema: str, *, owner: sql.Identifier, role: sql.Identifier) -> str:
    """What lets the role use the tables that the ledger's owner will add in upgrades."""
    return (
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner.as_string(None)}"
        f" IN SCHEMA {sql.Identifier(schema).as_string(None)}"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role.as_string(None)};"
    )


def remark(text: str) -> str:
    """A comment of one line, whatever the text holds."""
    return "-- " + " ".join(text.split())
