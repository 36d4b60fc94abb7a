"""Flower's API, the data of our page and `/metrics` say of a real run what the ledger says."""

from __future__ import annotations

import re
from collections import Counter

import psycopg

from backfill import operate
from backfill.model import PauseCause
from backfill.pg.ledger import totals
from backfill.pg.quarantine import open_quarantine
from backfill.watch.metrics import OUTCOMES
from tests.acceptance.crew import Crew
from tests.flower.servers import FlowerServer, running_flower
from tests.metrics import parsed

#: `40 batches in 1 slices: 799 written, 1 quarantined; …`, as a task's result says it.
_COUNT = re.compile(r"([\d,]+) (written|unchanged|quarantined|gone|skipped|suppressed)\b")


def told_by_tasks(server: FlowerServer, run: str) -> Counter[str]:
    """What all tasks of a run say that they did, added up."""
    found: Counter[str] = Counter()
    for task in server.get("/api/tasks?limit=1000").json.values():
        if task["name"] == "backfill.work" and run in task["kwargs"] and task["result"]:
            for number, outcome in _COUNT.findall(task["result"]):
                found[outcome] += int(number.replace(",", ""))
    return found


def told_by_metrics(server: FlowerServer, run: str) -> dict[str, float]:
    by_outcome = parsed(server.get("/metrics").text).by("backfill_rows_total", "outcome", run=run)
    return {outcome: value for outcome, value in by_outcome.items() if value}


def told_by_page(server: FlowerServer, run: str) -> dict[str, int]:
    counts = server.get(f"/backfills/api/run/{run}").json["counts"]
    return {name: value for name, value in counts.items() if value and name in OUTCOMES}


def all_of_ledger(crew: Crew, run: str) -> dict[str, object]:
    """Where the run is, in the words that both of ours share."""
    found = totals(crew.desk.conn, crew.desk.ledger, run)
    return {
        "state": str(crew.state(run)),
        "slices": dict(found.by_phase),
        "held": found.held,
        "deferred": found.counts.deferred,
        "quarantined": open_quarantine(crew.desk.conn, crew.desk.ledger, run),
        "total": crew.run(run).total_rows,
    }


def all_of_page(server: FlowerServer, run: str) -> dict[str, object]:
    found = server.get(f"/backfills/api/run/{run}").json
    return {
        "state": found["state"],
        "slices": found["slices"],
        "held": found["held"],
        "deferred": found["counts"]["deferred"],
        "quarantined": found["quarantine"]["open"],
        "total": found["total_rows"],
    }


def all_of_metrics(server: FlowerServer, run: str) -> dict[str, object]:
    found = parsed(server.get("/metrics").text)
    (state,) = found.now("backfill_state", by="state", run=run)
    return {
        "state": state,
        "slices": found.by("backfill_slices", "phase", run=run),
        "held": found.value("backfill_slices_held", run=run),
        "deferred": found.value("backfill_deferred_rows", run=run),
        "quarantined": found.value("backfill_quarantine_rows", run=run, status="open"),
        "total": found.value("backfill_total_rows", run=run),
    }


def all_agree(crew: Crew, server: FlowerServer, run: str) -> None:
    """All three say of the run, which stands still, what the ledger says."""
    found = crew.counts(run).as_dict()
    ledger = {name: value for name, value in found.items() if value and name in OUTCOMES}
    crew.wait(lambda: told_by_page(server, run) == ledger, "the page says so")
    crew.wait(lambda: told_by_metrics(server, run) == ledger, "the metrics say so")
    crew.wait(lambda: told_by_tasks(server, run) == ledger, "the tasks' results add up to it")
    whole = all_of_ledger(crew, run)
    crew.wait(lambda: all_of_page(server, run) == whole, f"the page says {whole}")
    crew.wait(lambda: all_of_metrics(server, run) == whole, f"the metrics say {whole}")


def test_all_three_agree_with_the_ledger_in_mid_run_and_at_its_end(crew: Crew) -> None:
    crew.conn.execute("UPDATE item SET n = -1 WHERE id = '0130'")
    with running_flower(
        crew.folder, crew.environ, variables={"FLOWER_UNAUTHENTICATED_API": "1"}
    ) as server:
        crew.start(children=2)
        shipped = crew.project.declaration("count").options
        with psycopg.connect(crew.environ["BACKFILL_DATABASE_URL"]) as other:
            other.execute("SELECT FROM item WHERE id = '0015' FOR UPDATE")
            run = crew.enqueue("count", options=shipped.replace_from_text({"rate": "200/s"}))
            crew.wait_for_rows(run, 260)
            operate.pause(crew.desk, crew.run(run), reason=None, by="the test")
            crew.wait(lambda: not crew.held(run), "it rests")
            paused = all_of_ledger(crew, run)
            assert (paused["state"], paused["deferred"], paused["quarantined"]) == ("paused", 1, 1)
            all_agree(crew, server, run)
        operate.resume(crew.project, crew.desk, crew.run(run), accept_changes=False, by="the test")
        crew.hurry(run)
        crew.wait(lambda: crew.causes(run) == {PauseCause.QUARANTINE}, "its quarantine is left")
        counts = crew.counts(run)
        assert (counts.written, counts.quarantined, counts.paged) == (798, 2, 800)
        all_agree(crew, server, run)
