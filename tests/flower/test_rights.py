"""Who may do what, judged from Flower's options and the request."""

from __future__ import annotations

import pytest

from backfill.flower.rights import is_loopback, rights


@pytest.mark.parametrize(
    ("address", "host", "basic_auth", "oauth", "may"),
    [
        ("127.0.0.1", "127.0.0.1:5555", None, "", True),
        ("localhost", "LocalHost", None, "", True),
        ("::1", "[::1]:5555", None, "", True),
        ("", "127.0.0.1:5555", None, "", False),
        ("0.0.0.0", "127.0.0.1:5555", None, "", False),
        ("10.0.0.5", "10.0.0.5", None, "", False),
        # another's name that leads here; a proxy that hands on what comes from anywhere
        ("127.0.0.1", "rebound.example:5555", None, "", False),
        ("127.0.0.1", "127.0.0.1.example", None, "", False),
        ("127.0.0.1", "", None, "", False),
        ("", "flower.example", ["ann:secret"], "", True),
        ("0.0.0.0", "flower.example", [], r".*@example\.com", True),
    ],
)
def test_runs_are_changed_by_who_is_known_or_on_this_machine(
    address: str, host: str, basic_auth: list[str] | None, oauth: str, may: bool
) -> None:
    found = rights(address=address, host=host, basic_auth=basic_auth, oauth=oauth, read_only=False)
    assert (found.may_act, found.may_see_rows) == (may, may)
    assert ("FLOWER_BASIC_AUTH" in found.why) is not may


def test_a_reader_sees_rows_and_changes_nothing() -> None:
    found = rights(address="127.0.0.1", host="localhost", basic_auth=None, oauth="", read_only=True)
    assert (found.may_act, found.may_see_rows) == (False, True)
    assert "read-only" in found.why


def test_a_name_of_this_machine_is_no_part_of_another_name() -> None:
    assert is_loopback("127.8.9.1")
    assert not is_loopback("localhost.example")
    assert not is_loopback("")
