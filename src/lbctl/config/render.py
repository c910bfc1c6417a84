"""Intent → TOML, the way a person would write it: only what differs from the defaults.

What `dump` writes loads back to an equal intent, provided that the intent keeps the rules of a file (unique
names, no overlapping listeners, …); these are not checked here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.config.values import MAX_RANGE, SCHEMA_VERSION, escape
from lbctl.model import DEFAULT_MARK, DEFAULT_OWNER, Scheduler, SourceNat, State, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Endpoint, Intent, Network, Service

#: From this many on, consecutive ports are written as one "low-high".
_RUN = 8
_WIDTH = 100

_SPECIAL = re.compile(r'[\x00-\x1f"\\\x7f]')
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def dump(intent: Intent, comments: Mapping[str, Sequence[str]] | None = None) -> str:
    """`intent` as the text of an intent file, with a newline at the end.

    `comments` stand before the service of a name, each on a line of its own whatever is in it.
    """
    head = [f"schema = {SCHEMA_VERSION}"]
    if intent.owner != DEFAULT_OWNER:
        head.append(f"owner = {quote(intent.owner)}")
    if intent.mark != DEFAULT_MARK:
        head.append(f"mark = 0x{intent.mark:x}")
    said = comments or {}
    blocks = ["\n".join(head)]
    for service in intent.services:
        notes = [f"# {escape(text)}" for text in said.get(service.name, ())]
        blocks.append("\n".join([*notes, *_service(service)]))
    return "\n\n".join(blocks) + "\n"


def revive(text: str, like: Intent, file: str) -> Intent:
    """Return the intent that `dump` wrote as `text`; services that `like` has too are the same objects.

    Only what differs is read: of ten thousand services in two states of a history, a few. `file` names the
    text in errors. Raises `IntentError`.
    """
    from lbctl.config.load import loads

    known = dict(zip(_blocks(dump(like))[1:], like.services, strict=True))
    head, *blocks = _blocks(text)
    found = loads("\n\n".join([head, *(block for block in blocks if block not in known)]), file)
    others = iter(found.services)
    services = tuple(known[block] if block in known else next(others) for block in blocks)
    return replace(found, services=services)


def _blocks(text: str) -> list[str]:
    """Return the parts of an intent as `dump` writes it: what concerns all services, then each of them."""
    return text.rstrip("\n").split("\n\n")


def quote(text: str) -> str:
    """`text` as a basic string of TOML."""
    return f'"{_SPECIAL.sub(_escaped, text)}"'


def _escaped(found: re.Match[str]) -> str:
    return _SHORT.get(found[0], f"\\u{ord(found[0]):04x}")


def _service(service: Service) -> Iterator[str]:
    yield "[[service]]"
    yield f"name = {quote(service.name)}"
    listeners = [quote(str(listener)) for listener in service.listeners]
    yield f"listen = {listeners[0]}" if len(listeners) == 1 else f"listen = {_list(listeners)}"
    plain = all(_is_plain(endpoint) for endpoint in service.endpoints)
    if plain:
        yield f"endpoints = {_list([quote(text) for text in _runs(service.endpoints)])}"
    if service.scheduler is not Scheduler.ROUND_ROBIN:
        yield f"scheduler = {quote(service.scheduler)}"
    if not service.local_clients:
        yield "local-clients = false"
    if service.seed is not None:
        yield f"seed = 0x{service.seed:x}"
    if service.affinity is not None:
        yield f"affinity = {quote(duration(service.affinity))}"
    if service.source_nat is not SourceNat.HAIRPIN:
        yield f"source-nat = {quote(service.source_nat)}"
    if service.allow:
        yield f"allow = {_list([quote(_network(network)) for network in service.allow])}"
    if not plain:
        for endpoint in service.endpoints:
            yield from _endpoint(endpoint)


def _endpoint(endpoint: Endpoint) -> Iterator[str]:
    yield "[[service.endpoint]]"
    if endpoint.name != endpoint.to:
        yield f"name = {quote(endpoint.name)}"
    yield f"address = {quote(endpoint.to)}"
    if endpoint.weight != 1:
        yield f"weight = {endpoint.weight}"
    if endpoint.state is not State.ACTIVE:
        yield f"state = {quote(endpoint.state)}"


def _is_plain(endpoint: Endpoint) -> bool:
    return endpoint.name == endpoint.to and endpoint.weight == 1 and endpoint.state is State.ACTIVE


def _runs(endpoints: Iterable[Endpoint]) -> Iterator[str]:
    """Yield the endpoints as texts; many ports in a row of this host as one."""
    row: list[int] = []
    for endpoint in endpoints:
        if endpoint.address is None and row and endpoint.port == row[-1] + 1 and len(row) < MAX_RANGE:
            row.append(endpoint.port)
            continue
        if row:
            yield from _row(row)
            row = []
        if endpoint.address is None:
            row = [endpoint.port]
        else:
            yield endpoint.to
    yield from _row(row)


def _row(ports: Sequence[int]) -> Iterator[str]:
    if len(ports) >= _RUN:
        yield f"{ports[0]}-{ports[-1]}"
    else:
        yield from map(str, ports)


def _list(items: Sequence[str]) -> str:
    line = f"[{', '.join(items)}]"
    if len(line) <= _WIDTH:
        return line
    return "[\n" + "".join(f"  {item},\n" for item in items) + "]"


def _network(network: Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
