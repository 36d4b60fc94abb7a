"""What the two clients of a Redis make of one URL: redis-py, which takes it as it is, and Celery's.

Celery's transport (kombu) calls a socket `redis+socket://`, takes no parameter but those of TLS,
and reads neither database nor login from one. All are in the URL that redis-py takes, so the
broker's is made of it.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit


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
