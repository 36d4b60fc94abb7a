"""Progress in Redis, from which everything live is read; and the run's token bucket.

Keys, all under `backfill:{ledger id}:` and all rebuilt from the ledger when they are gone (I4):

| key | type | what |
|---|---|---|
| `run:{id}` | hash | counts by outcome; `settled_rate` (decayed, keys/s); `at`; `built` |
| `run:{id}:slices` | hash | slice number → JSON: epoch and the slice's counts |
| `run:{id}:bucket` | string | when the next token is free, in microseconds of the server's clock |

Each slice's absolute counts are written, and the script adds the difference to the run's: writing
twice, late, or after a flush counts nothing twice. A write under an older epoch is dropped.
Whatever Redis does, no work depends on it: calls fail within a second and are then left out for a
moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import redis
import structlog

from backfill.events import Event
from backfill.model import Counts

log = structlog.get_logger("backfill")

#: Progress of a run that nobody touches any more is forgotten after this time.
KEEP_SECONDS = 7 * 24 * 3600
#: One call may block the work for so long; then Redis is left alone for AWAY_SECONDS.
CALL_SECONDS = 1.0
AWAY_SECONDS = 2.0
#: Time constant of the decayed rate.
RATE_SECONDS = 10.0

_NAMES = tuple(Counts().as_dict())

# KEYS: run, slices. ARGV: keep, tau, then per slice: number, epoch, counts as JSON array.
# Returns nil when the run's keys are not there (never built, or flushed), else its counts and rate.
_WRITE = """
if redis.call('HEXISTS', KEYS[1], 'built') == 0 then return nil end
local names = cjson.decode(ARGV[3])
local settled = 0
for i = 4, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  local before = old and cjson.decode(old) or nil
  local epoch = tonumber(ARGV[i + 1])
  if not before or before.epoch <= epoch then
    local counts = cjson.decode(ARGV[i + 2])
    for j, name in ipairs(names) do
      local delta = counts[j] - (before and before.counts[j] or 0)
      if delta ~= 0 then redis.call('HINCRBY', KEYS[1], name, delta) end
      if name == 'paged' then settled = settled + delta end
      if name == 'deferred' then settled = settled - delta end
    end
    redis.call('HSET', KEYS[2], ARGV[i], cjson.encode({epoch = epoch, counts = counts}))
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local at = tonumber(redis.call('HGET', KEYS[1], 'at') or now)
local rate = tonumber(redis.call('HGET', KEYS[1], 'settled_rate') or 0)
local tau = tonumber(ARGV[2])
rate = rate * math.exp(-(now - at) / tau) + math.max(settled, 0) / tau
redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now))
redis.call('HSET', KEYS[1], 'settled_rate', string.format('%.3f', rate))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""

# KEYS: bucket. ARGV: rows, rows per second, burst in seconds. Returns microseconds to wait.
# The server's clock counts for everybody. An idle bucket remembers `burst` seconds.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local free = tonumber(redis.call('GET', KEYS[1]) or now)
local start = math.max(free, now - tonumber(ARGV[3]) * 1000000)
local stop = start + tonumber(ARGV[1]) / tonumber(ARGV[2]) * 1000000
redis.call('SET', KEYS[1], string.format('%.0f', stop), 'EX', 3600)
return math.max(0, math.ceil(stop - now))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run's progress as Redis has it; the rate in keys settled per second."""

    counts: Counts
    rows_per_second: float


T = TypeVar("T")
#: What redis-py sends.
Encodable = bytes | bytearray | memoryview | str | int | float


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
        )
        self._prefix = f"backfill:{ledger_id}:"
        self._write_script = self._redis.register_script(_WRITE)
        self._take_script = self._redis.register_script(_TAKE)
        self._away_until = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @property
    def is_away(self) -> bool:
        """True for a moment after a call failed."""
        return time.monotonic() < self._away_until

    def write(self, run: str, slices: Mapping[int, tuple[int, Counts]]) -> Snapshot | None:
        """Write slices' absolute counts (number → epoch, counts).

        Returns None when Redis is away, or has lost the run: then `rebuild` it from the ledger.
        """
        arguments: list[str | int | float] = [KEEP_SECONDS, RATE_SECONDS, json.dumps(_NAMES)]
        for number, (epoch, counts) in slices.items():
            arguments += [number, epoch, json.dumps(list(counts.as_dict().values()))]
        return self._try(
            lambda: _snapshot(
                _pairs(self._write_script(keys=[self._run(run), self._slices(run)], args=arguments))
            )
        )

    def rebuild(self, run: str, slices: Iterable[tuple[int, int, Counts]]) -> None:
        """Write the whole run anew, from (number, epoch, counts) of all its slices."""
        total = Counts()
        fields: dict[Encodable, Encodable] = {}
        for number, epoch, counts in slices:
            total += counts
            fields[str(number)] = json.dumps(
                {"epoch": epoch, "counts": list(counts.as_dict().values())}
            )

        def write() -> bool:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(self._run(run), self._slices(run))
                pipe.hset(self._run(run), mapping=dict(self._totals(total)))
                pipe.expire(self._run(run), KEEP_SECONDS)
                if fields:
                    pipe.hset(self._slices(run), mapping=dict(fields))
                    pipe.expire(self._slices(run), KEEP_SECONDS)
                pipe.execute()
            return True

        if self._try(write):
            log.info(Event.CHECKPOINT_REBUILT, run=run, slices=len(fields))

    def read(self, run: str) -> Snapshot | None:
        """A run's progress; the rate decays with the time since the last batch."""

        def read() -> Snapshot | None:
            fields = cast("dict[str, str]", self._redis.hgetall(self._run(run)))
            seconds, micros = self._redis.time()
            return _snapshot(fields, now=seconds + micros / 1e6)

        return self._try(read)

    def take(self, run: str, rows: int, rows_per_second: float, *, burst: float) -> float | None:
        """Take tokens for `rows` rows; seconds to wait before using them, None: Redis is away."""
        micros = self._try(
            lambda: self._take_script(
                keys=[f"{self._prefix}run:{run}:bucket"], args=[rows, rows_per_second, burst]
            )
        )
        return None if micros is None else int(cast("int", micros)) / 1e6

    @staticmethod
    def _totals(total: Counts) -> Iterator[tuple[Encodable, Encodable]]:
        yield from total.as_dict().items()
        yield "built", 1

    def _run(self, run: str) -> str:
        return f"{self._prefix}run:{run}"

    def _slices(self, run: str) -> str:
        return f"{self._prefix}run:{run}:slices"

    def _try(self, call: Callable[[], T]) -> T | None:
        if self.is_away:
            return None
        try:
            return call()
        except redis.RedisError as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning(Event.CHECKPOINT_UNAVAILABLE, error=type(error).__name__)
            return None


def _pairs(reply: object) -> dict[str, str]:
    if reply is None:
        return {}
    flat = cast("list[str]", reply)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _snapshot(fields: Mapping[str, str], *, now: float | None = None) -> Snapshot | None:
    if "built" not in fields:
        return None
    at = float(fields.get("at", now or 0.0))
    silent = 0.0 if now is None else max(0.0, now - at)
    # an event-driven average falls only with the next event: let silence count as one
    rate = float(fields.get("settled_rate", 0.0)) * 2.718281828 ** (-silent / RATE_SECONDS)
    return Snapshot(
        counts=Counts(**{name: int(fields.get(name, 0)) for name in _NAMES}),
        rows_per_second=rate,
    )
