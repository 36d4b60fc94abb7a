"""The project and its settings: found, read once at the edge, frozen, and passed down.

A project is the nearest folder upward with a `backfill.toml`, or with a `pyproject.toml` that has
a table `[tool.backfill]`. All keys, with their defaults:

    jobs = []                          # modules or packages in which jobs are declared
    setup = "myapp.boot:setup"         # called before them (none)
    schema = "backfill"                # the ledger's schema
    queue = "backfill"                 # Celery's queue
    celery_app = "myapp.celery:app"    # your own Celery application (ours)
    log_format = "auto"                # console | json | auto: console on a terminal
    log_level = "info"                 # debug | info | warning | error
    [databases.main]                   # without any: one named default, from BACKFILL_DATABASE_URL
    url_env = "DATABASE_URL"           # the environment variable that holds its URL
    confirm = false                    # writing commands name host and database, and ask
    max_slots = 8                      # slices of all its runs that may be held at once (no limit)
    replica_url_envs = []              # variables with the URLs of replicas whose lag is measured
    prometheus_url_env = "…"           # the variable with the URL of a Prometheus (none)
    ignored_standbys = []              # application names of standbys that are late on purpose
    [databases.main.signals]           # see settings_signals.py
    [notify.NAME]                      # see settings_notify.py
    [redis]
    url_env = "BACKFILL_REDIS_URL"
    [engine]                           # see EngineSettings

1. No secret stands in a file of ours: files name environment variables. These come from the
   process, else from the project's `.env`. No message and no repr holds a URL.
2. A missing variable is an error only for whoever needs it: `list` works without a database.
3. A key or value that is not understood is an error that names its file, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal, get_args

from backfill.errors import ProjectError, UsageError
from backfill.settings_file import (
    PYPROJECT,
    SETTINGS_FILE,
    VARIABLE_FORM,
    SettingsTable,
    current_folder,
    read_env_file,
    read_settings,
    suggestion,
)
from backfill.settings_notify import Channel, read_channels
from backfill.settings_signals import read_signals
from backfill.settings_urls import VARIABLE, url_variable, url_variables
from backfill.signals import DEFAULTS, SignalSpec
from backfill.url import UrlVariable

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

DEFAULT_DATABASE: Final = "default"
DEFAULT_DATABASE_URL_ENV: Final = "BACKFILL_DATABASE_URL"
DEFAULT_REDIS_URL_ENV: Final = "BACKFILL_REDIS_URL"
#: A killed worker's slice goes on within this time, with any settings that are accepted.
TAKEOVER_SECONDS: Final = 15.0

#: More than any server has connections for.
_MOST_SLOTS: Final = 10_000

_BY_DEFAULT: Final = "the default"
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_FUNCTION = re.compile(rf"{_MODULE.pattern}:{_MODULE.pattern}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STANDBY = re.compile(r"\S(.*\S)?")
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")


# ---------------------------------------------------------------------------------- the values


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Times that an operator may change; all in seconds.

    Attributes:
        lease_seconds: how long a slice is its holder's without renewal. Longer: a slow network is
            no lost worker; shorter: a lost worker is noticed sooner.
        reconcile_seconds: between two comparisons of what should run with what does.
            Lease and this together stay below 15.
        task_seconds: how long one Celery task works on slices before it ends and is sent again;
            at least 1, and well below the broker's visibility time-out.
        sweep_seconds: how long the sweep goes on for deferred rows without getting any, before
            the run fails and names the holder of the locks.
        begin_wait_seconds: how long a new run waits for the transactions that were writing to
            the source when its horizon was read.
        sample_seconds: between two samples of the signals.
        signals_stale_seconds: a run whose newest sample is older than this stops: nobody measures.
            More than twice `sample_seconds`.
    """

    lease_seconds: float = 10.0
    reconcile_seconds: float = 2.0
    task_seconds: float = 5.0
    sweep_seconds: float = 600.0
    begin_wait_seconds: float = 60.0
    sample_seconds: float = 1.0
    signals_stale_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """One database that jobs may name.

    Attributes:
        name: as in `Options.database`.
        url_env: the environment variable of its URL.
        confirm: writing commands name host and database, and ask.
        source_only: it is only read; no ledger and no run is in it.
        max_slots: how many slices of all its runs may be held at once; None: no limit but theirs.
        signals: what its runs obey, by name: the defaults, and what the file says.
        replicas: whose lag is measured on themselves.
        prometheus: the server that its signals of kind `prometheus` ask; None where none does.
        ignored_standbys: application names of standbys that are late on purpose.
        raw_url: what the variable holds, None where it is missing; use `url`.
        named_in: where `url_env` comes from, for messages.
    """

    name: str
    url_env: str = DEFAULT_DATABASE_URL_ENV
    confirm: bool = False
    source_only: bool = False
    max_slots: int | None = None
    signals: Mapping[str, SignalSpec] = field(default_factory=lambda: dict(DEFAULTS))
    replicas: tuple[UrlVariable, ...] = ()
    prometheus: UrlVariable | None = None
    ignored_standbys: tuple[str, ...] = ()
    raw_url: str | None = field(default=None, repr=False)
    named_in: str = _BY_DEFAULT

    @property
    def url(self) -> str:
        """Its URL, always `postgresql://…`, as libpq reads it.

        Raises:
            ProjectError: the variable is missing or holds no URL of PostgreSQL.
        """
        return UrlVariable(name=self.url_env, named_in=self.named_in, raw=self.raw_url).postgres()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a project says, and what the environment adds to it.

    Attributes:
        project: the project's folder, to be put on `sys.path`; None outside of any.
        jobs: modules or packages, in the order in which they are imported.
        setup: `module:function` to call before them.
        databases: by name, in the file's order; at least one.
        channels: where people are told of runs, by name.
        redis_url_env: the environment variable of the Redis URL.
        schema: the ledger's schema, a plain lower-case name.
        queue: Celery's queue.
        celery_app: `module:name` of the user's own application; None: ours.
        log_format, log_level: of structlog.
        engine: times of the engine.
        raw_redis_url: what the variable holds, None where it is missing; use `redis_url`.
        redis_named_in: where `redis_url_env` comes from, for messages.
    """

    project: Path | None = None
    jobs: tuple[str, ...] = ()
    setup: str | None = None
    databases: Mapping[str, DatabaseSettings] = field(
        default_factory=lambda: {DEFAULT_DATABASE: DatabaseSettings(name=DEFAULT_DATABASE)}
    )
    channels: Mapping[str, Channel] = field(default_factory=dict)
    redis_url_env: str = DEFAULT_REDIS_URL_ENV
    schema: str = "backfill"
    queue: str = "backfill"
    celery_app: str | None = None
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    engine: EngineSettings = field(default_factory=EngineSettings)
    raw_redis_url: str | None = field(default=None, repr=False)
    redis_named_in: str = _BY_DEFAULT

    @property
    def ledgers(self) -> dict[str, DatabaseSettings]:
        """The databases in which runs may live, by name; at least one."""
        return {name: each for name, each in self.databases.items() if not each.source_only}

    def database(self, name: str = DEFAULT_DATABASE) -> DatabaseSettings:
        """The database of that name; "default" also means the only one, whatever its name.

        Raises:
            UsageError: there is none; names the known ones.
        """
        if name in self.databases:
            return self.databases[name]
        if name == DEFAULT_DATABASE and len(self.databases) == 1:
            return next(iter(self.databases.values()))
        known = ", ".join(self.databases)
        if name == DEFAULT_DATABASE:
            raise UsageError(
                f"the project has several databases and none is named default: {known}",
                remedy="Name one in the job's options, such as Options(database=\""
                f'{next(iter(self.databases))}").',
            )
        raise UsageError(
            f'the project has no database "{name}"{suggestion(name, self.databases)}',
            remedy=f"Its databases: {known}.",
        )

    @property
    def redis_url(self) -> str | None:
        """The Redis URL; None where its variable is missing: a run in-process needs none.

        Raises:
            ProjectError: the variable holds no URL of Redis.
        """
        return self.require_redis_url() if self.raw_redis_url else None

    def require_redis_url(self) -> str:
        """The Redis URL, for who cannot do without.

        Raises:
            ProjectError: the variable is missing or holds no URL of Redis.
        """
        return UrlVariable(
            name=self.redis_url_env, named_in=self.redis_named_in, raw=self.raw_redis_url
        ).redis()


# --------------------------------------------------------------------------- finding and reading


def find_project(start: Path | None = None, explicit: Path | None = None) -> Path | None:
    """The project's folder: `explicit`, else the nearest one from `start` (here) upward.

    Args:
        explicit: what `--project` says: the folder, or the settings' file in it.

    Returns:
        An absolute path; None where no folder has settings.

    Raises:
        ProjectError: `explicit` has no settings; or a file on the way cannot be read.
    """
    if explicit is not None:
        folder = (current_folder() / explicit).resolve()
        if folder.name in (SETTINGS_FILE, PYPROJECT):
            folder = folder.parent
        if read_settings(folder) is None:
            raise ProjectError(
                f"{explicit}: no {SETTINGS_FILE} there, and no [tool.backfill] in {PYPROJECT}",
                remedy="Name the folder that has one, or make it with `backfill init`.",
            )
        return folder
    here = (start or current_folder()).resolve()
    return next((f for f in (here, *here.parents) if read_settings(f) is not None), None)


def read_environment(project: Path | None, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables of the project's `.env`, and over them those of `environ`.

    Raises:
        ProjectError: the `.env` is there and cannot be read.
    """
    if project is None or not (project / ".env").is_file():
        return dict(environ)
    return {**read_env_file(project / ".env"), **environ}


