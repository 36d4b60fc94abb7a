"""Progress in Redis, from which everything live is read; and the run's token bucket.

Keys, all under `backfill:{ledger id}:` and all rebuilt from the ledger when they are gone (I4):

| key | type | what |
|---|---|---|
| `run:{id}` | hash | counts; `settled_rate` (decayed, keys/s), `since`, `at`; `built`, `building` |
| `run:{id}:slices` | hash | slice number → JSON: epoch and the slice's counts |
| `run:{id}:bucket` | string | until when what came was used (the server's clock, µs) |
| `run:{id}:batches` | hash | numbers (watch/batches.py); `seq:{caller}` → its last call |
| `run:{id}:picture` | string | JSON of a live run (watch/picture.py), for a few seconds |
| `run:{id}:recent` | list | JSON of how far it was in each of the last MOST_RECENT seconds |
| `run:{id}:pulses` | list | JSON of the ledger's pulses |
| `overview` | string | JSON of workers, schedules and the red button, for a few seconds |

Each slice's absolute counts are written, and the script adds the difference to the run's: writing
twice, late, or after a flush counts nothing twice. What is known to be newer is never overwritten:
a write under an older epoch is dropped, and under the same one if it has not come as far. So
several workers may rebuild a run at once, while others go on with it.
Whatever Redis does, no work depends on it: calls fail within a second and are then left out for a
moment.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar, cast
from uuid import uuid4

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from backfill import checkpoint_scripts as scripts
from backfill.events import Event
from backfill.model import Counts

log = structlog.get_logger("backfill")

#: Progress of a run that nobody touches any more is forgotten after this time.
KEEP_SECONDS = 7 * 24 * 3600
#: One call may block the work for so long; then Redis is left alone for AWAY_SECONDS.
CALL_SECONDS = 1.0
AWAY_SECONDS = 2.0
#: A call that took so long leaves Redis alone for ten times as long, at most AWAY_SECONDS: a batch
#: asks several times, and would else wait for a slow Redis more than it works.
SLOW_SECONDS = 0.1
#: A picture that nobody has renewed for so long is not shown any more: then the ledger is read.
PICTURE_SECONDS = 4.0
#: So many seconds of a run are kept one by one.
MOST_RECENT = 300
#: So many of them come with a run's progress: they say how steady its rate is.
RECENT_READ = 60
#: Time constant of the decayed rate. After three of them without a batch it begins anew.
RATE_SECONDS = 10.0
#: A rate seen for a shorter time is noise.
SEEN_SECONDS = 0.5
#: So many slices are rebuilt in one call: Redis answers nobody while it writes them.
PIECE_SLICES = 2_000
#: A rebuild that takes longer is given up; 100,000 slices took 5 s on two busy cores.
REBUILD_SECONDS = 30.0

_NAMES = tuple(Counts().as_dict())


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run's progress as Redis has it.

    Attributes:
        rows_per_second: keys settled per second, of late; None while too little has been seen.
        recent: how far it was in each of the last RECENT_READ seconds, as `publish` was given it.
    """

    counts: Counts
    rows_per_second: float | None
    recent: Sequence[str] = ()


T = TypeVar("T")


