"""The conformance suite on every driver of this machine, and proof that each of its checks can fail."""

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lbctl.conformance import CHECKS, DriverUnderTest, Site, Support, __main__ as conformance, run, ways
from lbctl.conformance.checks import HASHED, HASHED6, TABLED, crowd, who_serves_whom
from lbctl.conformance.test_conformance import *  # noqa: F403 (the suite itself)
from lbctl.host import LocalHost
from lbctl.model import Endpoint, Forward, Intent, Protocol, Scheduler, Service, SourceNat, State
from lbctl_nftables import backend as nftables
from support.network import DRIVERS

BY_NAME = {check.name: check for check in CHECKS}


def test_every_driver_of_this_machine_is_proved() -> None:
    assert {(way.backend.name, way.driver) for way in ways(LocalHost()) if not way.reason} == set(DRIVERS)


@pytest.mark.parametrize("asked", [HASHED, HASHED6, TABLED], ids=["source-hash", "source-hash-6", "maglev"])
def test_a_client_has_the_same_endpoint_on_every_host_and_backend(asked: Service) -> None:
    """So a migration moves nobody, and hosts that know nothing of each other agree."""
    placed = []
    for way in ways(LocalHost()):
        with Site(way) as site:
            if site.refusal([asked]) is None:
                site.network.local_endpoints(endpoint.port for endpoint in asked.endpoints)
                crowd(site)
                site.apply(asked)
                placed.append(who_serves_whom(site, asked))
    assert len(placed) >= 2
    assert all(each == placed[0] for each in placed)


# -- a suite that passes everything proves nothing


def liar(**members: Any) -> DriverUnderTest:
    """The nftables backend with some members that do something else."""
    names = (name for name in dir(nftables) if not name.startswith("_"))
    lying = SimpleNamespace(**{name: getattr(nftables, name) for name in names} | members)
    return DriverUnderTest(backend=lying, driver="libnftables")


def wrong(check: str, way: DriverUnderTest) -> str:
    """What the check says is wrong."""
    outcome = run(BY_NAME[check], way)
    assert outcome.verdict is Support.FAILED, check
    return outcome.reason


def equal(service: Service) -> Service:
    return replace(service, endpoints=endpoints(service, weight=1))


def endpoints(service: Service, **values: Any) -> tuple[Endpoint, ...]:
    def changed(each: Endpoint) -> Endpoint:
        kept = {name: getattr(each, name) for name in ("port", "address", "name", "weight", "state")}
        return Endpoint(**{**kept, **values})

    return tuple(map(changed, service.endpoints))


def without(protocol: Protocol) -> Callable[[Service], Service]:
    return lambda s: replace(s, listeners=tuple(x for x in s.listeners if x.protocol is not protocol))


def everywhere(service: Service) -> Service:
    return replace(
        service, listeners=tuple(dict.fromkeys(replace(x, address=None) for x in service.listeners))
    )


def as_source_nat(kind: SourceNat) -> Callable[[Service], Service]:
    return lambda s: replace(s, source_nat=kind)


def as_scheduler(kind: Scheduler) -> Callable[[Service], Service]:
    return lambda s: replace(s, scheduler=kind)


def four(service: Service) -> Service:
    return replace(
        service, endpoints=tuple(e for e in service.endpoints if e.address is None or e.address.version == 4)
    )


#: How a backend could do less than it is asked for → the checks that tell.
LESS: dict[str, tuple[Callable[[Service], Service], tuple[str, ...]]] = {
    "no weights": (
        equal,
        ("scheduler round-robin, with weights", "scheduler random", "statistics are exact"),
    ),
    "always turns": (
        as_scheduler(Scheduler.ROUND_ROBIN),
        ("scheduler random", "scheduler source-hash", "scheduler maglev", "scheduler least-connections"),
    ),
    "always a dice": (as_scheduler(Scheduler.RANDOM), ("tcp", "udp", "sctp", "ranges of ports")),
    "never dealt": (lambda s: replace(s, deals=frozenset()), ("scheduler least-connections",)),
    "always by translation": (
        lambda s: replace(s, forward=Forward.NAT, hops=frozenset()),
        ("direct server return",),
    ),
    "a hash for no client": (
        lambda s: (
            replace(s, scheduler=Scheduler.RANDOM)
            if s.forward is Forward.DSR and s.scheduler is Scheduler.SOURCE_HASH
            else s
        ),
        ("direct server return",),
    ),
    "no memory": (lambda s: replace(s, affinity=None), ("affinity",)),
    "a long memory": (lambda s: replace(s, affinity=s.affinity and 3600), ("affinity",)),
    "everybody active": (
        lambda s: replace(s, endpoints=endpoints(s, state=State.ACTIVE)),
        (
            "endpoint state drain",
            "affinity: a client whose endpoint drains is moved",
            "endpoint state backup",
            "rejects (RST or ICMP) when no endpoint is available",
        ),
    ),
    "open to all": (
        lambda s: replace(s, allow=()),
        ("allow", "sctp: disallowed clients get an ABORT or ICMP error"),
    ),
    "no tcp": (without(Protocol.TCP), ("tcp", "several listeners of one service")),
    "no udp": (without(Protocol.UDP), ("udp", "UDP flows of a removed endpoint are deleted")),
    "no sctp": (without(Protocol.SCTP), ("sctp",)),
    "IPv4 only": (four, ("IPv4, IPv6",)),
    "any address": (everywhere, ("several listeners of one service",)),
    "own clients always": (
        lambda s: replace(s, local_clients=True),
        ("local clients (optional)",),
    ),
    "own clients never": (
        lambda s: replace(s, local_clients=False),
        ("local clients (optional)", "IPv4, IPv6", "statistics are exact"),
    ),
    "never translated": (
        as_source_nat(SourceNat.NEVER),
        ("source-nat hairpin", "source-nat always"),
    ),
    "always translated": (
        as_source_nat(SourceNat.ALWAYS),
        ("source-nat hairpin", "source-nat never"),
    ),
    "first ports only": (
        lambda s: replace(s, listeners=tuple(replace(x, last_port=x.port) for x in s.listeners)),
        (
            "listener port ranges",
            "listener port ranges of an address",
            "listener port ranges: a range grows and shrinks, and its pick goes on",
            "listener port ranges with affinity",
            "listener port ranges with source-nat hairpin",
        ),
    ),
    "always translated, ranges too": (
        as_source_nat(SourceNat.ALWAYS),
        (
            "listener port ranges: a single port inside has only what its own service says",
            "listener port ranges with source-nat hairpin",
        ),
    ),
    "no range remembers": (lambda s: replace(s, affinity=None), ("listener port ranges with affinity",)),
    "one port for all": (
        lambda s: replace(s, endpoints=endpoints(s, port=80) if s.remote else s.endpoints),
        ("endpoints without a port",),
    ),
    "from everywhere": (lambda s: replace(s, interfaces=()), ("interfaces",)),
    "denies nobody": (lambda s: replace(s, deny=()), ("deny",)),
    "lets stray packets pass": (lambda s: replace(s, takeover=False), ("takeover",)),
    "excludes nothing": (lambda s: replace(s, exclude=()), ("exclude",)),
    "one endpoint less": (
        lambda s: replace(s, endpoints=s.endpoints[:-1] or s.endpoints),
        (
            "endpoints: ports of this host, or addresses",
            "what is read back is what was compiled, and has the exact shares",
            "a change of one service disturbs no other",
        ),
    ),
}


