"""Addresses, families and ports, and how they are written."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
MAX_PORT = 65535


class Family(StrEnum):
    """An address family."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @classmethod
    def of(cls, value: Address | Network) -> Family:
        """Return the family of an address or network."""
        return cls.IPV4 if isinstance(value, (IPv4Address, IPv4Network)) else cls.IPV6


def join(address: Address | None, port: int | str | None) -> str:
    """`80`, `192.0.2.1:80` or `[2001:db8::1]:80`; `192.0.2.1` or `2001:db8::1` without a port."""
    if address is None:
        return str(port)
    return str(address) if port is None else f"{_host(address)}:{port}"


def split(to: str) -> tuple[str, str]:
    """Return the address and the port of an endpoint as `join` writes it, each empty if it has none."""
    head, colon, port = to.rpartition(":")
    if not colon:
        return ("", to) if to.isdecimal() else (to, "")
    if head.startswith("["):
        return head[1:-1], port
    return (to, "") if ":" in head else (head, port)


def endpoint_family(to: str) -> Family | None:
    """Return the family of an endpoint as `join` writes it; None for a port, which serves both."""
    address, _ = split(to)
    if not address:
        return None
    return Family.IPV6 if ":" in address else Family.IPV4


@lru_cache(maxsize=4096)  # a host often serves many services, and its address is slow to print
def _host(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def check_address(address: Address | None) -> None:
    # A scope is free text, and rules know none.
    if address is not None and address.version == 6 and address.scope_id is not None:
        raise ValueError(f"address {str(address)!r} has a scope id")


def check_port(port: int) -> None:
    if not 1 <= port <= MAX_PORT:
        raise ValueError(f"port {port} is not between 1 and {MAX_PORT}")
