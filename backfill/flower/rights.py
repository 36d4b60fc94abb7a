"""Who may do what on our pages, judged from Flower's options and the request alone.

Without a login everybody who reaches the server is the same person. So what changes a run, and what
quotes rows, is then for this machine alone: the server listens on loopback, and was asked for by a
name of this machine. The name is looked at because a page from elsewhere can have its own name lead
to 127.0.0.1 and would be of the same origin then, and because a proxy on this machine hands on
requests that come from anywhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

_PORT = re.compile(r":\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What a request may do.

    Attributes:
        may_act: it may change runs.
        may_see_rows: it may see keys and reasons, which can quote rows.
        why: why it may not act, and what to do; empty where it may.
    """

    may_act: bool
    may_see_rows: bool
    why: str = ""


def rights(
    *, address: str, host: str, basic_auth: Sequence[str] | None, oauth: str, read_only: bool
) -> Rights:
    """Judge a request that Flower's own login, if any, has let in.

    Args:
        address: on which the server listens; empty: on all.
        host: as the request named it, perhaps with a port.
        basic_auth, oauth, read_only: Flower's options.
    """
    is_known = bool(basic_auth or oauth) or (
        is_loopback(address) and is_loopback(_PORT.sub("", host))
    )
    if not is_known:
        why = (
            "Runs cannot be changed here: this server asks nobody to log in, and is not this"
            " machine's alone. Set FLOWER_BASIC_AUTH=user:password (or Flower's OAuth) and start"
            " it again, or open it on this machine as http://127.0.0.1."
        )
    elif read_only:
        why = "Runs cannot be changed here: Flower was started read-only."
    else:
        why = ""
    return Rights(may_act=not why, may_see_rows=is_known, why=why)


def is_loopback(host: str) -> bool:
    """True for a name or an address that leads to this machine only."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
