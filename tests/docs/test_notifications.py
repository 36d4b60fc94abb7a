"""The page on notifications and the settings' reference say what the code does."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime

from backfill.pg import notices
from backfill.settings_file import SettingsTable
from backfill.settings_notify import Kind, read_channels
from backfill.watch.deliver import SEND_SECONDS
from backfill.watch.message import trial
from backfill.worker.notices import FINISH_SECONDS
from tests.docs.pages import ROOT, blocks, sections, table

PAGE = ROOT / "docs" / "how-to" / "notifications.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_settings_of_a_channel_are_documented_with_all_their_words() -> None:
    text = sections(ROOT / "docs" / "reference" / "settings.md")["[notify.NAME]"]
    rows = {name: (default, meaning) for name, default, meaning in table(text, "setting")}
    assert {name: default for name, (default, _) in rows.items()} == {
        "webhook_url_env": "none",
        "command": "none",
        "on": "all",
    }
    assert re.findall(r'"([^"]+)"', rows["on"][1]) == list(Kind)


def test_every_kind_of_message_is_documented() -> None:
    assert [kind for kind, *_ in table(TEXT, "`on`")] == list(Kind)


def test_every_field_that_a_command_reads_is_documented() -> None:
    names = [name for row, _ in table(TEXT, "field") for name in row.split(", ")]
    assert names == list(trial(by="ada", at=datetime.now(UTC)).to_json())


def test_the_settings_of_the_page_are_read() -> None:
    (block,) = blocks(PAGE, "toml")
    tables = SettingsTable("backfill.toml", "notify", tomllib.loads(block.text)["notify"])
    ops, pager = read_channels(tables, {}).values()
    assert ops.webhook is not None
    assert pager.on == (Kind.ERROR, Kind.FAILED)


def test_the_times_of_the_page_are_those_of_the_code() -> None:
    assert f"within {SEND_SECONDS:.0f} s" in TEXT
    assert f"goes on for {FINISH_SECONDS:.0f} s at most" in TEXT
    assert [notices.wait_seconds(attempts) for attempts in (1, 2, 3, 99)] == [30, 60, 120, 3600]
    assert "after 30 s, 1 min, 2 min and so on up to an hour, and for a day" in TEXT
    assert (notices.KEPT, notices.QUIET) == ("1 day", "10 minutes")
    assert "told of once in ten minutes" in TEXT
