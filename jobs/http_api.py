"""What the answers of an HTTP API mean for a row: done, later, or never.

Beside the answers there are no answers: connections that are refused or broken off, and times that
run out, are of the classes in `AWAY`. A job names them in `retry_on`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from backfill import Quarantine, RetryLater

#: No answer: urllib's URLError and time-outs are OSErrors.
AWAY = (OSError, HTTPException)

#: The API wants fewer requests (429), or is away behind its proxy; and what else is nobody's row.
_LATER = {408, 425, 429, 500, 502, 503, 504}
#: The key is wrong or has run out: until somebody mends it no row will go through.
_LOCKED_OUT = {401, 403}
_LOCKED_OUT_SECONDS = 60.0


def post(
    url: str, body: Mapping[str, object], *, token: str, once: str, timeout: float
) -> Mapping[str, object]:
    """Send JSON, and return the object that is answered; an empty one for an empty answer.

    Args:
        once: the same text for each attempt at the same row, so that the API may tell a repetition.
        timeout: seconds for each wait for the other side.

    Raises:
        RetryLater: the API says that it cannot answer now, and perhaps when.
        Quarantine: it refuses this request, for good.
    """
    request = Request(  # noqa: S310 - the address is the operator's own
        url,
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Idempotency-Key": once,
        },
        method="POST",
    )
    try:
        with urlopen(request, timeout=timeout) as answer:  # noqa: S310 - see above
            text = answer.read()
    except HTTPError as error:
        with error:
            raise _meaning(error) from None
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        # a proxy's page, as a rule: the API itself would have said why
        raise RetryLater("the answer is no JSON object")
    return found


def _meaning(error: HTTPError) -> Exception:
    """The error's answer is left out: it may quote what was sent."""
    if error.code in _LOCKED_OUT:
        return RetryLater(f"the API refuses the key ({error.code})", seconds=_LOCKED_OUT_SECONDS)
    if error.code in _LATER:
        return RetryLater(
            f"the API answered {error.code}", seconds=seconds_of(error.headers["Retry-After"])
        )
    return Quarantine(f"the API answered {error.code}")


def seconds_of(retry_after: str | None) -> float | None:
    """How long a `Retry-After` asks to wait: seconds, or an instant (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
