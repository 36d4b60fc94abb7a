"""Asks a Prometheus for one number (its HTTP API, /api/v1/query; Thanos, Mimir and VictoriaMetrics
answer alike).

A query that gives no number, several, or one that may be wrong (an answer with warnings is a
partial one) is an error that says what it gave: a guess would be worse than a stop.
"""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from backfill.errors import ProjectError
from backfill.signals import UnreadableError
from backfill.url import UrlVariable

#: The whole of one question, without looking the name up.
ANSWER_SECONDS: Final = 2.0
_MOST_BYTES: Final = 1024 * 1024
_MOST_WORDS: Final = 200


def query(variable: UrlVariable, expression: str) -> float:
    """The value of a PromQL expression now: a scalar, or a vector of one element.

    Args:
        variable: holds the server's URL, such as http://prometheus:9090; a user and password in it
            are sent as basic authentication, a path is kept.

    Raises:
        UnreadableError: it cannot be had, in words that name the variable and not the URL.
    """
    try:
        request = _request(variable.http(), expression)
    except ProjectError as error:
        raise UnreadableError(error.message) from error
    except ValueError as error:  # its text would quote the URL
        raise UnreadableError(f"{variable.name} holds no URL of a web server") from error
    try:
        status, body = _answer(request)
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else None
        raise UnreadableError(
            f"Prometheus ({variable.name}) does not answer: {words or type(reason).__name__}"
        ) from error
    try:
        return _value(_parsed(status, body))
    except UnreadableError as error:
        raise UnreadableError(f"Prometheus ({variable.name}) {error}") from error


def _request(url: str, expression: str) -> Request:
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    path = parts.path.rstrip("/") + "/api/v1/query"
    request = Request(  # noqa: S310 - UrlVariable.http lets http and https pass only
        urlunsplit((parts.scheme, host, path, "", "")),
        data=urlencode({"query": expression, "timeout": f"{ANSWER_SECONDS:g}s"}).encode(),
        headers={"Accept": "application/json"},
    )
    if login:
        request.add_unredirected_header(
            "Authorization", "Basic " + b64encode(unquote(login).encode()).decode()
        )
    return request


def _answer(request: Request) -> tuple[int, bytes]:
    """The status and body; a server that drips its answer is given up, too."""
    until = time.monotonic() + ANSWER_SECONDS
    try:
        response = urlopen(request, timeout=ANSWER_SECONDS)  # noqa: S310 - see _request
    except HTTPError as error:
        response = error
    with response:
        body = b""
        while chunk := response.read1(_MOST_BYTES):
            body += chunk
            if time.monotonic() > until:
                raise TimeoutError("timed out")
            if len(body) > _MOST_BYTES:
                raise ValueError("a long answer")
        return response.status, body


def _parsed(status: int, body: bytes) -> Mapping[str, Any]:
    """The `data` of a successful answer."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise UnreadableError(f"answered {status}, without the JSON of its API")
    if status != 200 or answer.get("status") != "success":
        words = str(answer.get("error", "no reason given"))[:_MOST_WORDS]
        raise UnreadableError(f"answered {status}: {words}")
    # Prometheus 2 has its notes on style among the warnings, Prometheus 3 apart
    warnings = [str(text) for text in answer.get("warnings") or ()]
    warnings = [text for text in warnings if not text.startswith("PromQL info")]
    if warnings:
        raise UnreadableError(f"warns of its own answer: {warnings[0][:_MOST_WORDS]}")
    data = answer.get("data")
    if not isinstance(data, dict):
        raise UnreadableError(f"answered {status}, without the JSON of its API")
    return data


def _value(data: Mapping[str, Any]) -> float:
    kind, result = data.get("resultType"), data.get("result")
    if kind == "vector" and isinstance(result, list):
        if not result:
            raise UnreadableError("has no value: the query matches no series")
        if len(result) > 1:
            raise UnreadableError(
                f"has {len(result)} values: put max(…), sum(…) or the like around the query"
            )
        pair = result[0].get("value") if isinstance(result[0], dict) else None
    elif kind == "scalar":
        pair = result
    else:
        raise UnreadableError(f"answers with a {str(kind)[:20]}, not with one number")
    try:
        _, text = pair  # type: ignore[misc]  # whatever is no pair raises
        value = float(text)
    except (TypeError, ValueError) as error:
        raise UnreadableError("answers with something that is no number") from error
    if not math.isfinite(value):
        raise UnreadableError(f"answers with {text}, not with a number to compare")
    return value
