"""What nf_tables answers by netlink, and what is made of answers that are none."""

import struct
from errno import EPERM

import pytest

from lbctl.errors import ApplyFailed
from lbctl.host import rules_generation
from lbctl.host.fake import FakeHost
from lbctl_nftables.kernel import netlink
from support.netlink import GENERATION, TABLE, attribute, done, failure, message, table

NUMBER = attribute(1, (77).to_bytes(4, "big"))
NAME, FLAGS = attribute(1, b"lbctl\0"), attribute(2, (3).to_bytes(4, "big"))
USE = attribute(3, (9).to_bytes(4, "big"))


def host(*answers: bytes | None) -> FakeHost:
    """A host whose kernel gives these answers, one after another."""
    made, left = FakeHost(), list(answers)
    made.asked = lambda _, __: left.pop(0)
    return made


@pytest.mark.parametrize("attributes", [(NUMBER,), (USE, NUMBER, FLAGS)])
def test_the_generation(attributes: tuple[bytes, ...]) -> None:
    assert rules_generation(host(message(GENERATION, *attributes))) == 77


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"\0" * 19,
        message(GENERATION),
        message(GENERATION, NUMBER[:6]),
        message(TABLE, NUMBER),
        failure(2),
    ],
)
def test_no_generation(answer: bytes | None) -> None:
    assert rules_generation(host(answer)) is None


def test_tables_with_their_flags() -> None:
    said = [table("ip", "lbctl"), table("ip6", "lbctl-blue", 3), table("inet", "filter"), done()]
    found = {("ip", "lbctl"): 0, ("ip6", "lbctl-blue"): 3, ("inet", "filter"): 0}
    assert netlink.tables(host(b"".join(said))) == found
    assert netlink.tables(host(done())) == {}


@pytest.mark.parametrize("attributes", [(NAME, FLAGS, USE), (USE, NAME, FLAGS), (FLAGS, NAME)])
def test_attributes_in_any_order(attributes: tuple[bytes, ...]) -> None:
    assert netlink.tables(host(message(TABLE, *attributes, family=2) + done())) == {("ip", "lbctl"): 3}


def test_a_family_that_nobody_knows_has_its_number() -> None:
    assert netlink.tables(host(message(TABLE, NAME, family=99) + done())) == {("99", "lbctl"): 0}


def test_a_dump_that_changes_meanwhile_is_asked_for_again() -> None:
    torn = message(TABLE, NAME, family=2, flags=0x10) + done()
    assert netlink.tables(host(torn, torn, table("ip", "whole") + done())) == {("ip", "whole"): 0}


@pytest.mark.parametrize("answer", [failure(EPERM), table("ip", "lbctl") + done(EPERM)])
def test_a_kernel_that_refuses_is_no_kernel_without_tables(answer: bytes) -> None:
    with pytest.raises(ApplyFailed, match="Operation not permitted"):
        netlink.tables(host(answer))
    with pytest.raises(ApplyFailed, match="cannot be asked"):
        netlink.tables(host(None))


@pytest.mark.parametrize(
    "broken",
    [
        b"\0" * 19,
        message(TABLE, struct.pack("=HH", 0, 1)),
        message(TABLE, NAME[:6]),
        message(TABLE, NAME)[:-3],
    ],
)
def test_a_broken_answer_ends(broken: bytes) -> None:
    assert len(netlink.tables(host(broken))) <= 1


def test_questions() -> None:
    asked: list[tuple[int, bytes]] = []
    made = FakeHost()
    made.asked = lambda protocol, request: asked.append((protocol, request)) or done()
    netlink.tables(made)
    rules_generation(made)
    read = [(protocol, *struct.unpack("=IHHIIBBH", request)[:3]) for protocol, request in asked]
    assert read == [(12, 20, 10 << 8 | 1, 0x301), (12, 20, 10 << 8 | 16, 1)]
