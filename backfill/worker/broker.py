"""Lets a worker outlive its Redis (I4): kombu's channels say so when their connection is given up.

When Redis goes away, the worker gives its connection up and makes another. What still refers to the
old channel then, the acknowledgement of a task that ended meanwhile, or the putting back of its
message, asks a connection that is None for its address. That AttributeError ended the worker,
wherever one child was at work and another idle. A lost connection is what kombu and Celery expect
there: they log it and go on, and a message that comes again finds its slot taken (I3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from kombu.transport.redis import Channel
from redis.exceptions import ConnectionError as LostError


def mend_channels() -> None:
    """Let the channels of this process raise the error of a lost connection; twice does no harm."""
    find_parameters: Callable[..., dict[str, Any]] = Channel._connparams  # no public one serves
    if hasattr(find_parameters, "__wrapped__"):
        return

    @wraps(find_parameters)
    def parameters(self: Any, *args: Any, **options: Any) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            raise LostError("the connection to Redis has been given up")
        return find_parameters(self, *args, **options)

    Channel._connparams = parameters  # type: ignore[method-assign]  # kombu's, for all channels
