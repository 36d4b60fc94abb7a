"""A network of its own for a worker: a namespace, and one cable to here.

What is cut drops packets without a word, as a pulled cable or a firewall does: no reset comes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import pytest

from tests.programs import program

#: Of RFC 5737: nobody's.
POSTGRES, REDIS, WORKER = "192.0.2.1", "192.0.2.2", "192.0.2.5"
#: Nobody on the cable has this address, so whoever gets a packet for it throws it away.
NOBODY = "02:00:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Network:
    """The namespace `name`, from which this machine is POSTGRES and REDIS."""

    name: str

    def cut(self, *addresses: str) -> None:
        """Nothing that is sent from there to these addresses arrives."""
        for address in addresses:
            ip(f"-n {self.name} neigh replace {address} lladdr {NOBODY} dev cable nud permanent")

    def heal(self, *addresses: str) -> None:
        """Everything arrives again."""
        for address in addresses:
            ip(f"-n {self.name} neigh del {address} dev cable")


def ip(command: str) -> None:
    """Run iproute2."""
    subprocess.run([program("ip", "/usr/sbin/ip"), *command.split()], check=True)


@contextmanager
def network() -> Iterator[Network]:
    """A namespace with a cable to this machine; root may make one, where the machine lets it."""
    name = f"bf{uuid4().hex[:8]}"
    made = subprocess.run(
        [program("ip", "/usr/sbin/ip"), "netns", "add", name], check=False, capture_output=True
    )
    if made.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {made.stderr.decode().strip()}")
    try:
        ip(f"link add {name} type veth peer name cable netns {name}")
        for address in (POSTGRES, REDIS):
            ip(f"addr add {address}/29 dev {name}")
        ip(f"link set {name} up")
        ip(f"-n {name} addr add {WORKER}/29 dev cable")
        for device in ("lo", "cable"):
            ip(f"-n {name} link set {device} up")
        yield Network(name)
    finally:
        ip(f"netns del {name}")  # the cable goes with it
