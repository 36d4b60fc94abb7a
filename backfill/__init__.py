"""Batched backfills for PostgreSQL under live traffic: nothing lost, nothing done twice.

    from backfill import Job, Sql, Table, Update

    class LowerEmail(Job):
        source = Table("users", todo="email_lower IS NULL")
        transform = Sql(email_lower="lower(email)")
        target = Update()

Importing this package loads no driver, no broker and no terminal library: a job's module can be
imported anywhere. `enqueue` and `run` load theirs when they are first used.
"""

from typing import TYPE_CHECKING

from backfill.errors import Quarantine, RetryLater
from backfill.job import (
    Bounds,
    Call,
    Delete,
    Insert,
    Job,
    Options,
    Param,
    Query,
    Row,
    Source,
    Sql,
    Table,
    Target,
    Update,
    key_of,
)
from backfill.model import BatchInfo, RunInfo

if TYPE_CHECKING:
    from backfill.entry import enqueue, run

    __version__: str

__all__ = [
    "BatchInfo",
    "Bounds",
    "Call",
    "Delete",
    "Insert",
    "Job",
    "Options",
    "Param",
    "Quarantine",
    "Query",
    "RetryLater",
    "Row",
    "RunInfo",
    "Source",
    "Sql",
    "Table",
    "Target",
    "Update",
    "__version__",
    "enqueue",
    "key_of",
    "run",
]


# hidden from type checkers, to which it would make every misspelt name an attribute
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in {"enqueue", "run"}:
            from backfill import entry

            return getattr(entry, name)
        if name == "__version__":
            from importlib.metadata import version

            return version("backfill")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
