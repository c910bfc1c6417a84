"""An address in an intent file is taken exactly where Python's own reader of addresses takes it."""

from ipaddress import AddressValueError, IPv4Address

from hypothesis import example, given, strategies as st

from lbctl.config.values import InvalidValue, endpoints

NUMBERS = st.one_of(st.integers(0, 300).map(str), st.sampled_from(["00", "01", "010", "000", "255", "256"]))


@given(st.lists(NUMBERS, min_size=4, max_size=4).map(".".join))
@example("10.0.0.1")
@example("0.0.0.1")
@example("10.0.0.01")
@example("255.255.255.255")
@example("223.255.255.255")
@example("224.0.0.0")
def test_an_ipv4_address_is_taken_as_ipaddress_takes_it(text: str) -> None:
    try:
        expected = IPv4Address(text)
    except AddressValueError:
        expected = None
    if expected is not None and (expected.is_multicast or int(expected) in {0, 0xFFFFFFFF}):
        expected = None  # no address of one host
    try:
        [endpoint] = endpoints(f"{text}:80")
    except InvalidValue:
        assert expected is None
    else:
        assert endpoint.address == expected
        assert endpoint.to == f"{text}:80"
