"""Doctor: the project first, then what it names."""

from __future__ import annotations

import platform
import stat
from importlib.metadata import version
from pathlib import Path

from backfill.errors import BackfillError
from backfill.job.declaration import declaration_of
from backfill.operate.doctor.databases import examine_database
from backfill.operate.doctor.outcome import Examined, Notebook
from backfill.operate.doctor.redis import examine_redis
from backfill.operate.doctor.workers import examine_workers
from backfill.project import Project
from backfill.settings import Settings


def examine(folder: Path | None = None) -> list[Examined]:
    """Look at everything.

    Args:
        folder: what `--project` says; None: the project around the current folder.
    """
    notes = Notebook("project")
    notes.ok(
        "versions",
        f"backfill {version('backfill')}, Python {platform.python_version()},"
        f" psycopg {version('psycopg')}, celery {version('celery')}, redis {version('redis')}",
    )
    try:
        project = Project.find(folder)
    except BackfillError as error:
        notes.error("settings", error.message, error.remedy or "Correct the settings.")
        return notes.items
    _settings(notes, project.settings)
    found = [*notes.items, *_imports(project).items]
    ledgers = {}
    for name in project.settings.databases:
        of_database, ledger = examine_database(project.settings, name)
        found += of_database.items
        if ledger is not None:
            ledgers[name] = ledger
    of_redis, can_send = examine_redis(project.settings)
    found += of_redis.items
    if ledgers:
        found += examine_workers(project, ledgers, can_send=can_send).items
    return found


def _settings(notes: Notebook, settings: Settings) -> None:
    if settings.project is None:
        notes.warning(
            "none",
            "there is no project here: the defaults hold, and no job is known",
            "Make one with `backfill init`, or name it with --project.",
        )
        return
    for channel in settings.channels.values():
        try:
            if channel.webhook is not None:
                channel.webhook.http()
        except BackfillError as error:
            notes.warning("channel", f"channel {channel.name}: {error.message}", error.remedy)
    names = ", ".join(settings.databases)
    env = settings.project / ".env"
    told = ", with a .env" if env.is_file() else ""
    notes.ok("settings", f"{settings.project}{told}; databases: {names}")
    if env.is_file() and env.stat().st_mode & stat.S_IROTH:
        notes.warning(
            "env-readable",
            "others on this machine may read the project's .env, which holds passwords",
            "chmod 600 .env",
        )


def _imports(project: Project) -> Notebook:
    notes = Notebook("imports")
    try:
        registry = project.registry
    except BackfillError as error:
        notes.error("jobs", error.message, error.remedy or "Mend it.")
        return notes
    for module, error_text in registry.broken.items():
        notes.error("broken", f"{module}: {error_text}", "Mend the module; its jobs cannot run.")
    for name in registry.jobs:
        database = project.declaration(name).options.database
        try:
            project.settings.database(database)
        except BackfillError as error:
            notes.error("job-database", f"{name}: {error.message}", error.remedy or "")
    _secrets(notes, project)
    if project.settings.celery_app is not None:
        _celery_app(notes, project)
    if registry.jobs:
        notes.ok("jobs", f"{len(registry.jobs)} jobs: {', '.join(registry.jobs)}")
    elif not registry.broken and project.settings.project is not None:
        notes.note("jobs", "the project has no jobs", "Make one with `backfill new NAME`.")
    return notes


def _secrets(notes: Notebook, project: Project) -> None:
    """Workers may have what this process lacks."""
    for job_class in project.registry.jobs.values():
        declaration = declaration_of(job_class)
        for param in declaration.params.values():
            try:
                if param.secret:
                    param.read_secret(project.environ)
            except BackfillError as error:
                notes.note("secret", f"{declaration.name}: {error.message} here", error.remedy)


def _celery_app(notes: Notebook, project: Project) -> None:
    from backfill.worker.app import app_of, checks_certificates  # Celery takes a while to import

    try:
        app = app_of(project)
    except BackfillError as error:
        notes.error("celery-app", error.message, error.remedy)
        return
    notes.ok("celery-app", f"messages go through {project.settings.celery_app}")
    if not checks_certificates(app):
        notes.warning(
            "broker-unchecked",
            "the broker of that application is asked for TLS, and nobody checks its certificate:"
            " whoever is in between can read and send messages",
            "Add ssl_cert_reqs=required to the broker's URL, or to broker_use_ssl.",
        )
