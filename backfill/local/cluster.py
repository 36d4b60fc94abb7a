"""A PostgreSQL data directory: made by initdb, configured by a file of ours inside it."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path

from backfill.errors import UnreachableError
from backfill.local.account import Account, give, identity, write_private
from backfill.local.binaries import major_version

SUPERUSER = "postgres"

_CONFIGURATION = "backfill.conf"
_LOGIN_FILE = "backfill.password"


def make(data: Path, *, initdb: Path, user: Account | None, scratch: Path, trust: bool) -> None:
    """Make a cluster in an empty or missing directory.

    Args:
        user: the account that will own it and run its server; None: ours.
        scratch: a directory that `user` can reach, for a moment's file.
        trust: let everybody in who can connect; else they need the password (`password`). Also
            leaves out the syncing of the new files: it is for data that nobody will miss.

    Raises:
        UnreachableError: initdb cannot be executed, or fails; it is quoted.
    """
    options: list[str | Path] = ["--username", SUPERUSER, "--no-instructions"]
    login_file = scratch / _LOGIN_FILE  # not beside the data yet: initdb wants its directory empty
    if trust:
        options += ["--auth", "trust", "--no-sync"]
    else:
        write_private(login_file, secrets.token_urlsafe(24), user)
        options += ["--auth", "scram-sha-256", "--pwfile", login_file]
    if not data.exists():
        data.mkdir(mode=0o700)
        give(data, user)
    try:
        # Locales that are everywhere. The built-in one knows letters beyond ASCII as well.
        options += ["--encoding", "UTF8", "--no-locale"]
        if major_version(initdb) >= 17:
            options += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        said = subprocess.run(
            [initdb, "--pgdata", data, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=data,
            env=environment(),
            check=False,
            **identity(user),
        )
    except OSError as error:
        raise UnreachableError(
            f"initdb cannot be started: {error}",
            remedy=f"Check that {initdb} is a program for this machine.",
        ) from error
    if said.returncode != 0:
        raise UnreachableError(
            f"initdb failed with status {said.returncode}",
            remedy="It said:\n" + said.stdout.decode(errors="replace").strip(),
        )
    if not trust:
        write_private(data / _LOGIN_FILE, login_file.read_text(encoding="ascii"), user)
        login_file.unlink()


def configure(
    data: Path, settings: Mapping[str, str | int | float], *, user: Account | None
) -> None:
    """Write our settings to a file of their own, which the cluster's includes.

    The server listens on the loopback address only, unless the settings say otherwise.
    """
    ours: dict[str, str | int | float] = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "logging_collector": False,  # the log is what the process writes
        **settings,
    }
    lines = [f"{name} = {_literal(value)}\n" for name, value in ours.items()]
    write_private(data / _CONFIGURATION, "".join(lines), user)
    main = data / "postgresql.conf"
    include = f"include_if_exists = '{_CONFIGURATION}'\n"
    if include not in main.read_text(encoding="utf-8"):
        with main.open("a", encoding="utf-8") as stream:
            stream.write(include)


def password(data: Path) -> str:
    """The superuser's password; empty for a cluster that was not made here, or trusts us."""
    try:
        return (data / _LOGIN_FILE).read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def environment() -> dict[str, str]:
    """Our environment without what would steer PostgreSQL's programs, and with English messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _literal(value: str | float) -> str:
    """A server parameter's value as postgresql.conf writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    escaped = str(value).replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
