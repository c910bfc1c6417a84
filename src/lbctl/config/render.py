"""Intent → TOML, the way a person would write it: only what differs from the defaults.

What `dump` writes loads back to an equal intent, provided that the intent keeps the rules of a file (unique
names, no overlapping listeners, …); these are not checked here.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, assert_never

from lbctl.config.values import MAX_RANGE, SCHEMA_VERSION, escape, time_text
from lbctl.model import (
    DEFAULT_MARK,
    DEFAULT_OWNER,
    DEFAULT_POLICY,
    NO_ANNOUNCEMENTS,
    Check,
    DnsProbe,
    ExecProbe,
    Forward,
    HttpProbe,
    RecordType,
    Scheduler,
    SourceNat,
    State,
    TcpProbe,
    TlsOptions,
    UdpProbe,
    WeightOwner,
    duration,
)
from lbctl.model.check import default_timing
from lbctl.model.discovery import DEFAULT_MAX
from lbctl.model.follow import DEFAULT_ENDPOINTS, DEFAULT_SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.config.access import AccessValue
    from lbctl.model import (
        Announcements,
        Discovery,
        Endpoint,
        Follow,
        HealthPolicy,
        Intent,
        Network,
        Probe,
        Service,
    )

#: From this many on, consecutive ports are written as one "low-high".
_RUN = 8
_WIDTH = 100

_SPECIAL = re.compile(r'[\x00-\x1f"\\\x7f]')
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def dump(intent: Intent, comments: Mapping[str, Sequence[str]] | None = None) -> str:
    """`intent` as the text of an intent file, with a newline at the end.

    `comments` stand before the service of a name, each on a line of its own whatever is in it.
    """
    return "".join(parts(intent, comments))


def parts(intent: Intent, comments: Mapping[str, Sequence[str]] | None = None) -> Iterator[str]:
    """Yield what `dump` returns piece by piece: a large intent is printed, and never there as a whole."""
    head = [f"schema = {SCHEMA_VERSION}"]
    if intent.owner != DEFAULT_OWNER:
        head.append(f"owner = {quote(intent.owner)}")
    if intent.mark != DEFAULT_MARK:
        head.append(f"mark = 0x{intent.mark:x}")
    head += _agent(intent.announce, intent.offload)
    for table in ("etcd", "docker", "consul", "kubernetes"):
        head += _access(table, getattr(intent, table))
    head += _follow(intent.follow)
    head += _hosts(intent.hosts)
    said = comments or {}
    yield "\n".join(head) + "\n"
    for service in intent.services:
        notes = [f"# {escape(text)}" for text in said.get(service.name, ())]
        yield "\n".join(["", *notes, *_service(service), ""])


def _agent(announce: Announcements, offload: Sequence[str]) -> Iterator[str]:
    if announce == NO_ANNOUNCEMENTS and not offload:
        return
    yield "[agent]"
    if announce.track_file is not None:
        yield f"track-file = {quote(announce.track_file)}"
    if announce.exabgp is not None:
        yield f"exabgp = {quote(announce.exabgp)}"
    if announce.exabgp_routes:
        yield f"exabgp-routes = {_list([quote(_network(route)) for route in announce.exabgp_routes])}"
    if offload:
        yield f"offload = {_list([quote(name) for name in offload])}"


def _hosts(hosts: Mapping[str, str]) -> Iterator[str]:
    if hosts:
        yield "[hosts]"
        yield from (f"{name} = {quote(destination)}" for name, destination in hosts.items())


def _access(table: str, access: AccessValue | None) -> Iterator[str]:
    """Yield the lines of a table of how sources are reached; none if there is none."""
    if access is None:
        return
    yield f"[{table}]"
    for key in fields(access):
        value = getattr(access, key.name)
        if value is not None:
            text = quote(value) if isinstance(value, str) else _list([quote(each) for each in value])
            yield f"{key.name.replace('_', '-')} = {text}"


def _follow(follow: Follow | None) -> Iterator[str]:
    if follow is None:
        return
    yield "[follow]"
    yield f"intent = {quote(follow.intent)}"
    if follow.host is not None:
        yield f"host = {quote(follow.host)}"
    yield f"listen-within = {_list([quote(str(each)) for each in follow.listen_within])}"
    yield f"endpoints-within = {_list([quote(str(each)) for each in follow.endpoints_within])}"
    for key, number, default in (
        ("max-services", follow.max_services, DEFAULT_SERVICES),
        ("max-endpoints", follow.max_endpoints, DEFAULT_ENDPOINTS),
        ("least-revision", follow.least_revision, 1),
    ):
        if number != default:
            yield f"{key} = {number}"
    if follow.signed_by is not None:
        yield f"signed-by = {quote(follow.signed_by)}"


def revive(text: str, like: Intent, file: str) -> Intent:
    """Return the intent that `dump` wrote as `text`; services that `like` has too are the same objects.

    Only what differs is read: of ten thousand services in two states of a history, a few. `file` names the
    text in errors. Raises `IntentError`.
    """
    from lbctl.config.loader import loads

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
    if plain and service.endpoints:
        yield f"endpoints = {_list([quote(text) for text in _runs(service.endpoints)])}"
    yield from _choices(service)
    yield from _lists(service)
    if service.check is not None:
        yield from _check(service.check)
    if service.health != DEFAULT_POLICY:
        yield from _health(service.health)
    if service.discover is not None:
        yield from _discover(service.discover)
    if not plain:
        for endpoint in service.endpoints:
            yield from _endpoint(endpoint)


def _choices(service: Service) -> Iterator[str]:
    """Yield the keys that say how an endpoint is chosen, and how connections are led there."""
    if service.scheduler is not Scheduler.ROUND_ROBIN:
        yield f"scheduler = {quote(service.scheduler)}"
    if service.forward is not Forward.NAT:
        yield f"forward = {quote(service.forward)}"
    elif not service.local_clients:
        yield "local-clients = false"
    if service.seed is not None:
        yield f"seed = 0x{service.seed:x}"
    if service.affinity is not None:
        yield f"affinity = {quote(duration(service.affinity))}"
    if service.source_nat is not SourceNat.HAIRPIN:
        yield f"source-nat = {quote(service.source_nat)}"
    if service.takeover:
        yield "takeover = true"


def _lists(service: Service) -> Iterator[str]:
    """Yield the keys that narrow what a service serves."""
    for key, texts in (
        ("allow", map(_network, service.allow)),
        ("deny", map(_network, service.deny)),
        ("interfaces", iter(service.interfaces)),
        ("exclude", map(_network, service.exclude)),
    ):
        if listed := [quote(text) for text in texts]:
            yield f"{key} = {_list(listed)}"


def _check(check: Check) -> Iterator[str]:
    short = _short(check)
    yield "[service.check]" if short is None else f"check = {quote(short)}"
    if short is not None:
        return
    yield f"kind = {quote(check.kind)}"
    if check.port is not None:
        yield f"port = {check.port}"
    yield from _probe(check.probe)
    plain = Check(probe=check.probe)
    fast, timeout = default_timing(check.interval)
    times = (
        ("interval", check.interval, plain.interval),
        ("fast-interval", check.fast_interval, fast),
        ("timeout", check.timeout, timeout),
        ("hold", check.hold, plain.hold),
    )
    yield from (f"{key} = {quote(time_text(time))}" for key, time, usual in times if time != usual)
    yield from (
        f"{key} = {count}"
        for key, count, usual in (("rise", check.rise, plain.rise), ("fall", check.fall, plain.fall))
        if count != usual
    )
    if check.initial is not plain.initial:
        yield f"initial = {quote(check.initial)}"


def _short(check: Check) -> str | None:
    """Return the short form of a check; None where that does not say all."""
    if check != Check(probe=check.probe, port=check.port):
        return None
    match check.probe:
        case TcpProbe() if check.port is None:
            return "tcp"
        case HttpProbe(path=path, host=host, tls=tls) as probe if probe == HttpProbe(
            path=path, host=host, tls=tls and TlsOptions()
        ):
            port = f":{check.port}" if check.port else ""
            return f"{check.kind}://{host or ''}{port}{path}"
        case DnsProbe(name=name, type=RecordType.A) if check.port is None:
            return f"dns:{name}"
    return None


def _probe(probe: Probe) -> Iterator[str]:
    """Yield the keys of what is sent and expected, where they differ from the defaults."""
    said: dict[str, str | None] = {}
    match probe:
        case TcpProbe():
            pass
        case HttpProbe(tls=tls):
            usual = HttpProbe()
            said["path"] = probe.path if probe.path != usual.path else None
            said["host"] = probe.host
            said["status"] = ", ".join(map(str, probe.status)) if probe.status != usual.status else None
            said["body"] = probe.body
            if tls is not None:
                said |= {"ca": tls.ca, "cert": tls.cert, "key": tls.key, "sni": tls.sni}
        case DnsProbe():
            said["name"] = probe.name
            said["type"] = probe.type if probe.type is not RecordType.A else None
        case UdpProbe():
            said |= {"send": _bytes(probe.send), "expect": _bytes(probe.expect)}
        case ExecProbe():
            yield f"argv = {_list([quote(text) for text in probe.argv])}"
            said["user"] = probe.user
        case _:
            assert_never(probe)
    yield from (f"{key} = {quote(value)}" for key, value in said.items() if value is not None)


def _bytes(data: bytes) -> str | None:
    """Return bytes as `send` and `expect` write them: as a text where that is one."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    plain = text.isprintable() and not text.startswith("hex:")
    return (text if plain and text else f"hex:{data.hex()}") if data else None