class Checkpoint:
    """The checkpoint of one ledger; methods return None when Redis is away.

    Args:
        url: of Redis.
        ledger_id: the ledger's uuid, the prefix of all keys.
    """

    def __init__(self, url: str, ledger_id: str) -> None:
        self._redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=CALL_SECONDS,
            socket_connect_timeout=CALL_SECONDS,
            # the default of some versions of redis-py waits for seconds between its attempts
            retry=Retry(NoBackoff(), 0),
        )
        self._prefix = f"backfill:{ledger_id}:"
        self._write_script = self._redis.register_script(scripts.WRITE)
        self._take_script = self._redis.register_script(scripts.TAKE)
        self._count_script = self._redis.register_script(scripts.COUNT)
        self._away_until = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @property
    def is_away(self) -> bool:
        """True for a moment after a call failed, or was slow."""
        return time.monotonic() < self._away_until

    def write(self, run: str, slices: Mapping[int, tuple[int, Counts]]) -> Snapshot | None:
        """Write slices' absolute counts (number → epoch, counts).

        Returns None when Redis is away, or has lost the run: then `rebuild` it from the ledger.
        """
        held = [(number, *of) for number, of in slices.items()]
        written = self._try(lambda: self._write(run, held, stage="write"))
        if written is None:
            return None
        flat = written[1]
        return _snapshot(dict(zip(flat[::2], flat[1::2], strict=True)))

    def rebuild(self, run: str, slices: Iterable[tuple[int, int, Counts]]) -> None:
        """Write (number, epoch, counts) of all of a run's slices, as the ledger has them.

        Makes a run that was lost, and mends one that lacks the last words of a killed worker; what
        others write meanwhile stays. It is written in pieces, between which Redis answers others:
        see `checkpoint_scripts.WRITE` for what becomes of one that is not finished.
        """

        def rebuild() -> bool:
            rest, builder, stage = iter(slices), uuid4().hex, "first"
            is_new, until = False, time.monotonic() + REBUILD_SECONDS
            while (piece := list(islice(rest, PIECE_SLICES))) or stage == "first":
                reply = self._write(run, piece, stage=stage, builder=builder)
                if reply is None or time.monotonic() > until:
                    return False
                if stage == "first":
                    is_new, builder = not reply[0], reply[2]
                stage = "next"
            ended = self._write(run, (), stage="end", builder=builder)
            return is_new and ended is not None

        if self._try(rebuild):
            log.info(Event.CHECKPOINT_REBUILT, run=run)

    def _write(
        self, run: str, slices: Iterable[tuple[int, int, Counts]], *, stage: str, builder: str = ""
    ) -> tuple[int, list[str], str] | None:
        """What `checkpoint_scripts.WRITE` answers."""
        arguments: list[str | int | float] = [
            KEEP_SECONDS,
            RATE_SECONDS,
            json.dumps(_NAMES),
            stage,
            builder,
        ]
        for number, epoch, counts in slices:
            arguments += [number, epoch, json.dumps(list(counts.as_dict().values()))]
        reply = self._write_script(keys=[self._run(run), self._slices(run)], args=arguments)
        return cast("tuple[int, list[str], str] | None", reply)

    def read(self, run: str) -> Snapshot | None:
        """A run's progress; the rate decays with the time since the last batch."""

        def read() -> Snapshot | None:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(self._run(run))
                pipe.time()
                pipe.lrange(f"{self._run(run)}:recent", -RECENT_READ, -1)
                fields, (seconds, micros), recent = pipe.execute()
            found = _snapshot(fields, now=seconds + micros / 1e6)
            return None if found is None else replace(found, recent=recent)

        return self._try(read)

    def take(
        self, run: str, rows: float, rows_per_second: float, *, burst: float, late: float
    ) -> float | None:
        """Take tokens for `rows` rows: 0; else seconds until they may be there. None: no Redis.

        Args:
            burst, late: seconds that an idle bucket remembers: `burst`, or if that is more, what
                the rows take to come, and `late`.
        """
        micros = self._try(
            lambda: self._take_script(
                keys=[f"{self._prefix}run:{run}:bucket"], args=[rows, rows_per_second, burst, late]
            )
        )
        return None if micros is None else int(cast("int", micros)) / 1e6

    def count(self, run: str, caller: str, call: int, added: Mapping[str, float]) -> bool:
        """Add to a run's numbers by name, once for each `call` of a caller; False: Redis is away.

        Args:
            caller: a thread of a process; unlike all others, also unlike an earlier one.
            call: above all calls that it has made before.
        """
        arguments: list[str | int | float] = [KEEP_SECONDS, caller, call]
        for name, value in added.items():
            arguments += [name, value]
        key = self._run(run) + ":batches"
        return self._try(lambda: self._count_script(keys=[key], args=arguments)) is not None

    def counted(self, run: str) -> dict[str, float] | None:
        """A run's numbers by name, over all processes; None: Redis is away."""
        found = self._try(
            lambda: cast("dict[str, str]", self._redis.hgetall(self._run(run) + ":batches"))
        )
        if found is None:
            return None
        return {k: float(value) for k, value in found.items() if not k.startswith("seq:")}

    def publish(self, run: str, picture: str, point: str) -> None:
        """Show a live run's picture for PICTURE_SECONDS, and keep how far it was."""
        key = self._run(run)

        def publish() -> None:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(f"{key}:picture", picture, px=int(PICTURE_SECONDS * 1000))
                pipe.rpush(f"{key}:recent", point)
                pipe.ltrim(f"{key}:recent", -MOST_RECENT, -1)
                pipe.expire(f"{key}:recent", KEEP_SECONDS)
                pipe.execute()

        self._try(publish)

    def unpublish(self, run: str) -> None:
        """The run has ended: whoever looks reads the ledger."""
        self._try(lambda: self._redis.delete(f"{self._run(run)}:picture"))

    def published(self, run: str) -> str | None:
        """A run's picture; None where there is none, or Redis is away."""
        return self._try(lambda: cast("str | None", self._redis.get(f"{self._run(run)}:picture")))

    def recent(self, run: str) -> list[str]:
        """How far a run was, second by second, oldest first; empty where Redis does not know."""
        key = f"{self._run(run)}:recent"
        return self._try(lambda: cast("list[str]", self._redis.lrange(key, 0, -1))) or []

    def add_pulse(self, run: str, pulse: str) -> bool:
        """Add a pulse to those that are there; False: there are none, so `put_pulses`."""
        key = f"{self._run(run)}:pulses"
        return bool(self._try(lambda: self._redis.rpushx(key, pulse)))

    def put_pulses(self, run: str, pulses: Sequence[str]) -> None:
        """Put a run's pulses in place of those that are there."""
        key = f"{self._run(run)}:pulses"

        def put() -> None:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                if pulses:
                    pipe.rpush(key, *pulses)
                    pipe.expire(key, KEEP_SECONDS)
                pipe.execute()

        self._try(put)

    def pulses(self, run: str) -> list[str]:
        """A run's pulses, oldest first; empty where Redis does not know."""
        key = f"{self._run(run)}:pulses"
        return self._try(lambda: cast("list[str]", self._redis.lrange(key, 0, -1))) or []

    def publish_overview(self, overview: str) -> None:
        """Show what is not of one run for PICTURE_SECONDS."""
        self._try(
            lambda: self._redis.set(
                f"{self._prefix}overview", overview, px=int(PICTURE_SECONDS * 1000)
            )
        )

    def overview(self) -> str | None:
        """What is not of one run; None where nobody publishes it, or Redis is away."""
        return self._try(lambda: cast("str | None", self._redis.get(f"{self._prefix}overview")))

    def _run(self, run: str) -> str:
        return f"{self._prefix}run:{run}"

    def _slices(self, run: str) -> str:
        return f"{self._prefix}run:{run}:slices"

    def _try(self, call: Callable[[], T]) -> T | None:
        if self.is_away:
            return None
        began = time.monotonic()
        try:
            answer = call()
        except redis.RedisError as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning(Event.CHECKPOINT_UNAVAILABLE, error=type(error).__name__)
            return None
        now = time.monotonic()
        if now - began > SLOW_SECONDS:
            self._away_until = now + min(AWAY_SECONDS, 10 * (now - began))
        return answer


def _snapshot(fields: Mapping[str, str], *, now: float | None = None) -> Snapshot | None:
    """A run's fields as values; None when it is not there. `now`: by the clock of Redis."""
    if "built" not in fields:
        return None
    return Snapshot(
        counts=Counts(**{name: int(fields.get(name, 0)) for name in _NAMES}),
        rows_per_second=_rate(fields, now),
    )


def _rate(fields: Mapping[str, str], now: float | None) -> float | None:
    """The decayed average, which falls only with the next batch: let silence count as one.

    It starts from 0, so it is divided by the share of its weights that lie in the time seen.
    """
    if "at" not in fields:
        return None
    at, since = float(fields["at"]), float(fields["since"])
    now = max(at, now or at)
    if now - since < SEEN_SECONDS:
        return None
    decayed = float(fields["settled_rate"]) * math.exp(-(now - at) / RATE_SECONDS)
    return decayed / -math.expm1(-(now - since) / RATE_SECONDS)
