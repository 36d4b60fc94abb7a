"""What a job's class says, as one value that the engine reads.

`describe()` holds what decides the meaning of a run: a worker whose declaration differs from the
one that a run began with gives its slice back (API.md, "Changed in mid-run"). The functions'
bodies are no part of it, nor is the text in help and docstrings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from backfill.errors import BackfillError, DeclarationError, ProjectError, UsageError
from backfill.job.anatomy import Kind, is_abstract, kind_of, params_of
from backfill.job.fragment import PLACEHOLDER_PREFIX, placeholders, sql_fragment
from backfill.job.job import Job
from backfill.job.options import Options
from backfill.job.param import Param
from backfill.job.secret import Secrets
from backfill.job.source import Query, Table
from backfill.job.suggestion import did_you_mean
from backfill.job.target import Call, Delete, Insert, Target, Update
from backfill.job.transform import Sql
from backfill.model import RunInfo

__all__ = ["Declaration", "Kind", "bind", "declaration_of", "sql_fragment"]

J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A job's class, read once.

    Attributes:
        job_class: the class itself.
        name: its permanent identity.
        version: ≥ 1.
        source: where the rows come from.
        target: what is done with them.
        options: how a run works, unless overridden.
        params: the parameters by name, those of base classes first.
        kind: `sql`, `row`, `batch`: which transform; `none`: Delete or Insert without one.
        sql: the expressions, when `kind` is `sql`.
        retry_on: exceptions that mean an outage.
        doc: the first line of the class's docstring; may be empty.
    """

    job_class: type[Job]
    name: str
    version: int
    source: Table | Query
    target: Update | Insert | Delete | Call
    options: Options
    params: Mapping[str, Param[Any]]
    kind: Kind
    sql: Sql | None
    retry_on: tuple[type[Exception], ...]
    doc: str

    @property
    def target_database(self) -> str | None:
        """The database that is written, where it is not the source's."""
        return self.target.database if isinstance(self.target, Insert) else None

    @property
    def computes(self) -> bool:
        """Whether PostgreSQL computes what is written, from the rows as they are."""
        return self.kind in {"none", "sql"}

    def home(self, options: Options) -> str:
        """The database in which a run is recorded: the one that it writes."""
        return self.target_database or options.database

    @property
    def deletes_source(self) -> bool:
        """Whether rows of the source are moved, and not copied."""
        return isinstance(self.target, Insert) and self.target.delete_source

    def reads_unlocked(self, options: Options, *, lockable: bool) -> bool:
        """Whether rows are read without locks, so that no transaction is open in the transform.

        Args:
            lockable: the source is a table, or a query that names one.

        Raises:
            UsageError: the job cannot work with this option.
        """
        across = self.target_database is not None
        apart = across or not lockable
        usual = "optimistic" if apart or isinstance(self.target, Call) else "skip"
        lock = options.lock or usual
        if apart and lock == "skip":
            told = "rows of another database" if across else "rows of what is no table"
            raise UsageError(
                f"{self.name}: lock is 'skip', and {told} cannot be locked as long as they are"
                " written",
                remedy="Leave the option out.",
            )
        if lock == "skip" and isinstance(self.target, Call):
            raise UsageError(
                f"{self.name}: lock is 'skip', and Call locks nothing: a transaction would be open"
                " while the transform waits for an answer",
                remedy="Leave the option out.",
            )
        is_table = lockable and not isinstance(self.source, Query)
        if options.lock == "optimistic" and not is_table and not isinstance(self.target, Call):
            raise UsageError(
                f"{self.name}: lock is 'optimistic', which compares a table's columns, and its"
                f" source is {'a query' if isinstance(self.source, Query) else 'no table'}",
                remedy="Leave the option out.",
            )
        if lock == "optimistic" and self.kind not in {"row", "batch"} and not apart:
            raise UsageError(
                f"{self.name}: lock is 'optimistic', and PostgreSQL computes this job in one"
                " statement, which has nothing to wait for",
                remedy="Leave the option out; it is for transforms in Python.",
            )
        return lock == "optimistic"

    def describe(self) -> dict[str, object]:
        """What decides the meaning of a run; numbers, text, lists and mappings only."""
        return {
            "version": self.version,
            "source": _source(self.source),
            "transform": {
                "kind": self.kind,
                "sql": None if self.sql is None else dict(self.sql.expressions),
            },
            "target": _described(self.target),
            "params": {name: param.type_name for name, param in self.params.items()},
        }

    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ when `describe()` does."""
        # needed once a run; kept out of the time that `import backfill` takes
        import hashlib
        import json

        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def parse_params(self, texts: Mapping[str, str]) -> dict[str, object]:
        """The values that were typed on the command line; those not given are left out.

        Raises:
            UsageError: an unknown name, a value of another form, or a secret.
        """
        return {name: self._param(name).parse(text) for name, text in texts.items()}

    def complete_params(self, values: Mapping[str, object]) -> dict[str, object]:
        """All values of a run but the secret ones: those given, checked, and the defaults.

        Raises:
            UsageError: an unknown name, a missing value, one of another type, or a secret.
        """
        given = {name: self._param(name).convert(value) for name, value in values.items()}
        for name, param in self.params.items():
            if param.required and name not in given:
                raise UsageError(
                    f"{self.name}: the parameter {name} is missing",
                    remedy=f"It is of type {param.value_type.__name__} and has no default"
                    f"{': ' + param.help if param.help else ''}.",
                )
        defaults = {
            name: param.default
            for name, param in self.params.items()
            if name not in given and not param.secret
        }
        return given | defaults

    def params_to_json(self, values: Mapping[str, object]) -> dict[str, object]:
        """The values as the ledger keeps them (jsonb).

        Raises:
            UsageError: an unknown name, a value of another type, or a secret.
        """
        return {name: self._param(name).to_json(value) for name, value in values.items()}

    def params_from_json(self, kept: Mapping[str, object]) -> dict[str, object]:
        """The values that the ledger kept.

        Raises:
            UsageError: kept for a parameter that is gone, of another type, or a secret now.
        """
        return {name: self._param(name).from_json(value) for name, value in kept.items()}

    def sql_arguments(self, job: Job) -> dict[str, object]:
        """The values of a bound job by the placeholders that `sql_fragment` writes.

        Secrets are among them: they go to the driver, and nowhere else.
        """
        return {f"{PLACEHOLDER_PREFIX}{name}": getattr(job, name) for name in self.params}

    def secrets(self, arguments: Mapping[str, object]) -> Secrets:
        """The secret ones of the values that `sql_arguments` gives."""
        names = [name for name, param in self.params.items() if param.secret]
        bound = {name for text in self._sql_texts() for name in placeholders(text)}
        keys = [f"{PLACEHOLDER_PREFIX}{name}" for name in names]
        return Secrets.of(
            (arguments[key] for key in keys if key in arguments),
            are_bound=not bound.isdisjoint(names),
        )

    def _sql_texts(self) -> Iterator[str]:
        source = self.source
        yield (source.sql if isinstance(source, Query) else source.where) or ""
        yield source.todo or ""
        yield from () if self.sql is None else self.sql.expressions.values()

    def _param(self, name: str) -> Param[Any]:
        param = self.params.get(name)
        if param is None:
            raise UsageError(
                f"{self.name} has no parameter {name}",
                remedy=did_you_mean(name, self.params),
            )
        return param


def declaration_of(job_class: type[Job]) -> Declaration:
    """What the class says; read once, and the same value ever after.

    Raises:
        DeclarationError: it is no job, or a base for other jobs.
    """
    if not _is_job(job_class):
        raise DeclarationError(
            f"{job_class!r} is no job", remedy="Give the class itself: run(FillDeparture)."
        )
    if (declaration := _READ.get(job_class)) is None:
        declaration = _READ[job_class] = _read(job_class)
    return declaration


#: Classes are made once a process and stay; reading one twice is harmless, so no lock is needed.
_READ: dict[type[Job], Declaration] = {}


def _is_job(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Job)


def _read(job_class: type[Job]) -> Declaration:
    if is_abstract(job_class):
        raise DeclarationError(
            f"{job_class.__name__}: a base for other jobs has no rows to work on",
            remedy="Declare source, transform and target in a class that inherits from it.",
        )
    source = job_class.source
    target = job_class.target
    if not isinstance(source, Table | Query) or not isinstance(
        target, Update | Insert | Delete | Call
    ):
        raise DeclarationError(
            f"{job_class.__name__}: its source or target was changed after the class was made",
            remedy="Declare them in the class's body.",
        )
    transform = getattr(job_class, "transform", None)
    return Declaration(
        job_class=job_class,
        name=job_class.name,
        version=job_class.version,
        source=source,
        target=target,
        options=job_class.options,
        params=params_of(job_class),
        kind=kind_of(job_class),
        sql=transform if isinstance(transform, Sql) else None,
        retry_on=job_class.retry_on,
        doc=_first_line(job_class),
    )


def bind(
    job_class: type[J],
    values: Mapping[str, object],
    *,
    run: RunInfo | None = None,
    environ: Mapping[str, str] = os.environ,
) -> J:
    """A job with its parameters; secrets are read from `environ` now.

    Raises:
        UsageError: an unknown name, a missing value, one of another type, or a secret given.
        ProjectError: a secret's variable is not set, or the job's `__init__` raised.
    """
    declaration = declaration_of(job_class)
    bound = declaration.complete_params(values)
    for name, param in declaration.params.items():
        if param.secret:
            bound[name] = param.read_secret(environ)
    job = job_class.__new__(job_class)
    # past the descriptors, which are read-only; before __init__, which may read the parameters
    job.__dict__.update(bound, _run=run)
    try:
        job.__init__()  # type: ignore[misc]  # the shape check saw that it takes no argument
    except BackfillError:
        raise
    except Exception as error:
        hidden = declaration.secrets(declaration.sql_arguments(job)).hidden
        raise ProjectError(
            f"{job_class.__name__}.__init__ raised {type(error).__name__}: {hidden(str(error))}",
            remedy="Mend it; what a run needs is better made in setup, which may raise.",
        ) from error
    return job


def _source(source: Table | Query) -> dict[str, object]:
    described: dict[str, object] = {
        "table": source.table,
        "key": _listed(source.key),
        "todo": source.todo,
    }
    if isinstance(source, Query):
        return described | {"sql": source.sql}
    return described | {"columns": _listed(source.columns), "where": source.where}


def _described(target: Target) -> dict[str, object]:
    match target:
        case Update():
            return {"kind": "update", "columns": list(target.columns)}
        case Insert():
            described: dict[str, object] = {
                "kind": "insert",
                "table": target.table,
                "on_conflict": target.on_conflict,
                "columns": _listed(target.columns),
                "conflict": _listed(target.conflict),
            }
            # only where it is so: runs that began before there was such a thing go on
            described |= {"delete_source": True} if target.delete_source else {}
            return described | ({"database": target.database} if target.database else {})
        case Call():
            return {"kind": "call"}
        case _:
            return {"kind": "delete"}


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _first_line(job_class: type[Job]) -> str:
    # its own docstring only: an inherited one describes another job
    lines = (vars(job_class).get("__doc__") or "").strip().splitlines()
    return lines[0].strip() if lines else ""
