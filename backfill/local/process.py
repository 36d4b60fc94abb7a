"""One server process under our care: started, watched, ended, and never left behind.

1. **Nothing outlives its owner.** A server is a session of its own, so that Ctrl-C in the
   terminal does not reach it before us. In exchange a `Guard` holds the other end of a pipe from
   us: when the pipe closes without a farewell (we ended without stopping, were killed by SIGKILL,
   crashed), the guard ends the server and removes its temporary directory. A process forked
   from ours without `exec` holds the pipe too: then the guard waits for that one as well.
2. **Ports outside the kernel's ephemeral range** (`free_port`). A client that keeps connecting to
   a stopped server on a loopback port of that range may one day be given the same port for its
   own end, and is then connected to itself.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backfill.errors import UnreachableError, WaitTimeoutError
from backfill.local.account import Account, identity

_POLL_SECONDS = 0.02

# Lines on stdin say what is to be guarded now: a pid, `idle` (nothing runs), or `done` (farewell).
# $1: the signal that ends the server; $2: the directory to remove, or empty.
# After ten seconds it asks no more: SIGKILL.
_GUARD = """
pid=
while read -r word; do
    case $word in
        done) exit 0 ;;
        idle) pid= ;;
        *) pid=$word ;;
    esac
done
if [ -n "$pid" ] && kill -s "$1" "$pid"; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$pid" || break
        sleep 1
    done
    kill -s KILL "$pid"
fi
[ -z "$2" ] || rm -rf -- "$2"
"""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, below the ephemeral ranges.

    Somebody may take it before the server does: callers try again with another one.

    Raises:
        UnreachableError: none was found.
    """
    for _ in range(100):
        port = 15_000 + secrets.randbelow(17_000)  # Linux hands out 32768 and up, macOS 49152
        with socket.socket() as probe:
            # As servers do: connections of a former server in TIME_WAIT do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise UnreachableError("no free TCP port on 127.0.0.1", remedy="Close what holds them.")


