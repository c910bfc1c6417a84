"""The bytes of a value and its text say the same, in either direction."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, strategies as st

from lbctl_nftables.kernel import datatypes

#: Type → values with their texts.
VALUES = {
    "integer": st.integers(0, (1 << 32) - 1).map(str),
    "mark": st.integers(0, (1 << 32) - 1).map(str),
    "inet_service": st.integers(0, 65535).map(str),
    "inet_proto": st.sampled_from(["tcp", "udp", "sctp", "0", "47", "255"]),
    "iface_index": st.sampled_from(['"lo"', "2", "4000000000"]),
    "ipv4_addr": st.integers(0, (1 << 32) - 1).map(lambda number: str(IPv4Address(number))),
    "ipv6_addr": (
        # Many zeros, and addresses with an IPv4 address inside: these have the most spellings.
        st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF]), min_size=8, max_size=8).map(
            lambda words: str(IPv6Address(b"".join(word.to_bytes(2, "big") for word in words)))
        )
    ),
}


@given(data=st.data(), types=st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4).map(tuple))
def test_a_text_comes_back_from_its_bytes(data: st.DataObject, types: tuple[str, ...]) -> None:
    text = " . ".join(data.draw(VALUES[kind]) for kind in types)
    value = datatypes.encode(types, text)
    assert value is not None
    assert len(value) == datatypes.size_of(types)
    assert datatypes.spell(types, value) == text
    # No text of one type is one of more.
    assert datatypes.encode((*types, "mark"), text) is None


@given(text=st.text(max_size=12), types=st.lists(st.sampled_from(sorted(VALUES)), min_size=1).map(tuple))
def test_a_text_of_no_value_has_no_bytes(text: str, types: tuple[str, ...]) -> None:
    value = datatypes.encode(types, text)
    assert value is None or len(value) == datatypes.size_of(types)


@given(value=st.binary(max_size=40), types=st.lists(st.sampled_from(sorted(VALUES)), min_size=1).map(tuple))
def test_a_value_of_another_size_is_spelled_in_digits(value: bytes, types: tuple[str, ...]) -> None:
    spelled = datatypes.spell(types, value)
    assert (spelled == f"0x{value.hex()}") is (len(value) != datatypes.size_of(types))


def test_numbers_of_types() -> None:
    assert datatypes.names(7 << 12 | 12 << 6 | 13) == ("ipv4_addr", "inet_proto", "inet_service")
    assert datatypes.names(4) == ("integer",)
    assert datatypes.names(63) == ("type-63",)
    assert datatypes.size_of(("ipv4_addr", "type-63")) == 0
