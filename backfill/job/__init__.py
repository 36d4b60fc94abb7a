"""What a user declares, and what the engine reads of it.

`declaration_of` turns a class into a value, `bind` makes the job that works for a run, `load`
finds a project's jobs. The names for users are those of the package `backfill` itself.
"""

from backfill.job.anatomy import Kind
from backfill.job.bounds import Bounds
from backfill.job.declaration import Declaration, bind, declaration_of
from backfill.job.fragment import sql_fragment
from backfill.job.job import Job
from backfill.job.options import Options
from backfill.job.param import Param
from backfill.job.registry import Registry, load
from backfill.job.row import Row, RowFactory, key_of
from backfill.job.source import Query, Source, Table
from backfill.job.target import Call, Delete, Insert, OnConflict, Target, Update
from backfill.job.transform import Sql

__all__ = [
    "Bounds",
    "Call",
    "Declaration",
    "Delete",
    "Insert",
    "Job",
    "Kind",
    "OnConflict",
    "Options",
    "Param",
    "Query",
    "Registry",
    "Row",
    "RowFactory",
    "Source",
    "Sql",
    "Table",
    "Target",
    "Update",
    "bind",
    "declaration_of",
    "key_of",
    "load",
    "sql_fragment",
]