def tail(log: Path, *, offset_bytes: int = 0, lines: int = 15) -> str:
    """The last lines that a server wrote after `offset_bytes`; empty when there are none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(offset_bytes, log.stat().st_size - 16_384))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def retrying_ports(start: Callable[[], None], *, fixed: bool) -> None:
    """Call `start`, again with another port (at most twice) when somebody was quicker.

    Args:
        start: chooses a port itself at each call.
        fixed: the port was asked for, or clients know it already: never another one.

    Raises:
        UnreachableError: as `start` does.
    """
    for attempt in (1, 2, 3):
        try:
            start()
        except UnreachableError as error:
            if fixed or attempt == 3 or "Address already in use" not in str(error):
                raise
        else:
            return


class Guard:
    """A shell that ends a server when its owner is gone (see the module's first point).

    Args:
        end_signal: what asks the server to end.
        remove: a temporary directory that goes with the owner; None: nothing is removed.
    """

    def __init__(self, *, end_signal: signal.Signals, remove: Path | None) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", end_signal.name[3:], str(remove or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # an inherited pipe would keep whoever reads it waiting
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def watch(self, pid: int | None) -> None:
        """Guard this process from now on; None: nothing runs, but the directory is still there."""
        self._say("idle" if pid is None else str(pid))

    def dismiss(self) -> None:
        """End the guard and leave everything as it is."""
        self._say("done")
        if self._shell.stdin is not None:
            with suppress(OSError):
                self._shell.stdin.close()
        self._shell.wait()

    def _say(self, word: str) -> None:
        # A guard that somebody killed is no reason to fail: the server works without it.
        if self._shell.stdin is not None and not self._shell.stdin.closed:
            with suppress(OSError):
                self._shell.stdin.write(f"{word}\n".encode())
                self._shell.stdin.flush()


class ServerProcess:
    """The process of one server, from its start to its end; it can be started again.

    Args:
        title: how errors name it, such as `PostgreSQL`.
        guard: told about every process that is started and ended here.
    """

    def __init__(self, title: str, guard: Guard) -> None:
        self._title = title
        self._guard = guard
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        if self._popen is None or self._popen.poll() is not None:
            return None
        return self._popen.pid

    def start(
        self,
        command: Sequence[str | Path],
        *,
        answers: Callable[[], bool],
        log: Path,
        directory: Path,
        environment: Mapping[str, str],
        account: Account | None,
        timeout_seconds: float,
    ) -> None:
        """Start it and wait until it answers.

        Args:
            command: the program and its arguments; it must not put itself in the background.
            answers: asks over a real connection whether *this* server answers; never raises.
            log: receives stdout and stderr, appended.
            directory: the process's working directory.

        Raises:
            UnreachableError: it cannot be executed, ends, or does not answer in time; the
                message quotes the end of its log. Nothing is left running.
        """
        offset_bytes = log.stat().st_size if log.exists() else 0
        try:
            with log.open("ab") as output:
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=directory,
                    env=environment,
                    start_new_session=True,
                    **identity(account),
                )
        except OSError as error:
            raise UnreachableError(
                f"{self._title} cannot be started: {error}",
                remedy=f"Check that {command[0]} is a program for this machine.",
            ) from error
        self._guard.watch(self._popen.pid)
        deadline = time.monotonic() + timeout_seconds
        while not answers():
            status = self._popen.poll()
            if status is not None:
                self._guard.watch(None)
                raise self._failure(f"ended with status {status} while starting", log, offset_bytes)
            if time.monotonic() > deadline:
                self.end(signal.SIGKILL, timeout_seconds=10)
                raise self._failure(
                    f"did not answer within {timeout_seconds:g} s", log, offset_bytes
                )
            time.sleep(_POLL_SECONDS)

    def end(self, *signals: signal.Signals, timeout_seconds: float) -> None:
        """Ask with the first signal, after `timeout_seconds` with the next; at last SIGKILL.

        Raises:
            WaitTimeoutError: even SIGKILL did not end it (it hangs in the kernel).
        """
        if self._popen is None:
            return
        for number in (*signals, signal.SIGKILL):
            self._popen.send_signal(number)  # does nothing when it has ended meanwhile
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_seconds)
                self._guard.watch(None)
                return
        raise WaitTimeoutError(f"{self._title} (process {self._popen.pid}) does not end")

    def _failure(self, what: str, log: Path, offset_bytes: int) -> UnreachableError:
        said = tail(log, offset_bytes=offset_bytes) or "(it wrote nothing)"
        return UnreachableError(
            f"{self._title} {what}",
            remedy=f"The end of its log says:\n{said}",
        )


def end_stranger(pid: int, *signals: signal.Signals, timeout_seconds: float, title: str) -> None:
    """End a server that another process started; the caller has made sure that it is one.

    Asks with each signal in turn, at last SIGKILL, and waits `timeout_seconds` after each.

    Raises:
        UnreachableError: it belongs to another account.
        WaitTimeoutError: even SIGKILL did not end it.
    """
    for number in (*signals, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise UnreachableError(
                f"{title} runs already as process {pid}, under another account",
                remedy="Stop it from that account.",
            ) from error
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not is_alive(pid):
                return
            time.sleep(_POLL_SECONDS)
    raise WaitTimeoutError(f"{title} (process {pid}) does not end")


def is_alive(pid: int) -> bool:
    """True while there is a process of this number that has not ended (a zombie has)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # no /proc on macOS, where a stranger's zombies are launchd's to reap
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return state.rpartition(")")[2].split()[0] != "Z"
    return True


def works_in(pid: int, directory: Path) -> bool:
    """True when a live process works in `directory`, or names it in its command line.

    A pid file may be older than the machine's last start: then its number is anybody's by now,
    and must not be sent a signal.
    """
    if not is_alive(pid):
        return False
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink() == directory.resolve()
    with suppress(OSError):  # no /proc, or not for this account
        shown = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return str(directory) in shown.stdout
    return False  # cannot be told: the server itself refuses a directory that is in use
