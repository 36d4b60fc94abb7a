"""The pages about signals say what the code does: thresholds, privileges, examples of settings."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow

from backfill.pg import health, prometheus, replica
from backfill.pg.connect import connect
from backfill.pg.ledger import open_ledger
from backfill.pg.signals import QUERIES_SECONDS, REMOTE_SECONDS
from backfill.pg.slowdown import RECENT_SECONDS
from backfill.pg.wal import RATE_SECONDS
from backfill.settings import load
from backfill.settings_signals import OWN_KEYS
from backfill.signals import BUILTIN, DEFAULTS, REPLICA_LAG, SignalSpec
from tests.docs.pages import ROOT, Block, blocks, sections, table
from tests.pg.holding import RUN, insert_run
from tests.pg.sampling import reader_of, sample

REFERENCE = ROOT / "docs" / "reference" / "signals.md"
HOW_TO = ROOT / "docs" / "how-to" / "signals.md"
ROWS = table(sections(REFERENCE)["The signals"], "signal")
#: What a worker that follows the examples needs.
ENVIRON = {"DATABASE_URL": "postgresql://h/d", "PROMETHEUS_URL": "http://prometheus:9090"}


def test_every_signal_is_documented_with_its_thresholds() -> None:
    documented = {name: (unit, float(stop), float(back)) for name, unit, stop, back, *_ in ROWS}
    assert documented == {s.name: (s.unit, s.stop, s.resume) for s in BUILTIN.values()}


def test_what_is_on_by_default_is_documented() -> None:
    assert {row[0] for row in ROWS if row[4] == "yes"} == set(DEFAULTS)
    assert {row[0] for row in ROWS if row[4] == "with replicas"} == {REPLICA_LAG}


def test_every_signal_has_its_section_and_each_names_a_source() -> None:
    described = sections(REFERENCE, "###")
    assert {name for heading in described for name in heading.split(", ")} == set(BUILTIN)
    for heading, text in described.items():
        assert heading == REPLICA_LAG or "Source" in text, heading


def test_the_times_in_the_reference_are_those_of_the_code() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for words in (
        f"does not answer within {replica.ANSWER_SECONDS:g} s",
        f"tried again every {replica.RETRY_SECONDS:g} s",
        f"over the last {RATE_SECONDS:g} s",
        f"without a batch in the last {RECENT_SECONDS:g} s",
        f"of {health.OWN_SECONDS:g} s at most",
        f"may take {health.QUERY_SECONDS:g} s, and all of them together {QUERIES_SECONDS:g} s",
        f"A Prometheus has {prometheus.ANSWER_SECONDS:g} s",
        f"waited for {REMOTE_SECONDS:g} s at most",
        f"looks at {health.MOST_WAITING} waiting sessions",
    ):
        assert words in text


def test_the_keys_of_a_signal_of_ones_own_are_documented() -> None:
    page = ROOT / "docs" / "reference" / "settings.md"
    rows = table(sections(page)["[databases.NAME.signals]"], "key")
    assert tuple(" or ".join(row[0] for row in rows).split(" or ")) == OWN_KEYS


def settings_blocks() -> list[Block]:
    return blocks(HOW_TO, "toml")


@pytest.mark.parametrize("block", settings_blocks(), ids=lambda block: block.place)
def test_the_settings_of_the_examples_are_understood(block: Block, tmp_path: Path) -> None:
    (tmp_path / "backfill.toml").write_text(block.text, encoding="utf-8")
    assert load(tmp_path, ENVIRON).database("main").signals != DEFAULTS


def test_the_queries_of_the_examples_give_a_number(
    db_url: str, conn: psycopg.Connection[TupleRow], tmp_path: Path
) -> None:
    conn.execute("CREATE TABLE job (state text)")
    specs: dict[str, SignalSpec] = {}
    for block in settings_blocks():
        (tmp_path / "backfill.toml").write_text(block.text, encoding="utf-8")
        specs |= load(tmp_path, ENVIRON).database("main").signals
    specs = {name: spec for name, spec in specs.items() if spec.kind == "sql"}
    with connect(db_url) as pg, reader_of(specs) as reader:
        insert_run(pg, RUN)
        found = sample(reader, pg, open_ledger(pg, schema="backfill"))
    assert {name: reading.value for name, reading in found.items()} == dict.fromkeys(specs, 0.0)
    assert specs
