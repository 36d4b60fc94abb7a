"""URLs in environment variables: named in settings, checked where they are used, never shown.

1. No message and no repr holds a URL: `safe_url` shows host, port and database, and rather nothing
   than a part that may be a password.
2. A missing variable is an error only for whoever asks for its URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from backfill.errors import ProjectError

_POSTGRES_SCHEME = re.compile(r"postgres(ql)?(\+[a-z0-9_]+)?://", re.IGNORECASE)
_REDIS_SCHEME = re.compile(r"(redis|rediss|unix)://", re.IGNORECASE)
_HTTP_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
# a name, an IPv6 address in brackets, or a socket's folder with %2F for its slashes; and a port
_HOST = re.compile(r"([\w.%~-]*|\[[0-9A-Fa-f:.%]+\])(:[0-9]*)?")
_PATH = re.compile(r"[\w./%~+:-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlVariable:
    """An environment variable that holds a URL.

    Attributes:
        name: the variable's.
        named_in: the place in the settings that names it, for messages.
        raw: what it holds, None where it is missing; use one of the methods.
    """

    name: str
    named_in: str
    raw: str | None = field(default=None, repr=False)

    def postgres(self) -> str:
        """The URL, always `postgresql://…`, as libpq reads it.

        Raises:
            ProjectError: the variable is missing or holds no URL of PostgreSQL.
        """
        raw = self._required("postgresql://user@host:5432/database")
        scheme = _POSTGRES_SCHEME.match(raw)
        if scheme is None:
            raise self._no_url("postgresql://")
        return f"postgresql://{raw[scheme.end() :]}"

    def redis(self) -> str:
        """The URL of a Redis.

        Raises:
            ProjectError: the variable is missing or holds no URL of Redis.
        """
        raw = self._required("redis://host:6379/0")
        if _REDIS_SCHEME.match(raw) is None:
            raise self._no_url("redis://, rediss:// or unix://")
        return raw

    def http(self) -> str:
        """The URL of a web server.

        Raises:
            ProjectError: the variable is missing or holds no http or https URL.
        """
        raw = self._required("http://host:9090")
        if _HTTP_SCHEME.match(raw) is None:
            raise self._no_url("http:// or https://")
        return raw

    def _required(self, example: str) -> str:
        if not self.raw:
            raise ProjectError(
                f"the environment variable {self.name} is not set (named in {self.named_in})",
                remedy=f"Set it, or write it into the project's .env: {self.name}={example}",
            )
        return self.raw

    def _no_url(self, starts: str) -> ProjectError:
        return ProjectError(
            f"the environment variable {self.name} holds no URL that starts with {starts}"
            f" (named in {self.named_in})"
        )


def safe_url(url: str) -> str:
    """The URL as it may be shown: scheme, host, port, database; no user, password or parameter.

    Where it cannot be told for certain which part is the password, nothing after the scheme is
    shown.
    """
    scheme, found, rest = url.partition("://")
    if not found or _SCHEME.fullmatch(scheme) is None:
        return "…"
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = re.split(r"[?#]", rest[len(authority) :], maxsplit=1)[0]
    hosts = authority.rpartition("@")[2]
    # an "@" further on: the "/", "?" or "#" before it may be a part of the password
    clear = "@" not in rest[len(authority) :] and _PATH.fullmatch(path) is not None
    if clear and all(_HOST.fullmatch(host) for host in hosts.split(",")):
        return f"{scheme}://{hosts}{path}"
    return f"{scheme}://…"
