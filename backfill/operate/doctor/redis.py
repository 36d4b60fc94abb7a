"""Doctor: the Redis that carries messages and shows progress.

Nothing that is wrong with it can lose or repeat a row (I4); what it costs is speed, and being able
to see.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backfill.errors import BackfillError
from backfill.operate.doctor.outcome import Notebook
from backfill.settings import Settings
from backfill.url import safe_url

#: One answer may take so long.
ANSWER_SECONDS = 2.0
#: Of maxmemory.
FULL_SHARE = 0.9
CLOCK_SECONDS = 2.0
_LOCAL = {"127.0.0.1", "localhost", "::1", ""}


def examine_redis(settings: Settings) -> tuple[Notebook, bool]:
    """Look at the project's Redis; whether messages can be sent through it."""
    notes = Notebook("redis")
    if not settings.raw_redis_url and settings.celery_app is not None:
        notes.note(
            "not-named",
            f"the environment variable {settings.redis_url_env} is not set: each worker keeps its"
            " part of a run's rate, and progress is read from the database",
            f"Set it for a checkpoint: {settings.redis_url_env}=redis://host:6379/0",
        )
        return notes, True
    if not settings.raw_redis_url:
        notes.warning(
            "not-named",
            f"the environment variable {settings.redis_url_env} is not set: `run` works without,"
            " `enqueue` and `worker` do not",
            f"Set it: {settings.redis_url_env}=redis://host:6379/0",
        )
        return notes, False
    try:
        url = settings.require_redis_url()
        with closing(
            redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        ) as client:
            return _look(notes, client, url, settings)
    except BackfillError as error:
        notes.error("unreachable", error.message, error.remedy or "Correct the URL.")
    except redis.AuthenticationError:
        notes.error(
            "unreachable",
            f"{safe_url(settings.raw_redis_url)} refuses the login",
            f"Correct user and password in {settings.redis_url_env}.",
        )
    except (redis.RedisError, OSError, ValueError) as error:
        notes.error(
            "unreachable",
            f"{safe_url(settings.raw_redis_url)} does not answer: {type(error).__name__}",
            f"Check that it runs, and the address in {settings.redis_url_env}.",
        )
    return notes, False


def _look(
    notes: Notebook, client: redis.Redis, url: str, settings: Settings
) -> tuple[Notebook, bool]:
    info: Mapping[str, Any] = client.info()
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    notes.ok("server", f"{name} {version} at {safe_url(url)}")
    usable = True
    if info.get("cluster_enabled") or info.get("redis_mode") == "cluster":
        usable = False
        notes.error(
            "cluster",
            "it is a cluster, which Celery's transport cannot use",
            "Use a single server, or one with replicas behind a stable name.",
        )
    if info.get("role") != "master":
        usable = False
        notes.error(
            "replica",
            "it is a replica, to which nobody can write",
            "Let the URL name the primary.",
        )
    _memory(notes, info)
    _persistence(notes, info)
    _access(notes, url)
    if usable:
        waiting = client.llen(settings.queue)
        notes.ok("queue", f"queue {settings.queue}: {waiting} messages wait")
        ahead = time.time() - _time(client)
        if abs(ahead) > CLOCK_SECONDS:
            notes.warning(
                "clock",
                f"this machine's clock is {abs(ahead):,.1f} s"
                f" {'ahead of' if ahead > 0 else 'behind'} the one of Redis, by which rates are"
                " measured",
                "Let both follow the time (NTP).",
            )
    return notes, usable


def _memory(notes: Notebook, info: Mapping[str, Any]) -> None:
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        notes.warning(
            "eviction",
            f"maxmemory-policy is {policy}: when memory runs out, messages and progress are thrown"
            " away; the ledger has both, so runs only become slower and dark",
            "CONFIG SET maxmemory-policy noeviction, or give backfill a Redis of its own.",
        )
    if most and used > FULL_SHARE * most:
        what = "it takes no message" if used >= most else "soon it takes no message"
        notes.warning(
            "memory",
            f"{used / most:.0%} of its memory is in use: {what}; no row is lost by that",
            "Raise maxmemory, or look for what fills it.",
        )


def _persistence(notes: Notebook, info: Mapping[str, Any]) -> None:
    if info.get("aof_enabled"):
        notes.ok("persistence", "it keeps an append-only file")
    else:
        notes.note(
            "persistence",
            "it keeps no append-only file: a restart loses the messages that wait, and the"
            " reconciler sends them again within seconds; no row is lost",
            "CONFIG SET appendonly yes, where other messages than ours are in it.",
        )


def _access(notes: Notebook, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "unix" or (parts.hostname or "") in _LOCAL:
        return
    if parts.password is None:
        notes.warning(
            "no-password",
            "it asks for no password: whoever reaches it can send messages to the workers",
            "Set one (requirepass, or an ACL), and keep it in a private network.",
        )
    if parts.scheme != "rediss":
        notes.warning(
            "not-encrypted",
            "the connection leaves this machine without TLS",
            "Use rediss://, or a private network.",
        )


def _time(client: redis.Redis) -> float:
    seconds, micros = client.time()
    return float(seconds) + float(micros) / 1e6
