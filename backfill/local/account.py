"""Accounts that a server runs under, and paths that they can reach.

PostgreSQL refuses to run as root. When we are root, it gets the system's `postgres` or `nobody`
account (`service_account`), and only paths that this account can reach may be used (`obstacle`,
`scratch_directory`): a virtual environment or a TMPDIR under a 0700 directory, such as /root, is
out of its reach.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from backfill.errors import UnreachableError


@dataclass(frozen=True, slots=True)
class Account:
    """An operating system account that a server runs under instead of ours."""

    name: str
    uid: int
    gid: int


class _Identity(TypedDict, total=False):
    """The arguments by which `subprocess` changes the account of what it starts."""

    user: int
    group: int
    extra_groups: Sequence[int]


def identity(account: Account | None) -> _Identity:
    """Arguments for `subprocess` to run a program under `account`; None: under ours."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def service_account() -> Account | None:
    """The account for a server that refuses root; None when we are not root.

    Raises:
        UnreachableError: we are root, and there is neither `postgres` nor `nobody`.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise UnreachableError(
        "PostgreSQL refuses to run as root, and there is no account named postgres or nobody",
        remedy="Run this as an ordinary user.",
    )


def obstacle(path: Path, account: Account | None) -> Path | None:
    """The first directory on the way to `path`, or `path` itself, that `account` may not enter.

    Judged by the permission bits (`x`), which is what blocks in practice: /root, a home
    directory, pytest's temporary directories.

    Returns:
        The path to name in an error; None when nothing is in the way.

    Raises:
        FileNotFoundError: there is no such path.
    """
    if account is None:
        return None
    resolved = path.resolve(strict=True)
    for part in (*reversed(resolved.parents), resolved):
        status = part.stat()
        if status.st_uid == account.uid:
            allowed = status.st_mode & stat.S_IXUSR
        elif status.st_gid == account.gid:
            allowed = status.st_mode & stat.S_IXGRP
        else:
            allowed = status.st_mode & stat.S_IXOTH
        if not allowed:
            return part
    return None


def scratch_directory(prefix: str, account: Account | None, parent: Path | None = None) -> Path:
    """Make a temporary directory that `account` can reach, and that is ours to remove.

    It lies in `parent` when that can be reached, else in TMPDIR, /tmp or /var/tmp. With an
    account its mode is 0755, so that what is private must lie in a directory of its own inside;
    without, 0700.

    Raises:
        UnreachableError: none of them can be reached.
    """
    usual = (tempfile.gettempdir(), "/tmp", "/var/tmp")  # noqa: S108 - made by mkdtemp
    for folder in dict.fromkeys((str(parent), *usual) if parent else usual):
        if not Path(folder).is_dir() or obstacle(Path(folder), account) is not None:
            continue
        with suppress(PermissionError):
            directory = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
            if account is not None:
                directory.chmod(0o755)
            return directory
    raise UnreachableError(
        f"no temporary directory can be reached by the account {account.name if account else ''}",
        remedy="Set TMPDIR to a directory that every account may enter.",
    )


def write_private(path: Path, text: str, account: Account | None) -> None:
    """Write a file that only `account` (None: ours) may read, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    give(path, account)


def give(path: Path, account: Account | None) -> None:
    """Make `account` the owner of this one path; None: leave it ours."""
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def remove_tree(directory: Path) -> None:
    """Remove a directory; one that is gone already is no error."""
    shutil.rmtree(directory, ignore_errors=True)