def _health(policy: HealthPolicy) -> Iterator[str]:
    yield "[service.health]"
    if policy.all_down is not DEFAULT_POLICY.all_down:
        yield f"all-down = {quote(policy.all_down)}"
    if policy.max_down is not None:
        yield f"max-down = {quote(f'{policy.max_down * 100}%')}"
    if policy.on_down is not DEFAULT_POLICY.on_down:
        yield f"on-down = {quote(policy.on_down)}"
    if policy.slow_start:
        yield f"slow-start = {quote(time_text(policy.slow_start))}"
    if policy.notify:
        yield f"notify = {_list([quote(text) for text in policy.notify])}"
    if policy.notify_user != DEFAULT_POLICY.notify_user:
        yield f"notify-user = {quote(policy.notify_user)}"


def _discover(discovery: Discovery) -> Iterator[str]:
    yield "[service.discover]"
    yield f"source = {quote(discovery.source)}"
    yield f"name = {quote(discovery.name)}"
    if discovery.weight is not WeightOwner.FILE:
        yield f"weight = {quote(discovery.weight)}"
    if discovery.within:
        yield f"within = {_list([quote(_network(each)) for each in discovery.within])}"
    if discovery.max != DEFAULT_MAX:
        yield f"max = {discovery.max}"
    if discovery.allow_empty:
        yield "allow-empty = true"


def _endpoint(endpoint: Endpoint) -> Iterator[str]:
    yield "[[service.endpoint]]"
    if endpoint.name != endpoint.to:
        yield f"name = {quote(endpoint.name)}"
    yield f"address = {quote(endpoint.to)}"
    if endpoint.weight != 1:
        yield f"weight = {endpoint.weight}"
    if endpoint.state is not State.ACTIVE:
        yield f"state = {quote(endpoint.state)}"
    if endpoint.mac:
        yield f"mac = {quote(endpoint.mac)}"


def _is_plain(endpoint: Endpoint) -> bool:
    usual = endpoint.weight == 1 and endpoint.state is State.ACTIVE and not endpoint.mac
    return usual and endpoint.name == endpoint.to


def _runs(endpoints: Iterable[Endpoint]) -> Iterator[str]:
    """Yield the endpoints as texts; many ports in a row of this host as one."""
    row: list[int] = []
    for endpoint in endpoints:
        port = endpoint.port if endpoint.address is None else None
        if port is not None and row and port == row[-1] + 1 and len(row) < MAX_RANGE:
            row.append(port)
            continue
        if row:
            yield from _row(row)
            row = []
        if port is not None:
            row = [port]
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
