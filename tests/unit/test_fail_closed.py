"""A feature that the model learns is refused by each backend until that backend learns it too."""

import subprocess
import sys

import pytest

#: Adds a member to an enum of the model before a backend is imported, and compiles an intent that uses it.
SCRIPT = """
import sys
from dataclasses import replace
from lbctl.errors import Unsupported
from lbctl.model import Endpoint, Forward, Intent, Listener, Protocol, Scheduler, Service, SourceNat, State

enum = {"scheduler": Scheduler, "state": State, "source_nat": SourceNat, "forward": Forward}[sys.argv[1]]
new = str.__new__(enum, "new")
new._name_, new._value_ = "NEW", "new"
enum._member_map_["NEW"] = enum._value2member_map_["new"] = new
enum._member_names_.append("NEW")
assert new in set(enum)

from lbctl.host.fake import FakeHost
from lbctl.spi import backends

state = new if enum is State else State.ACTIVE
endpoints = tuple(
    Endpoint(name=f"a{n}", address=__import__("ipaddress").ip_address(f"10.0.0.{n}"), port=80, state=state)
    for n in (1, 2)
)
service = Service(
    name="web", listeners=(Listener(protocol=Protocol.TCP, port=80),), endpoints=endpoints
)
if enum is not State:
    service = replace(service, **{sys.argv[1]: new})
for backend in backends():
    can = backend.probe(FakeHost()).capabilities
    try:
        backend.compile(Intent(services=(service,)), can)
    except Unsupported as error:
        print(backend.name, error.message)
    if enum is not State:
        able = replace(can, schedulers=frozenset(Scheduler), source_nat=frozenset(SourceNat))
        able = replace(able, forwards=frozenset(Forward))
        try:
            backend.compile(Intent(services=(service,)), able)
        except (AssertionError, KeyError) as error:
            print(backend.name, "stops")
"""


@pytest.mark.parametrize("member", ["scheduler", "state", "source_nat", "forward"])
def test_a_new_member_is_refused_by_name(member: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, member], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    for backend in ("nftables", "iptables"):
        refused = [line for line in lines if line.startswith(f"{backend} ") and " new" in line]
        assert len(refused) == 1, lines
        assert (f"{backend} stops" in lines) == (member != "state"), lines
