"""Starts Flower in this process, with our pages in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from flower import command
from flower.urls import settings as flower_settings
from tornado.options import Error as OptionError
from tornado.options import options

from backfill.errors import RefusedError, UsageError
from backfill.flower.app import Backfills
from backfill.flower.house import House
from backfill.job.suggestion import did_you_mean
from backfill.project import Project
from backfill.watch.exporter import register
from backfill.worker.app import app_of

#: What our tasks say: their result is the run's progress. The uuid leads to a task's page.
TASKS_COLUMNS = "name,uuid,state,kwargs,result,received,runtime,worker"
#: Flower's own default is every address.
ADDRESS = "127.0.0.1"
_VARIABLE = "FLOWER_"


def start(project: Project, flags: Sequence[str], *, say: Callable[[str], None]) -> int:
    """Run Flower until it is told to stop; returns its exit code.

    What is given goes before variables `FLOWER_…`, those before a `flowerconfig.py` and our
    defaults.

    Args:
        flags: Flower's own, as somebody types them.
        say: called with one line: where it can be looked at.

    Raises:
        UsageError: a flag that Flower does not know, or a wrong value.
        ProjectError: the project names no Redis, or a database whose variable is not set.
        RefusedError: the address cannot be listened on.
    """
    for database in project.settings.databases.values():
        _ = database.url  # a missing variable is said now, not on every page
    capp = app_of(project)
    _set_options(project, flags)
    house = House(project)
    metrics = register(project)
    try:
        app = Backfills(house, options=options, capp=capp, **flower_settings)
        signal.signal(signal.SIGTERM, command.sigterm_handler)
        say(f"Flower with backfills: {_listen(app)}")
        try:
            app.start()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            app.stop()
    finally:
        metrics.close()
        house.close()
    return 0


def _set_options(project: Project, flags: Sequence[str]) -> None:
    options.address = ADDRESS
    options.tasks_columns = TASKS_COLUMNS
    for name, text in project.environ.items():  # the project's .env may hold Flower's, too
        if name.startswith(_VARIABLE):
            os.environ.setdefault(name, text)
    given = _normalised(flags)
    try:
        command.apply_env_options()
        command.apply_options("backfill flower", given)
    except (OptionError, ValueError) as error:
        raise UsageError(
            f"Flower: {_misfit(given)}{error}", remedy="See `backfill flower --help`."
        ) from error
    for login in options.basic_auth or ():
        if not all(login.partition(":")[::2]):
            # Flower would listen, and let nobody in
            raise UsageError(
                "--basic-auth takes a user and a password, with a colon between them",
                remedy="Write FLOWER_BASIC_AUTH=ann:secret, several with commas between them.",
            )
    command.extract_settings()
    command.setup_logging()


def _misfit(given: Sequence[str]) -> str:
    """The flag whose value cannot be read, which the error of Flower's parser does not name."""
    for word in given:
        name, _, value = word.lstrip("-").partition("=")
        option = options._options.get(options._normalize_name(name))
        try:
            if option is not None and value:
                option.parse(value)
        except (OptionError, ValueError):
            return f"--{name}: "
    return ""


def _normalised(flags: Sequence[str]) -> list[str]:
    """Flags as Flower reads them: `--port 1` becomes `--port=1`.

    Flower leaves out what it does not know; a misspelt `--basic-auth` would open the door.
    """
    known = {name.replace("_", "-") for name in options}
    given: list[str] = []
    for word in flags:
        if not word.startswith("-"):
            if not given or "=" in given[-1]:
                raise UsageError(f"{word!r} is no flag of Flower's")
            given[-1] += f"={word}"
            continue
        name = word.lstrip("-").partition("=")[0].replace("_", "-")
        if name not in known:
            raise UsageError(f"Flower has no flag --{name}", remedy=did_you_mean(name, known))
        given.append(word)
    return given


def _listen(app: Backfills) -> str:
    """Listen; returns the address of the page."""
    try:
        port = app.start_http_server()
    except OSError as error:
        where = options.unix_socket or f"{options.address}:{options.port}"
        raise RefusedError(
            f"Flower cannot listen on {where}: {error.strerror}",
            remedy="Give it another --port, or end what listens there.",
        ) from error
    page = app.reverse_url("backfills").rstrip("?")
    if port is None:
        return f"{options.unix_socket} ({page})"
    scheme = "https" if app.ssl_options else "http"
    host = f"[{options.address}]" if ":" in options.address else options.address
    return f"{scheme}://{host or '127.0.0.1'}:{port}{page}"
