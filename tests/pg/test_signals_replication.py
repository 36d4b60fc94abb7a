"""Replication lag, measured on a real streaming standby whose replay is held and let go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql

from backfill.local.postgres import LocalPostgres
from backfill.pg.connect import Connection, connect
from backfill.pg.install import upgrade
from backfill.pg.ledger import Ledger, open_ledger
from backfill.pg.replica import RETRY_SECONDS
from backfill.pg.wal import GAP_SECONDS
from backfill.signals import Reading
from tests import services
from tests.pg.holding import RUN, insert_run, until
from tests.pg.sampling import HandClock, asked_for, reader_of, sample, value, variable
from tests.pg.standby import (
    replay_held,
    standby_of,
    standbys_of,
    wait_until_replayed,
    write_wal,
)

SECONDS, BYTES, REPLICA = "replication_lag_seconds", "replication_lag_bytes", "replica_lag_seconds"


@pytest.fixture(scope="module")
def primary() -> Iterator[LocalPostgres]:
    with services.embedded_postgres({**services.FAST, "wal_level": "logical"}) as server:
        with connect(server.url()) as conn:
            upgrade(conn)
            insert_run(conn, RUN)
        yield server


@pytest.fixture
def standby(primary: LocalPostgres) -> Iterator[LocalPostgres]:
    with standby_of(primary) as server:
        yield server


@pytest.fixture
def pg(primary: LocalPostgres) -> Iterator[Connection]:
    with connect(primary.url()) as conn:
        yield conn


@pytest.fixture
def ledger(pg: Connection) -> Ledger:
    return open_ledger(pg, schema="backfill")


def lags(found: Mapping[str, Reading]) -> list[float]:
    return [value(found[name]) for name in (SECONDS, BYTES, REPLICA)]


def test_lag_rises_while_replay_is_held_and_falls_when_it_goes_on(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    clock = HandClock()
    replicas = (variable("REPLICA_URL", standby.url()),)
    with reader_of(asked_for(SECONDS, BYTES, REPLICA), clock=clock, replicas=replicas) as reader:
        until(lambda: lags(sample(reader, pg, ledger)) == [0, 0, 0])
        with replay_held(standby):
            write_wal(primary)
            for _ in range(40):
                clock.seconds += 1
                held = sample(reader, pg, ledger)
            assert 39 <= value(held[SECONDS]) <= 40
            assert 39 <= value(held[REPLICA]) <= 40
            assert 1_000_000 <= value(held[BYTES]) < 3_000_000
            assert held[SECONDS].detail == held[BYTES].detail == "replica1"
            assert held[REPLICA].detail == "REPLICA_URL"

        until(lambda: lags(sample(reader, pg, ledger)) == [0, 0, 0])


def test_an_idle_primary_has_no_lag_however_old_its_last_transaction_is(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    clock = HandClock()
    replicas = (variable("REPLICA_URL", standby.url()),)
    wait_until_replayed(primary)
    zeros = 0
    with reader_of(asked_for(SECONDS, REPLICA), clock=clock, replicas=replicas) as reader:
        for _ in range(100):
            clock.seconds += GAP_SECONDS
            wait_until_replayed(primary)
            found = sample(reader, pg, ledger)
            # a checkpoint in this very moment is replayed in the next: a step at most
            assert max(value(found[SECONDS]), value(found[REPLICA])) <= GAP_SECONDS
            zeros += value(found[SECONDS]) == value(found[REPLICA]) == 0
    assert zeros > 90


def test_a_lag_from_before_the_first_sample_is_taken_from_what_the_servers_report(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    def first_sample() -> float:
        write_wal(primary, 10)
        replicas = (variable("REPLICA_URL", standby.url()),)
        with reader_of(asked_for(SECONDS, REPLICA), replicas=replicas) as reader:
            found = sample(reader, pg, ledger)
        return min(value(found[REPLICA]), value(found[SECONDS]))

    write_wal(primary, 10)
    wait_until_replayed(primary)
    with replay_held(standby):
        until(lambda: first_sample() > 0.2)


def test_a_replica_that_is_behind_for_an_instant_at_the_first_look_is_looked_at_again(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    with ExitStack() as held:

        class CatchesUp(HandClock):
            """While the reader sleeps, the replica replays what was written just now."""

            def sleep(self, seconds: float) -> None:
                held.close()
                wait_until_replayed(primary)
                super().sleep(seconds)

        write_wal(primary, 10)
        wait_until_replayed(primary)
        held.enter_context(replay_held(standby))
        write_wal(primary, 10)
        replicas = (variable("REPLICA_URL", standby.url()),)
        with reader_of(asked_for(REPLICA), clock=CatchesUp(), replicas=replicas) as reader:
            assert value(sample(reader, pg, ledger)[REPLICA]) == 0


def test_a_standby_that_is_late_on_purpose_does_not_count(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    with (
        reader_of(asked_for(SECONDS, BYTES), ignored_standbys=("replica1",)) as reader,
        replay_held(standby),
    ):
        write_wal(primary)
        found = sample(reader, pg, ledger)
    assert value(found[BYTES]) == value(found[SECONDS]) == 0
    assert found[BYTES].detail == "no standby is connected"


def test_a_logical_subscriber_is_no_standby(
    primary: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    pg.execute("CREATE TABLE published (id integer PRIMARY KEY)")
    pg.execute("CREATE PUBLICATION ours FOR TABLE published")
    pg.execute("SELECT pg_create_logical_replication_slot('subscriber', 'pgoutput')")
    url = primary.create_database("subscriber")
    with psycopg.connect(url, autocommit=True) as subscriber:
        subscriber.execute("CREATE TABLE published (id integer PRIMARY KEY)")
        subscriber.execute(
            sql.SQL(
                "CREATE SUBSCRIPTION subscriber CONNECTION {} PUBLICATION ours"
                " WITH (create_slot = false, slot_name = 'subscriber', copy_data = false)"
            ).format(sql.Literal(primary.url()))
        )
        try:
            until(lambda: "subscriber" in standbys_of(primary))
            with reader_of(asked_for(BYTES)) as reader:
                assert sample(reader, pg, ledger)[BYTES].detail == "no standby is connected"
        finally:
            subscriber.execute("DROP SUBSCRIPTION subscriber")


def test_a_standby_that_was_removed_is_not_missed(
    primary: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    clock = HandClock()
    with reader_of(asked_for(SECONDS, BYTES), clock=clock) as reader:
        with standby_of(primary, "leaving") as standby, replay_held(standby):
            sample(reader, pg, ledger)
            write_wal(primary)
            for _ in range(2):
                clock.seconds += 20
                held = sample(reader, pg, ledger)
            assert value(held[SECONDS]) > 30
        until(lambda: "leaving" not in standbys_of(primary))
        gone = sample(reader, pg, ledger)
    assert value(gone[SECONDS]) == value(gone[BYTES]) == 0


def test_a_named_replica_that_is_away_is_unreadable_until_it_is_back(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    clock = HandClock()
    replicas = (
        variable("NEAR_URL", standby.url()),
        variable("FAR_URL", "postgresql://ann:s3cret@127.0.0.1:1/postgres"),
    )
    with reader_of(asked_for(REPLICA, BYTES), clock=clock, replicas=replicas) as reader:
        found = sample(reader, pg, ledger)
        assert found[REPLICA].value is None
        assert "replica FAR_URL (postgresql://127.0.0.1:1/postgres)" in found[REPLICA].problem
        assert "take FAR_URL out of backfill.toml: [databases.main]" in found[REPLICA].problem
        assert "NEAR_URL" not in found[REPLICA].problem
        assert "s3cret" not in found[REPLICA].problem
        assert value(found[BYTES]) >= 0  # the others are read

    with reader_of(asked_for(REPLICA), clock=clock, replicas=replicas[:1]) as reader:
        assert value(sample(reader, pg, ledger)[REPLICA]) >= 0
        standby.stop(keep=True)
        assert "replica NEAR_URL" in sample(reader, pg, ledger)[REPLICA].problem
        standby.start()
        assert "replica NEAR_URL" in sample(reader, pg, ledger)[REPLICA].problem  # not yet again
        clock.seconds += RETRY_SECONDS
        assert value(sample(reader, pg, ledger)[REPLICA]) >= 0


def test_a_replica_that_hangs_is_given_up_after_two_seconds(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    replicas = (variable("REPLICA_URL", standby.url()),)
    with reader_of(asked_for(REPLICA, BYTES), replicas=replicas) as reader:
        sample(reader, pg, ledger)
        with psycopg.connect(standby.url()) as conn:
            row = conn.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'backfill signals'"
            ).fetchone()
        assert row is not None
        os.kill(row[0], signal.SIGSTOP)
        try:
            found = sample(reader, pg, ledger)
        finally:
            os.kill(row[0], signal.SIGCONT)
    assert "no answer within 2 s" in found[REPLICA].problem
    assert value(found[BYTES]) >= 0


def test_a_replica_that_was_promoted_is_no_replica(
    primary: LocalPostgres, standby: LocalPostgres, pg: Connection, ledger: Ledger
) -> None:
    with psycopg.connect(standby.url(), autocommit=True) as conn:
        conn.execute("SELECT pg_promote()")
    with reader_of(
        asked_for(REPLICA), replicas=(variable("REPLICA_URL", standby.url()),)
    ) as reader:
        assert "it is no standby" in sample(reader, pg, ledger)[REPLICA].problem


def test_a_standby_of_another_cluster_is_refused(
    pg: Connection, ledger: Ledger, own_postgres: LocalPostgres
) -> None:
    with (
        standby_of(own_postgres) as stranger,
        reader_of(
            asked_for(REPLICA), replicas=(variable("REPLICA_URL", stranger.url()),)
        ) as reader,
    ):
        problem = sample(reader, pg, ledger)[REPLICA].problem
    assert "REPLICA_URL" in problem
    assert "standby of another cluster" in problem


@pytest.mark.parametrize(("url", "words"), [(None, "is not set"), ("mysql://h/d", "holds no URL")])
def test_a_replica_without_a_usable_url_is_unreadable(
    pg: Connection, ledger: Ledger, url: str | None, words: str
) -> None:
    with reader_of(asked_for(REPLICA), replicas=(variable("REPLICA_URL", url),)) as reader:
        problem = sample(reader, pg, ledger)[REPLICA].problem
    assert "REPLICA_URL" in problem
    assert words in problem
