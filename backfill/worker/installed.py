"""Which Celery application this process sends our messages with: a user's own, or ours.

Loads no Celery: commands and functions that send nothing ask here, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfill.project import Project

if TYPE_CHECKING:
    from celery import Celery


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A user's application, and the project whose runs it works on."""

    app: Celery
    project: Project


_installed: Installed | None = None
_acting_for: Project | None = None


def remember(app: Celery, project: Project) -> None:
    """This process has installed us on an application; the latest is the one that sends."""
    global _installed  # noqa: PLW0603 - one for each process, as Celery's own current app
    _installed = Installed(app=app, project=project)


def installed() -> Installed | None:
    """The user's application, if this process has made one."""
    return _installed


def project_here() -> Project:
    """The project that this process acts in: its application's, else the one around its folder.

    Raises:
        ProjectError: its settings cannot be used.
    """
    return _acting_for or (Project.find() if _installed is None else _installed.project)


@contextmanager
def acting_for(project: Project) -> Iterator[None]:
    """While the module of a user's application is imported for this project, which may be another
    than the one around the current folder.
    """
    global _acting_for  # noqa: PLW0603 - as above; modules are imported one at a time
    before, _acting_for = _acting_for, project
    try:
        yield
    finally:
        _acting_for = before


def require_broker(project: Project) -> None:
    """See that there is something to send messages to; it is not asked whether it answers.

    Raises:
        ProjectError: the project names neither a Redis nor an application of its own.
    """
    if project.settings.celery_app is None and _installed is None:
        project.settings.require_redis_url()
