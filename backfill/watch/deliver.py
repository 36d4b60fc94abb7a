"""Sends one message by one channel, and says in words what came back.

1. No transaction is open, and nothing waits longer than it was told to (I5).
2. What went wrong is told without the URL, which is a secret, and without what a program printed.
3. A redirect is not followed: the message would go to somebody else, as a GET without a body.

A webhook gets `{"text": …}` and nothing more, which Slack, Mattermost and Google Chat read alike;
what they do with fields that they do not know is theirs to change. A command gets all fields.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from backfill.errors import ProjectError
from backfill.settings_notify import Channel
from backfill.watch.message import Message

#: The whole of one attempt; looking a name up may add to it.
SEND_SECONDS: Final = 10.0
_MOST_BYTES: Final = 4096
#: Slack says why in one word, such as `no_service`: anything else may quote the URL.
_WORD = re.compile(r"[a-z]+(_[a-z]+)*")


class UndeliveredError(Exception):
    """A message was not taken; the text says why, and may be shown to anybody.

    Attributes:
        output: what a command printed: for the terminal of who tries the channel, and nowhere else.
    """

    def __init__(self, reason: str, *, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


def deliver(
    channel: Channel,
    message: Message,
    *,
    environ: Mapping[str, str],
    folder: Path | None,
    seconds: float = SEND_SECONDS,
) -> str:
    """Send a message; returns what came back, in words.

    Args:
        environ: a command's environment.
        folder: a command's working directory; None: this process's.
        seconds: the longest wait.

    Raises:
        ProjectError: the variable holds no URL, or there is no such command.
        UndeliveredError: it was not taken.
    """
    if channel.webhook is None:
        return _run(channel, message, environ=environ, folder=folder, seconds=seconds)
    return _post(channel.webhook.http(), channel.webhook.name, message, seconds=seconds)


# ------------------------------------------------------------------------------------- the webhook


def slack_text(text: str) -> str:
    """Text in which nothing calls a person or a channel, or shows as a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: it becomes an HTTPError."""


def _post(url: str, variable: str, message: Message, *, seconds: float) -> str:
    until = time.monotonic() + seconds
    try:
        request = _request(url, message)
        try:
            response = build_opener(_NoRedirect).open(request, timeout=seconds)
        except HTTPError as error:
            response = error
        with response:
            status, body = response.status, b""
            while (chunk := response.read1(_MOST_BYTES)) and len(body) < _MOST_BYTES:
                body += chunk
                if time.monotonic() > until:
                    raise TimeoutError
    except (OSError, HTTPException, ValueError) as error:  # their texts may quote the URL
        raise UndeliveredError(f"the webhook ({variable}) {_unanswered(error)}") from None
    word = body.decode(errors="replace").strip()
    told = f": {word}" if len(word) < 60 and _WORD.fullmatch(word) and word not in url else ""
    if 200 <= status < 300:
        return f"the webhook ({variable}) answered {status}{told}"
    if 300 <= status < 400:
        told = ": a redirect, which is not followed"
    raise UndeliveredError(f"the webhook ({variable}) answered {status}{told}")


def _unanswered(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return "did not answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return f"cannot be reached: {reason.strerror}"
    return f"cannot be reached: {type(reason).__name__}"


def _request(url: str, message: Message) -> Request:
    """A user and password in the URL are sent as basic authentication."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    request = Request(  # noqa: S310 - UrlVariable.http lets http and https pass only
        urlunsplit((parts.scheme, host, parts.path, parts.query, "")),
        data=json.dumps({"text": slack_text(message.text)}).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "backfill"},
    )
    if login:
        request.add_unredirected_header(
            "Authorization", "Basic " + b64encode(unquote(login).encode()).decode()
        )
    return request


# ------------------------------------------------------------------------------------- the command


def _run(
    channel: Channel,
    message: Message,
    *,
    environ: Mapping[str, str],
    folder: Path | None,
    seconds: float,
) -> str:
    """Start the command without a shell, in a session of its own, so that all of it can be ended.

    What it reads and prints are files and not pipes: nobody waits for a pipe that it, or a child of
    it, leaves open.
    """
    program = Path(channel.command[0]).name
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        given.write(json.dumps(message.to_json()).encode() + b"\n")
        given.seek(0)
        try:
            process = subprocess.Popen(
                channel.command,
                stdin=given,
                stdout=output,
                stderr=output,
                env=dict(environ),
                cwd=folder,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise ProjectError(
                f"the command {program} cannot be started: {error.strerror}",
                remedy="Name a program that is there and may be run, in the environment of every"
                " worker.",
            ) from None
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or type(error).__name__
            raise UndeliveredError(f"the command {program} cannot be started: {words}") from None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise UndeliveredError(
                f"the command {program} was not done in {seconds:.0f} s", output=_printed(output)
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            raise UndeliveredError(
                f"the command {program} ended with code {code}", output=_printed(output)
            )
    return f"the command {program} took it"


def _printed(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read(_MOST_BYTES).decode(errors="replace").strip()
