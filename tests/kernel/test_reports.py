"""What the kernel reports, and what its filters keep from waking a process."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from lbctl.host import LocalHost, Reports, rule_reports
from lbctl.host.netns import Namespace

#: NETLINK_SOCK_DIAG, SKNLGRP_INET_TCP_DESTROY; where a report has the ports of a socket and of its peer.
DIAG, DESTROYED, SOURCE, PEER = 4, 1, 20, 22
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace(LocalHost())
    with made.entered():
        yield made
    made.close()


def read(reports: Reports, count: int) -> list[bytes]:
    """Return what was reported once it was so many, or nothing more arrived for a while."""
    found: list[bytes] = []
    until = time.monotonic() + (30.0 if count else 0.5)
    while time.monotonic() < until and (len(found) < count or not count):
        found += reports.read() or []
        time.sleep(0.01)
    return found


def test_each_transaction_is_reported_once(namespace: Namespace) -> None:
    reports = rule_reports(LocalHost())
    assert reports is not None
    assert reports.read() == []
    elements = ", ".join(f"10.0.{each // 250}.{each % 250}" for each in range(1000))
    namespace.run("nft", f"table ip t {{ set s {{ type ipv4_addr; elements = {{ {elements} }}; }}; }}")
    namespace.run("nft", "list", "ruleset")
    assert len(read(reports, 1)) == 1
    namespace.run("nft", "flush", "ruleset")
    assert len(read(reports, 1)) == 1
    assert read(reports, 0) == []
    reports.close()


@pytest.mark.usefixtures("namespace")
def test_checks_of_a_watched_port_are_not_reported_and_its_end_is() -> None:
    """A connection that is reset has lost its peer when it is reported, as a socket that listens has none."""
    port = (8001).to_bytes(2, "big")
    watched = LocalHost().subscribe(DIAG, [DESTROYED], {PEER: [bytes(2)], SOURCE: [b"\x00\x01", port]})
    all_ = LocalHost().subscribe(DIAG, [DESTROYED], {PEER: [bytes(2)]})
    assert watched is not None
    assert all_ is not None
    with socket.create_server(("127.0.0.1", 8001)):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", 8001)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        assert len(read(all_, 50)) == 50
        assert watched.read() == []
    assert {report[SOURCE:PEER] for report in read(watched, 1)} == {port}
    watched.only({SOURCE: [bytes([1, each]) for each in range(250)], PEER: [bytes(2)]})
    read(watched, 0)
    socket.create_server(("127.0.0.1", 8002)).close()
    assert read(watched, 0) == []
    watched.close()
    all_.close()


def test_a_kernel_without_such_groups() -> None:
    assert LocalHost().subscribe(99, [1], {}) is None
    assert LocalHost().subscribe(DIAG, [1000], {}) is None
