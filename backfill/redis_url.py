"""What the two clients of a Redis make of one URL: redis-py, which takes it as it is, and Celery's.

1. A parameter is one that redis-py takes from a URL, with a value that it can use: it passes on all
   others, and whoever connects later gets a TypeError.
2. Celery's transport (kombu) calls a socket `redis+socket://`, takes no parameter but those of TLS,
   and reads neither database nor login from one. The broker's URL is made of the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit


@dataclass(frozen=True, slots=True)
class _Form:
    """What a parameter's value matches, and how that is said."""

    pattern: str
    takes: str


_TEXT = _Form(r"[!-~]+", "text without spaces")
_PATH = _Form(r"[^\0]+", "a path")
_ANY = _Form(r".+", "text that is not empty")
_COUNT = _Form(r"0*[1-9][0-9]{0,8}", "a whole number from 1")
_FROM_ZERO = _Form(r"[0-9]{1,9}", "a whole number from 0")
_SECONDS = _Form(r"(?=.*[1-9])[0-9]{1,9}(\.[0-9]*)?|\.[0-9]*[1-9][0-9]*", "seconds above 0")
_SWITCH = _Form(r"(?i:true|false|yes|no|[tfyn10])", "true or false")

_EVERYWHERE: Mapping[str, _Form] = {
    "db": _FROM_ZERO,
    "username": _ANY,
    "password": _ANY,
    "client_name": _TEXT,
    "protocol": _Form("[23]", "2 or 3"),
    "encoding": _Form("(?i:utf-?8)", "utf-8"),
    "decode_responses": _SWITCH,
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "socket_read_size": _COUNT,
    "retry_on_timeout": _SWITCH,
    "health_check_interval": _FROM_ZERO,
    "max_connections": _COUNT,
}
_BY_NETWORK: Mapping[str, _Form] = {**_EVERYWHERE, "socket_keepalive": _SWITCH}
#: What both clients understand as text; redis-py alone has more.
_BY_TLS: Mapping[str, _Form] = {
    **_BY_NETWORK,
    "ssl_cert_reqs": _Form("none|optional|required", "none, optional or required"),
    "ssl_check_hostname": _Form("(?i:true|false)", "true or false"),
    "ssl_ca_certs": _PATH,
    "ssl_ca_path": _PATH,
    "ssl_ca_data": _Form(r"(?s:.+)", "certificates"),
    "ssl_certfile": _PATH,
    "ssl_keyfile": _PATH,
    "ssl_password": _ANY,
    "ssl_ciphers": _TEXT,
}
#: By the URL's scheme: the parameters that it may have.
PARAMETERS: Final[Mapping[str, Mapping[str, _Form]]] = {
    "redis": _BY_NETWORK,
    "rediss": _BY_TLS,
    "unix": _EVERYWHERE,
}


def wrong_parameter(url: str) -> tuple[str, str] | None:
    """What is wrong with the first wrong parameter, and what is right; None where all are right.

    No value is quoted: it may be a password.

    Args:
        url: with a scheme in lower case; no "@" stands in its query.
    """
    scheme = url.partition("://")[0]
    known = PARAMETERS[scheme]
    query = url.partition("#")[0].partition("?")[2]
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            return (
                f"has a parameter {name}, and {scheme}:// takes none of that name",
                f"Take it out.{hint}",
            )
        if re.fullmatch(known[name].pattern, value) is None:
            return (
                f"has a parameter {name} with a value that it cannot have",
                f"{name} is {known[name].takes}.",
            )
    return None


def broker_url(url: str) -> str:
    """The URL by which Celery's client comes to the same database, with the same login.

    Args:
        url: as `UrlVariable.redis` has checked it.
    """
    parts = urlsplit(url)
    given = parse_qsl(parts.query)
    said = dict(reversed(given))  # of one that is given twice redis-py takes the first
    user = parts.username or quote(said.get("username", ""), safe="")
    password = parts.password or quote(said.get("password", ""), safe="")
    login = f"{user}:{password}@" if user or password else ""
    if parts.scheme == "unix":
        path, query = quote(unquote(parts.path)), {"virtual_host": said.get("db", "0")}
        return f"redis+socket://{login}{path}?{urlencode(query)}"
    of_tls = urlencode([(name, value) for name, value in given if name.startswith("ssl_")])
    path = f"/{said['db']}" if "db" in said else parts.path
    place = parts.netloc.rpartition("@")[2]
    made = urlunsplit((parts.scheme, f"{login}{place}", path, of_tls, ""))
    return made.replace(";", "%3B")  # where Celery's client takes what follows for another URL
