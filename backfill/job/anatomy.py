"""The parts of a job's class: what each is called, how it is written, how it is read.

Parts are read as they are declared, and no descriptor is asked: a class can be looked at before
it is known to be right.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal

from backfill.job.param import Param
from backfill.job.transform import Sql

Kind = Literal["sql", "row", "batch", "none"]

#: What a job's name may be: it is part of run ids, file names and URLs.
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

#: The right form of each part, for errors' remedies.
RIGHT_FORM = {
    "name": 'name = "fill_departure"',
    "version": "version = 2",
    "source": 'source = Table("users", todo="email_lower IS NULL")',
    "target": 'target = Update("email_lower")',
    "options": 'options = Options(rate="5000/s")',
    "retry_on": "retry_on = (TimeoutError,)",
    "transform": 'def transform(self, row): ... or transform = Sql(email_lower="lower(email)")',
    "transform_batch": "def transform_batch(self, rows): ...",
    "setup": "def setup(self, conn): ...",
    "teardown": "def teardown(self): ...",
    "before_run": "def before_run(self, run): ...",
    "after_batch": "def after_batch(self, batch): ...",
    "after_run": "def after_run(self, run): ...",
    "__init__": "def __init__(self): ..., or better def setup(self, conn): ...",
}

#: A whole job, where a part is missing.
RIGHT_JOB = """Right:
    class LowerEmail(Job):
        source = Table("users", todo="email_lower IS NULL")
        transform = Sql(email_lower="lower(email)")
        target = Update()"""

RIGHT_BASE = """A base for other jobs says so:
    class UsersJob(Job, abstract=True): ..."""

#: The two names of a transform; the kind of `transform` is told by its value.
TRANSFORMS = ("transform", "transform_batch")

#: How many arguments the engine passes, self aside, by the name of what it calls.
ARGUMENTS = {
    "transform": 1,
    "transform_batch": 1,
    "setup": 1,
    "teardown": 0,
    "before_run": 1,
    "after_batch": 1,
    "after_run": 1,
    "__init__": 0,
}

#: The names that mean something in a job's class; a parameter cannot have them.
OWN_NAMES = frozenset(RIGHT_FORM) | {"run"}


def snake_case(class_name: str) -> str:
    """A class's name as a job's: `FillDeparture` is `fill_departure`, `HTTPFix` is `http_fix`."""
    words = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", class_name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", words).lower()


def part_of(job_class: type, name: str) -> Any:
    """What the class, or a base of it, declares under that name; None: nothing."""
    return inspect.getattr_static(job_class, name, None)


def kind_of(job_class: type) -> Kind:
    """How the job transforms its rows."""
    if part_of(job_class, "transform_batch") is not None:
        return "batch"
    transform = part_of(job_class, "transform")
    if transform is None:
        return "none"
    return "sql" if isinstance(transform, Sql) else "row"


def params_of(job_class: type) -> dict[str, Param[Any]]:
    """The declared parameters by name, those of base classes first."""
    return {
        name: value
        for owner in reversed(job_class.__mro__)
        for name, value in vars(owner).items()
        if isinstance(value, Param)
    }


def is_abstract(job_class: type) -> bool:
    """True of a base for other jobs, which cannot run itself."""
    return bool(vars(job_class).get("_abstract", True))