def load(project: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the project in this folder; the defaults where it is None.

    Args:
        environ: the process's environment; what it says goes before the project's `.env`.

    Raises:
        ProjectError: naming the file, the key, and what belongs there.
    """
    environment = read_environment(project, environ)
    table = read_settings(project) if project is not None else None
    root = table or SettingsTable("the defaults", "", {})
    root.refuse_unknown(
        (
            *("jobs", "setup", "schema", "queue", "celery_app", "log_format", "log_level"),
            *("databases", "notify", "redis", "engine"),
        )
    )
    redis = root.table("redis")
    redis.refuse_unknown(("url_env",))
    redis_url_env = redis.text("url_env", VARIABLE, VARIABLE_FORM)
    return Settings(
        project=project,
        jobs=root.texts("jobs", _MODULE, 'names of modules, such as ["jobs"]'),
        setup=root.text("setup", _FUNCTION, 'a function, such as "myapp.boot:setup"'),
        databases=_databases(root.table("databases"), environment),
        channels=read_channels(root.table("notify"), environment),
        redis_url_env=redis_url_env or DEFAULT_REDIS_URL_ENV,
        schema=root.text("schema", _SCHEMA, "a plain lower-case name of a schema") or "backfill",
        celery_app=root.text("celery_app", _FUNCTION, 'an object, such as "myapp.celery:app"'),
        queue=root.text("queue", _NAME, "letters, digits and . _ -") or "backfill",
        log_format=root.choice("log_format", get_args(LogFormat), "auto"),
        log_level=root.choice("log_level", get_args(LogLevel), "info"),
        engine=_engine(root.table("engine")),
        raw_redis_url=environment.get(redis_url_env or DEFAULT_REDIS_URL_ENV, "").strip() or None,
        redis_named_in=redis.place("url_env") if redis_url_env else _BY_DEFAULT,
    )


def _databases(
    tables: SettingsTable, environment: Mapping[str, str]
) -> dict[str, DatabaseSettings]:
    if not tables.values:
        raw_url = environment.get(DEFAULT_DATABASE_URL_ENV, "").strip() or None
        return {DEFAULT_DATABASE: DatabaseSettings(name=DEFAULT_DATABASE, raw_url=raw_url)}
    databases = {}
    for name in tables.values:
        table = tables.table(name, example=', such as [databases.main] with url_env = "…"')
        table.refuse_unknown(
            (
                *("url_env", "confirm", "source_only", "max_slots", "signals"),
                *("replica_url_envs", "prometheus_url_env", "ignored_standbys"),
            )
        )
        url_env = table.text("url_env", VARIABLE, VARIABLE_FORM)
        if url_env is None:
            raise ProjectError(
                f"{table.place('url_env')} is missing", remedy=f"It is {VARIABLE_FORM}."
            )
        if _NAME.fullmatch(name) is None:
            raise ProjectError(f"{tables.place(name)} is no name: letters, digits and . _ - serve")
        databases[name] = DatabaseSettings(
            name=name,
            url_env=url_env,
            confirm=table.flag("confirm"),
            source_only=table.flag("source_only"),
            max_slots=table.count("max_slots", at_most=_MOST_SLOTS),
            signals=read_signals(table),
            replicas=url_variables(table, "replica_url_envs", environment),
            prometheus=url_variable(table, "prometheus_url_env", environment),
            ignored_standbys=table.texts(
                "ignored_standbys", _STANDBY, 'names of standbys, such as ["delayed"]'
            ),
            raw_url=environment.get(url_env, "").strip() or None,
            named_in=table.place("url_env"),
        )
    if all(each.source_only for each in databases.values()):
        raise ProjectError(
            f"{tables.place(name)} source_only: every database is only read",
            remedy="Runs live in the database that they write: leave source_only out there.",
        )
    return databases


def _engine(table: SettingsTable) -> EngineSettings:
    table.refuse_unknown([f.name for f in fields(EngineSettings)])
    shipped = EngineSettings()
    engine = EngineSettings(
        lease_seconds=table.seconds("lease_seconds", shipped.lease_seconds, at_least=1),
        reconcile_seconds=table.seconds("reconcile_seconds", shipped.reconcile_seconds, 0.1),
        task_seconds=table.seconds("task_seconds", shipped.task_seconds, at_least=1),
        sweep_seconds=table.seconds("sweep_seconds", shipped.sweep_seconds, at_least=0),
        begin_wait_seconds=table.seconds("begin_wait_seconds", shipped.begin_wait_seconds, 0),
        sample_seconds=table.seconds("sample_seconds", shipped.sample_seconds, at_least=0.1),
        signals_stale_seconds=table.seconds(
            "signals_stale_seconds", shipped.signals_stale_seconds, at_least=0.3
        ),
    )
    if engine.lease_seconds + engine.reconcile_seconds >= TAKEOVER_SECONDS:
        raise ProjectError(
            f"{table.place('lease_seconds')}: lease_seconds and reconcile_seconds are"
            f" {engine.lease_seconds:g} and {engine.reconcile_seconds:g}, together they must stay"
            f" below {TAKEOVER_SECONDS:g}",
            remedy="A slice of a killed worker goes on when its lease has run out and a worker has"
            f" looked; that is promised within {TAKEOVER_SECONDS:g} s.",
        )
    if engine.signals_stale_seconds <= 2 * engine.sample_seconds:
        raise ProjectError(
            f"{table.place('signals_stale_seconds')}: signals_stale_seconds is"
            f" {engine.signals_stale_seconds:g}, it must be more than twice sample_seconds"
            f" ({engine.sample_seconds:g})",
            remedy="One sample that comes late would stop every run.",
        )
    return engine