@pytest.mark.parametrize(
    ("how", "check"), [(how, check) for how, (_, checks) in LESS.items() for check in checks]
)
def test_a_backend_that_does_less_fails(how: str, check: str) -> None:
    change, _ = LESS[how]

    def compile_less(intent: Intent, capabilities: Any) -> Any:
        return nftables.compile(replace(intent, services=tuple(map(change, intent.services))), capabilities)

    assert wrong(check, liar(compile=compile_less))


def test_a_capability_that_is_denied_must_be_refused() -> None:
    def humble(host: Any, *, driver: str | None = None) -> Any:
        found = nftables.probe(host, driver=driver)
        return replace(found, capabilities=replace(found.capabilities, affinity=False))

    def silent(intent: Intent, capabilities: Any) -> Any:
        return nftables.compile(intent, replace(capabilities, affinity=True))

    way = liar(probe=humble)
    outcome = run(BY_NAME["affinity"], way)
    assert (outcome.verdict, outcome.reason) == (Support.REFUSED, "affinity")
    assert wrong("affinity", liar(probe=humble, compile=silent)) == (
        "compiles affinity, which its capabilities lack"
    )


def test_offload_is_checked_where_it_can_be_had() -> None:
    """This kernel has no flowtables: a backend that says it had, and does without, balances all the same."""

    def proud(host: Any, *, driver: str | None = None) -> Any:
        found = nftables.probe(host, driver=driver)
        return replace(found, capabilities=replace(found.capabilities, offload=True))

    def plainly(intent: Intent, capabilities: Any, **options: Any) -> Any:
        return nftables.compile(replace(intent, offload=()), capabilities, **options)

    def not_at_all(intent: Intent, capabilities: Any, **options: Any) -> Any:
        services = () if intent.offload else intent.services
        return nftables.compile(replace(intent, services=services, offload=()), capabilities, **options)

    outcome = run(BY_NAME["offload"], liar(probe=proud, compile=plainly))
    assert (outcome.verdict, outcome.reason) == (Support.YES, "")
    assert wrong("offload", liar(probe=proud, compile=not_at_all))
    assert run(BY_NAME["offload"], liar()).verdict in {Support.YES, Support.REFUSED}


def test_a_capability_that_is_claimed_must_not_be_refused() -> None:
    def shy(intent: Intent, capabilities: Any) -> Any:
        return nftables.compile(intent, replace(capabilities, affinity=False))

    assert wrong("affinity", liar(compile=shy)) == "refuses affinity, which its capabilities have"


# -- the command


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = conformance.main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_the_matrix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "CHECKS", [BY_NAME["tcp"], BY_NAME["scheduler maglev"]])
    code, out, err = command(capsys, "--driver", "libnftables")
    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()[1:]] == ["tcp", "scheduler maglev"]
    assert out.count("yes") == 2
    code, out, _ = command(capsys, "--backend", "nftables", "--output", "json")
    assert code == 0
    verdicts = [[o["verdict"] for o in check["outcomes"]] for check in json.loads(out)["checks"]]
    assert verdicts == [["yes"] * 2] * 2
    monkeypatch.setattr(conformance, "ways", lambda *_: (liar(stats=lambda *_: ()),))
    monkeypatch.setattr(conformance, "CHECKS", [BY_NAME["statistics are exact"]])
    code, out, _ = command(capsys)
    assert code == 1
    assert "statistics are exact: FAIL by nftables libnftables: " in out


def test_the_command_says_what_it_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(capsys, "--backend", "nonesuch")[:2] == (3, "")
    monkeypatch.setattr(LocalHost, "may_change_network", lambda _: False)
    code, out, err = command(capsys)
    assert (code, out) == (4, "")
    assert "root" in err
