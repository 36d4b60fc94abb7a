"""Flower's API, the data of our page and `/metrics` say of a real run what the ledger says."""

from __future__ import annotations

import re
from collections import Counter

from backfill.model import PauseCause
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
    return {name: value for name, value in counts.items() if value and name != "paged"}


def test_all_three_agree_with_the_ledger(crew: Crew) -> None:
    with running_flower(
        crew.folder, crew.environ, variables={"FLOWER_UNAUTHENTICATED_API": "1"}
    ) as server:
        crew.start(children=2)
        run = crew.enqueue("count")
        crew.wait(lambda: crew.causes(run) == {PauseCause.QUARANTINE}, "its quarantine is left")
        counts = crew.counts(run).as_dict()
        ledger = {name: value for name, value in counts.items() if value and name != "paged"}
        assert ledger == {"written": 799, "quarantined": 1}
        crew.wait(lambda: told_by_page(server, run) == ledger, "the page says so")
        crew.wait(lambda: told_by_metrics(server, run) == ledger, "the metrics say so")
        crew.wait(lambda: told_by_tasks(server, run) == ledger, "the tasks' results add up to it")
