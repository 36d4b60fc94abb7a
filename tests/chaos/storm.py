"""A storm: a seeded schedule of blows against a crew's workers and their servers.

The schedule (which blows, in which order, with which pauses between) depends on the seed alone. Who
is hit depends also on who lives at that moment, so a replay is the same storm and not the same
second: what it finds, it finds again with a good chance.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import redis

from backfill.local.postgres import LocalPostgres
from backfill.local.redis import LocalRedis
from backfill.model import PauseCause, RunState
from backfill.operate import rows as quarantine
from backfill.operate import runs as operate
from backfill.pg.ledger import pauses
from tests.acceptance.crew import POINTS, Crew, Worker
from tests.chaos.checker import (
    check_epochs,
    check_ledger,
    check_nobody_is_left,
    check_truth,
    under_old_epochs,
)
from tests.chaos.field import Field

#: How often each blow comes, in relation to the others. Those of servers come only where a storm
#: has servers of its own.
BLOWS: Mapping[str, int] = {
    "kill child": 25,
    "kill child at a point": 30,
    "end backend": 30,
    "kill worker": 3,
    "kill worker at a point": 4,
    "kill main": 2,
    "terminate worker": 3,
    "stop child": 4,
    "stop worker": 3,
    "stop main": 2,
    "hold rows": 6,
}
SERVER_BLOWS: Mapping[str, int] = {
    "crash postgres": 2,
    "kill redis": 2,
    "flush redis": 2,
    "cut all": 2,
}
#: Blows that end a process or a backend, and so count.
KILLS = frozenset(
    name for name in {**BLOWS, **SERVER_BLOWS} if name.split()[0] in {"kill", "end", "terminate"}
) | {"crash postgres", "cut all"}
PATIENCE_SECONDS = 1.5
#: What a run may take to its end once nobody disturbs it.
CALM_SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class Blow:
    """One blow of the schedule.

    Attributes:
        pause_seconds: before it.
        lasts_seconds: how long who is stopped stands still; within and beyond a lease of 2 s.
        point: of a batch, for those who die there.
    """

    name: str
    pause_seconds: float
    lasts_seconds: float
    point: str


def schedule(chance: random.Random, weights: Mapping[str, int], pause: float) -> Iterator[Blow]:
    """Blows without end; `pause` is the longest between two."""
    while True:
        (name,) = chance.choices(list(weights), list(weights.values()))
        yield Blow(
            name, chance.random() * pause, 0.1 + 3.9 * chance.random() ** 2, chance.choice(POINTS)
        )


@dataclass(slots=True)
class Storm:
    """Blows against the crew of a field.

    Attributes:
        seed: of the schedule, and of who is hit, each by a sequence of its own: the schedule is the
            same however the first storm went.
        rows_between: so many rows are done between two blows, or PATIENCE_SECONDS go by: a storm
            so dense that nothing happens would show nothing, and a busy machine makes it denser.
        dealt: how many of each blow hit.
        paused: how often a run was paused for each cause, and had to be helped on.
    """

    over: Field
    seed: int
    workers: int
    children: int
    pause_seconds: float
    rows_between: int
    postgres: LocalPostgres | None = None
    redis: LocalRedis | None = None
    dealt: Counter[str] = field(default_factory=Counter)
    paused: Counter[str] = field(default_factory=Counter)
    chance: random.Random = field(init=False)
    _blows: random.Random = field(init=False)
    _waking: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _ordered: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._blows, self.chance = random.Random(self.seed), random.Random(f"who, {self.seed}")

    @property
    def crew(self) -> Crew:
        return self.over.crew

    @property
    def kills(self) -> int:
        """Processes and backends that were ended."""
        return sum(number for name, number in self.dealt.items() if name in KILLS)

    def rage(self, kills: int) -> None:
        """Blow after blow until so many kills were dealt, or nobody is left to disturb."""
        self.crew.wait(lambda: self.over.settled, "the first rows are done")
        weights = {**BLOWS, **(SERVER_BLOWS if self.postgres and self.redis else {})}
        for blow in schedule(self._blows, weights, self.pause_seconds):
            if self.kills >= kills or not self.over.is_worked_on:
                return
            self._wait(blow.pause_seconds)
            self._deal(blow)
            self.crew.keep_alive(self.workers, children=self.children)
            self._wait_for_rows()

    def outlive(self) -> None:
        """Stop a holder before its next batch until another holds its slice; then it goes on.

        What it does next, it does under an old epoch: it must not commit (I3).
        """
        crew = self.crew
        crew.order("stop child", "before BEGIN")
        crew.wait(crew.stopped, "a holder stands still")
        held = crew.query(
            "SELECT run, number, epoch FROM backfill.slice WHERE holder LIKE %s",
            f"%:{crew.stopped()}.%",
        )
        assert held, "who stands still holds no slice"
        crew.wait(
            lambda: crew.query(
                "SELECT FROM backfill.slice WHERE run = %s AND number = %s AND epoch > %s"
                " AND holder IS NOT NULL",
                *held[0],
            ),
            "another holds its slice",
        )
        told = self._told_of_newer_epochs()
        crew.let_stopped_go_on()
        crew.wait(
            lambda: self._told_of_newer_epochs() > told or under_old_epochs(crew, str(held[0][0])),
            "who comes back tries to go on",
        )
        check_epochs(crew, str(held[0][0]))
        self.dealt["outlive an epoch"] += 1

    def _told_of_newer_epochs(self) -> int:
        return sum(worker.log.read_text().count("newer epoch") for worker in self.crew.workers)

    def calm(self) -> None:
        """Let everything go on and every run come to its end, and check all of it.

        Raises:
            AssertionError: something is not as it must be.
        """
        for _, wake in self._waking:
            wake()
        self._waking.clear()
        self.over.let_rows_go()
        self._count_orders(withdraw=True)
        self.crew.keep_alive(self.workers, children=self.children)
        deadline = time.monotonic() + CALM_SECONDS
        while not all(self._has_ended(run) for run in self.over.runs.values()):
            assert time.monotonic() < deadline, f"it does not end: {self.crew.told()}"
            time.sleep(0.05)
        for run in self.over.runs.values():
            check_ledger(self.crew, run)
        check_truth(self.over)
        check_nobody_is_left(self.crew)

    def _has_ended(self, run: str) -> bool:
        """A run that is paused says why and what ends it; then that is done."""
        state = self.crew.state(run)
        if state is not RunState.PAUSED:
            return not state.is_live
        desk, project = self.crew.desk, self.crew.project
        for pause in pauses(desk.conn, desk.ledger, run):
            assert pause.reason, f"a pause of {run} does not say why: {pause}"
            assert pause.ends, f"a pause of {run} does not say what ends it: {pause}"
            self.paused[pause.cause] += 1
            if pause.cause == PauseCause.QUARANTINE:
                quarantine.accept_quarantine(project, desk, self.crew.run(run), by="the storm")
            elif pause.cause == PauseCause.ERROR:
                print(f"{run} was paused: {pause.reason}")
                operate.resume(
                    project, desk, self.crew.run(run), accept_changes=False, by="the storm"
                )
        return False

    # -- the blows --------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Wait, and wake who has stood still for long enough."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for due, wake in list(self._waking):
                if due <= now:
                    wake()
                    self._waking.remove((due, wake))
            self._count_orders()
            if now >= until:
                return
            time.sleep(min(0.05, until - now))

    def _wait_for_rows(self) -> None:
        before, until = self.over.settled, time.monotonic() + PATIENCE_SECONDS
        while self.over.settled < before + self.rows_between and time.monotonic() < until:
            self._wait(0.05)

    def _deal(self, blow: Blow) -> None:
        """Deal one; it counts where it hit somebody."""
        on_servers: Mapping[str, Callable[[], bool]] = {
            "hold rows": self._hold_rows,
            "end backend": lambda: self._end_backends(limit=1),
            "cut all": lambda: self._end_backends(limit=1_000),
            "crash postgres": self._crash_postgres,
            "kill redis": lambda: self._kill_redis(blow),
            "flush redis": self._flush_redis,
            # these two count when somebody obeys
            "kill child at a point": lambda: self.order("kill child", blow.point),
            "kill worker at a point": lambda: self.order("kill worker", blow.point),
            "stop child": lambda: self._stop_child(blow),
        }
        if blow.name in on_servers:
            self.dealt[blow.name] += on_servers[blow.name]()
        elif self.crew.alive:
            hit = self._strike(self.chance.choice(self.crew.alive), blow)
            self.dealt[blow.name] += hit

    def _strike(self, worker: Worker, blow: Blow) -> bool:
        match blow.name:
            case "kill child":
                return worker.kill_a_child(self.chance)
            case "kill worker":
                worker.kill()
            case "kill main":
                worker.kill_main()
            case "terminate worker":
                worker.terminate()
            case "stop worker":
                worker.stop()
                self._later(blow, worker.go_on)
            case "stop main":
                worker.stop_main()
                self._later(blow, worker.go_on)
            case unknown:
                raise AssertionError(unknown)
        return True

    def _hold_rows(self) -> bool:
        self.over.hold_rows(self.chance)
        return True

    def _stop_child(self, blow: Blow) -> bool:
        self.crew.order("stop child", blow.point)
        self._later(blow, self._continue_stopped)
        return True

    def _later(self, blow: Blow, wake: Callable[[], None]) -> None:
        self._waking.append((time.monotonic() + blow.lasts_seconds, wake))

    def order(self, action: str, point: str) -> bool:
        """The next child that comes to this point obeys; False, because it is counted then."""
        self._ordered.add((action, point))
        self.crew.order(action, point)
        return False

    def _count_orders(self, *, withdraw: bool = False) -> None:
        for action, point in list(self._ordered):
            if self.crew.is_obeyed(action, point):
                self._ordered.remove((action, point))
                self.dealt[f"{action} at a point"] += 1
            elif withdraw:
                self.crew.withdraw(action, point)
                self._ordered.discard((action, point))

    def _continue_stopped(self) -> None:
        """Everybody goes on who was stopped by an order."""
        for point in POINTS:
            self.crew.withdraw("stop child", point)
        self.crew.let_stopped_go_on()

    def _end_backends(self, *, limit: int) -> bool:
        """End backends of the workers, whatever they are at."""
        ours = [self.crew.conn.info.backend_pid, self.crew.desk.conn.info.backend_pid]
        ended = self.crew.query(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> ALL(%s) ORDER BY (state = 'idle'), md5(pid::text || %s) LIMIT %s)"
            " AS chosen",
            ours,
            str(self.chance.random()),
            limit,
        )
        return bool(ended)

    def _crash_postgres(self) -> bool:
        if self.postgres is None:
            return False
        self.over.let_rows_go()
        self.postgres.kill()
        time.sleep(self.chance.random())
        self.postgres.start()
        self.crew.reconnect()
        return True

    def _kill_redis(self, blow: Blow) -> bool:
        if self.redis is None or self.redis.pid is None:
            return False
        self.redis.kill()
        self._later(blow, self.redis.start)
        return True

    def _flush_redis(self) -> bool:
        if self.redis is None:
            return False
        with suppress(redis.RedisError), redis.Redis.from_url(self.redis.url()) as client:
            client.flushall()
        return True
