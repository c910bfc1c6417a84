"""Texts from outside → endpoints: strict, since they become a part of rules."""

from __future__ import annotations

from ipaddress import ip_address

from lbctl.agent.sources.source import SourceFailed
from lbctl.model import NAME, Endpoint, State, parse_endpoint

#: Characters of a text that are shown.
_SHOWN = 60
_LONGEST_WEIGHT = 4


def endpoint(address: object, *, name: object = "", weight: object = 1, state: object = "active") -> Endpoint:
    """Return an endpoint; raises `SourceFailed` for what cannot be one.

    A name that is no name of lbctl is left out: it is for people. A weight of 0 is a drain, as in DNS.
    """
    if not isinstance(address, str) or not address.isascii():
        raise SourceFailed(f"{shown(address)} is not an address")
    try:
        plain = parse_endpoint(address)
        found = _state(state)
        number = _number(weight)
        return Endpoint(
            port=plain.port,
            address=plain.address,
            name=name if isinstance(name, str) and NAME.match(name) else "",
            weight=number or 1,
            state=found if number else State.DRAIN,
        )
    except ValueError as error:
        raise SourceFailed(f"{shown(address)} cannot be an endpoint: {error}") from error


def endpoint_at(
    address: object,
    port: object,
    *,
    name: object = "",
    weight: object = 1,
    state: State = State.ACTIVE,
) -> Endpoint:
    """Return the endpoint at an address and a port that are given apart; raises `SourceFailed`."""
    try:
        if not isinstance(address, str) or not address.isascii() or "%" in address:
            raise ValueError(f"{shown(address)} is not an address")
        place = ip_address(address)
    except ValueError as error:
        raise SourceFailed(f"{shown(address)} cannot be an endpoint: {error}") from error
    host = f"[{place}]" if place.version == 6 else str(place)
    if type(port) is not int:
        raise SourceFailed(f"{shown(port)} is not a port")
    return endpoint(f"{host}:{port}", name=name, weight=weight, state=state)


def shown(value: object) -> str:
    """Return a value from outside for a message."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _state(state: object) -> State:
    if state not in list(State):
        raise ValueError(f"state {shown(state)} is not {', '.join(State)}")
    return State(str(state))


def _number(weight: object) -> int:
    if type(weight) is int and weight >= 0:
        return weight
    digits = isinstance(weight, str) and weight.isascii() and weight.isdecimal()
    if isinstance(weight, str) and digits and len(weight) <= _LONGEST_WEIGHT:
        return int(weight)
    raise ValueError(f"weight {shown(weight)} is not a whole number")
