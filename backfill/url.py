"""URLs in environment variables: named in settings, checked where they are used, never shown.

1. No message and no repr holds a URL: `safe_url` shows host, port and database, and rather nothing
   than a part that may be a password.
2. A missing variable is an error only for whoever asks for its URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

from backfill.errors import ProjectError
from backfill.redis_url import wrong_parameter

_POSTGRES_EXAMPLE = "postgresql://user@host:5432/database"
_REDIS_EXAMPLE = "redis://host:6379/0"
_SOCKET_EXAMPLE = "unix:///run/redis.sock?db=0"
_PERCENT_SIGNS = " In a password, write / as %2F, ? as %3F, # as %23, @ as %40 and % as %25."
_HTTP_EXAMPLE = "http://host:9090"
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
        raw = self._required(_POSTGRES_EXAMPLE)
        scheme = _POSTGRES_SCHEME.match(raw)
        if scheme is None:
            raise self._no_url("that starts with postgresql://", _POSTGRES_EXAMPLE)
        self._check_ports(raw, _POSTGRES_EXAMPLE)
        rest = raw[scheme.end() :]
        place, *path = re.split(r"[/?#]", rest, maxsplit=1)
        slashed = rest[len(place) :].startswith("/")
        # libpq takes the first @ for the end of the password, and quotes what follows as a host
        if place.count("@") > 1 or (slashed and "@" in re.split(r"[?#]", path[0])[0]):
            raise self._no_url("whose parts can be told apart", _POSTGRES_EXAMPLE, _PERCENT_SIGNS)
        if not _is_readable(raw):
            raise self._no_url(
                "in which each % and its two digits stand for UTF-8",
                _POSTGRES_EXAMPLE,
                _PERCENT_SIGNS,
            )
        return f"postgresql://{rest}"

    def redis(self) -> str:
        """The URL of a Redis; with TLS one that asks for the certificate to be checked.

        Raises:
            ProjectError: the variable is missing or holds no URL of Redis.
        """
        raw = self._required(_REDIS_EXAMPLE)
        scheme = _REDIS_SCHEME.match(raw)
        if scheme is None:
            raise self._no_url("that starts with redis://, rediss:// or unix://", _REDIS_EXAMPLE)
        kind, rest = scheme[1].lower(), raw[scheme.end() :]
        place, query = re.split(r"(?=[?#])", f"{rest}?", maxsplit=1)
        authority, slash, path = place.partition("/")
        if kind == "unix":
            # two slashes would make a host of the first folder, which no client looks at
            if not slash or (authority and not authority.endswith("@")):
                raise self._no_url("with a socket's whole path", _SOCKET_EXAMPLE, _PERCENT_SIGNS)
        else:
            self._check_ports(raw, _REDIS_EXAMPLE)
            # one client would take database 0 for it, another raise an error of its own
            if re.fullmatch(r"[0-9]*", path, re.ASCII) is None:
                raise self._no_url("whose database is a number", _REDIS_EXAMPLE)
        if "@" in query or not _is_splittable(
            raw
        ):  # what looks like a parameter may be a part of the password
            raise self._no_url("whose parts can be told apart", _REDIS_EXAMPLE, _PERCENT_SIGNS)
        url = f"{kind}://{rest}"
        if (wrong := wrong_parameter(url)) is not None:
            raise ProjectError(
                f"the URL in the environment variable {self.name} {wrong[0]}"
                f" (named in {self.named_in})",
                remedy=wrong[1],
            )
        return _checking(url) if kind == "rediss" else url

    def http(self) -> str:
        """The URL of a web server.

        Raises:
            ProjectError: the variable is missing or holds no http or https URL.
        """
        raw = self._required(_HTTP_EXAMPLE)
        if _HTTP_SCHEME.match(raw) is None:
            raise self._no_url("that starts with http:// or https://", _HTTP_EXAMPLE)
        self._check_ports(raw, _HTTP_EXAMPLE)
        return raw

    def _required(self, example: str) -> str:
        if not self.raw:
            raise ProjectError(
                f"the environment variable {self.name} is not set (named in {self.named_in})",
                remedy=f"Set it, or write it into the project's .env: {self.name}={example}",
            )
        return self.raw

    def _check_ports(self, raw: str, example: str) -> None:
        authority = re.split(r"[/?#]", raw.partition("://")[2], maxsplit=1)[0]
        _, at, hosts = authority.rpartition("@")
        for host in hosts.split(","):
            if host.startswith("[") and re.match(r"\[[^\[\]]*\](:|$)", host) is None:
                raise self._no_url(
                    "whose address in [ ] has both of them, and only :port behind", example
                )
            if at and host.count(":") > 1 and not host.startswith("["):
                raise self._no_url("whose IPv6 address stands in [ ], such as [::1]:5432", example)
            port = re.fullmatch(r"(?:\[[^\]]*\]|[^:]*)(?::([0-9]{0,5}))?", host, re.ASCII)
            if port is None or not 0 < int(port[1] or 1) < 65_536:
                raise self._no_url(
                    "whose port is a number from 1 to 65535",
                    example,
                    _PERCENT_SIGNS,
                )

    def _no_url(self, which: str, example: str, more: str = "") -> ProjectError:
        # nothing of it is quoted: any part may be a password
        return ProjectError(
            f"the environment variable {self.name} holds no URL {which} (named in {self.named_in})",
            remedy=f"Write it like {example}.{more}",
        )


def _is_readable(url: str) -> bool:
    """Whether libpq and psycopg can read each of its percent signs, and it as a whole: libpq quotes
    one that it cannot, and it may stand in the password.
    """
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", url) is not None:
        return False
    try:
        unquote_to_bytes(url).decode()
    except UnicodeError:
        return False
    return True


def _is_splittable(url: str) -> bool:
    """Whether Python's parser takes it, by which the clients of Redis read it."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def _checking(url: str) -> str:
    """A `rediss://` URL that says so: where it says nothing, Celery's client checks nothing."""
    rest, hashed, fragment = url.partition("#")
    if "ssl_cert_reqs=" not in rest.partition("?")[2]:
        rest += f"{'&' if '?' in rest else '?'}ssl_cert_reqs=required"
    return f"{rest}{hashed}{fragment}"


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
