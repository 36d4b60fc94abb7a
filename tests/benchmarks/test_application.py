"""What the benchmark reads: pgbench's log, percentiles, and lock waits in the server's log."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.application import Transaction, latencies, parse_log, parse_waits, percentile

#: Two of pgbench's sessions; 900 is a worker's.
APPLICATION = {101, 102, 103}


def test_a_log_without_a_rate_has_no_lag() -> None:
    (found,) = parse_log(["3 199 2241 0 1175850568 995598"])
    assert found == Transaction(1175850568.995598, 0.002241)


def test_the_lag_is_a_part_of_the_latency() -> None:
    (found,) = parse_log(["0 81 4621 0 1412881037 912698 3005"])
    assert found == Transaction(1412881037.912698, 0.004621, 0.003005)


def test_a_failed_transaction_is_no_measurement() -> None:
    with pytest.raises(SystemExit, match="failed"):
        parse_log(["3 0 failed 0 1499414498 84905"])


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    enough = math.ceil(share * len(values))
    assert sum(v <= found for v in values) >= enough
    assert sum(v < found for v in values) < enough


def test_of_a_hundred_the_99th_is_the_p99() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile(range(1, 101), 0.5) == 50
    assert percentile([], 0.99) == 0


def test_only_transactions_that_met_the_work_count() -> None:
    before = Transaction(ended=9.0, seconds=7.0)
    blocked = Transaction(ended=25.0, seconds=14.0, lag_seconds=4.0)  # due at 11, after the end
    quick = [Transaction(ended=10.0 + i / 10, seconds=0.001) for i in range(1, 99)]
    after = Transaction(ended=30.0, seconds=8.0)  # due at 22
    found = latencies([before, blocked, *quick, after], since=10.0, until=20.0)
    assert found.longest == pytest.approx(14_000)
    assert found.p50 == pytest.approx(1)
    assert found.tps == pytest.approx(9.8)  # the blocked one ended too late to be counted
    only = latencies([blocked], since=10.0, until=20.0)
    assert only.p99 == pytest.approx(14_000)
    assert only.begun_p99 == pytest.approx(10_000)


def still(pid: int, holders: str) -> list[str]:
    stamp = f"2026-11-21 12:00:00.000 UTC [{pid}]"
    plural = "es" if "," in holders else ""
    return [
        f"{stamp} LOG:  process {pid} still waiting for ShareLock on transaction 7 after 5.1 ms",
        f"{stamp} DETAIL:  Process{plural} holding the lock: {holders}. Wait queue: {pid}.",
        f'{stamp} CONTEXT:  while updating tuple (0,1) in relation "people"',
    ]


def acquired(pid: int, ms: float) -> list[str]:
    stamp = f"2026-11-21 12:00:00.000 UTC [{pid}]"
    return [
        f"{stamp} LOG:  process {pid} acquired ShareLock on transaction 7 after {ms:.3f} ms",
        f"{stamp} STATEMENT:  UPDATE people SET n = n + 1 WHERE id = $1;",
    ]


def test_a_wait_for_the_work_counts_from_the_servers_log() -> None:
    lines = [*still(101, "900"), *acquired(101, 43.25)]
    assert parse_waits(lines, APPLICATION) == [43.25]


def test_a_wait_for_another_session_of_the_application_does_not() -> None:
    lines = [*still(101, "102"), *acquired(101, 43.25), *still(101, "900"), *acquired(101, 6)]
    assert parse_waits(lines, APPLICATION) == [6.0]


def test_a_wait_behind_one_that_waits_for_the_work_counts() -> None:
    lines = [
        *still(101, "900"),
        *still(102, "101"),
        *acquired(101, 20),
        *acquired(102, 15),
        *still(103, "102"),  # 102 waits for nobody any more
        *acquired(103, 9),
    ]
    assert parse_waits(lines, APPLICATION) == [20.0, 15.0]


def test_the_last_in_the_queue_may_be_the_first_to_say_that_it_waits() -> None:
    lines = [
        *still(103, "102"),
        *still(102, "101"),
        *still(101, "900"),
        *(acquired(101, 20) + acquired(102, 21) + acquired(103, 22)),
    ]
    assert parse_waits(lines, APPLICATION) == [20.0, 21.0, 22.0]


def test_a_wait_whose_holder_is_not_told_counts() -> None:
    assert parse_waits([*still(101, ""), *acquired(101, 8)], APPLICATION) == [8.0]
    assert parse_waits(acquired(102, 7), APPLICATION) == [7.0]


def test_one_holder_beside_the_application_is_enough() -> None:
    assert parse_waits([*still(101, "102, 900"), *acquired(101, 8)], APPLICATION) == [8.0]
