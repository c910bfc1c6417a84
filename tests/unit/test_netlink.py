"""What nf_tables answers by netlink, and what is made of answers that are none."""

import struct

import pytest

from lbctl.host.fake import FakeHost
from lbctl_nftables import netlink

GENERATION, TABLE, ERROR = 10 << 8 | 15, 10 << 8, 2
NUMBER = struct.pack("=HH", 8, 1) + (77).to_bytes(4, "big")
NAME, FLAGS = struct.pack("=HH6sxx", 10, 1, b"lbctl\0"), struct.pack("=HH", 8, 2) + (3).to_bytes(4, "big")
USE = struct.pack("=HH", 8, 3) + (9).to_bytes(4, "big")


def message(kind: int, *attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, 0, 1, 0, 0, 0, 0) + body


def host(answer: bytes | None) -> FakeHost:
    made = FakeHost()
    made.asked = lambda _, __: answer
    return made


@pytest.mark.parametrize("attributes", [(NUMBER,), (USE, NUMBER, FLAGS)])
def test_the_generation(attributes: tuple[bytes, ...]) -> None:
    assert netlink.generation(host(message(GENERATION, *attributes))) == 77


@pytest.mark.parametrize("attributes", [(NAME, FLAGS, USE), (USE, NAME, FLAGS), (FLAGS,)])
def test_the_flags_of_a_table(attributes: tuple[bytes, ...]) -> None:
    assert netlink.table_flags(host(message(TABLE, *attributes)), "ip", "lbctl") == 3


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"\0" * 19,
        message(TABLE),
        message(TABLE, NAME),
        message(TABLE, NAME, FLAGS[:6]),
        message(TABLE, struct.pack("=HH", 0, 2), struct.pack("=HH", 6, 2)),
        message(ERROR, (-2 & 0xFFFFFFFF).to_bytes(4, "little"), FLAGS),
    ],
)
def test_no_answer_is_no_flag(answer: bytes | None) -> None:
    assert netlink.table_flags(host(answer), "ip", "lbctl") == 0
    assert netlink.generation(host(answer)) is None


def test_a_table_is_asked_for_by_its_name() -> None:
    asked: list[bytes] = []
    made = host(None)
    made.asked = lambda protocol, request: asked.append(bytes([protocol]) + request)
    netlink.table_flags(made, "ip6", "lbctl-blue")
    length, kind, flags, _, _, family, *_ = struct.unpack_from("=IHHIIBBH", asked[0], 1)
    assert (asked[0][0], length, kind, flags, family) == (12, len(asked[0]) - 1, 10 << 8 | 1, 1, 10)
    assert asked[0][21:] == struct.pack("=HH", 15, 1) + b"lbctl-blue\0" + b"\0"
