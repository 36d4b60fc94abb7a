"""`--from`, `--to`, `--limit`: given, shown, kept when the run goes on, and told nowhere else."""

from __future__ import annotations

import json
import signal

from backfill.pg.ledger import events, pauses
from tests.cli.conftest import Shop, until

PART = ("--from", "1001", "--to", "4001", "--limit", "2500")


def test_bounds_are_shown_and_kept_by_what_goes_on_with_the_run(shop: Shop) -> None:
    shop.users(5_000)
    first = shop.start("run", "count_visits", *PART, "--rate", "1500/s")
    until(lambda: shop.number("SELECT count(*) FROM users WHERE visits > 0") > 0, "the first rows")
    first.send(signal.SIGINT)
    stopped = first.end()
    assert stopped.code == 130
    run = shop.latest("count_visits")
    told = json.dumps([event.detail for event in events(shop.conn, shop.ledger, run.id)])
    told += str(pauses(shop.conn, shop.ledger, run.id)) + stopped.stderr
    assert "--from=KEY --to=KEY --limit=2500" in told
    assert "1001" not in told  # a key is a value of a row
    assert "4001" not in told

    other = shop("run", "count_visits", "--from", "1002", "--to", "4001", "--limit", "2500")
    assert other.code == 5
    assert "with other bounds" in other.stderr
    assert shop("run", "count_visits").code == 5

    # the same keys, written in another way
    done = shop("run", "count_visits", "--from", "01001", "--to", " 4001 ", "--limit", "2500")
    assert done.code == 0, done.told
    assert f"continuing {run.id}, " in done.stdout
    assert "2,500 paged = 2,500 written" in done.stdout
    assert "it took the 2,500 rows of its limit; there may be more" in done.stdout
    assert shop.number("SELECT sum(visits) FROM users WHERE id BETWEEN 1001 AND 4000") == 2_500
    assert shop.number("SELECT sum(visits) FROM users") == 2_500

    whole = "from 1001, up to 4001 (not included), at most 2,500 rows"
    assert whole in shop("status").stdout
    assert f"bounds      {whole}; reached" in shop("status", "count_visits").stdout
    found = json.loads(shop("status", "count_visits", "--json").stdout)
    assert found["bounds"] == {"from": ["1001"], "to": ["4001"], "limit": 2500}
    assert (found["total_rows"], found["share"]) == (2500, 1.0)
    assert whole in shop("report", "count_visits").stdout


def test_an_enqueued_run_has_its_bounds_in_the_ledger(celery_shop: Shop) -> None:
    celery_shop.users(100)
    done = celery_shop("enqueue", "lower_email", "--from=-5", "--limit=7")
    assert done.code == 0, done.stderr
    run = celery_shop.latest("lower_email")
    assert (run.from_key, run.to_key, run.row_limit) == (["-5"], None, 7)
