"""Which backend is chosen, why, and what is said where none can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from lbctl.cli.complete import complete_store
from lbctl.errors import IntentError, NoBackend, Unsupported
from lbctl.host.fake import FakeHost
from lbctl.model import (
    Endpoint,
    Intent,
    Listener,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    State,
)
from lbctl.spi import (
    AUTO,
    Backend,
    Candidate,
    Capabilities,
    Driver,
    Probe,
    Selection,
    backends,
    registry,
    require,
    select,
    survey,
)


@dataclass
class Fake:
    """A backend that can only be probed."""

    name: str
    preference: int | None
    drivers: tuple[Driver, ...]
    fix: str = ""
    tools: tuple[str, ...] = ()

    def probe(self, host: Any, *, driver: str | None = None) -> Probe:
        return Probe(
            drivers=self.drivers,
            capabilities=Capabilities(),
            fix=self.fix or f"install {self.name}",
        )

    def _unused(self, *_: Any) -> Any:
        raise NotImplementedError

    compile = render = check = observe = generation = apply = lift = stats = notes = capabilities_for = (
        _unused
    )


def driver(name: str, reason: str = "", *, store: str = "") -> Driver:
    return Driver(name=name, store=store or name, usable=not reason, reason=reason or "usable")


def new(*reasons: str) -> Fake:
    lib, command = (*reasons, "", "")[:2]
    return Fake("new", 10, (driver("library", lib, store="n"), driver("command", command, store="n")))


def old(reason: str = "") -> Fake:
    return Fake("old", 20, (driver("classic", reason),))


def rare(reason: str = "") -> Fake:
    return Fake("rare", None, (driver("special", reason),))


def chosen(fakes: Sequence[Fake], **options: str) -> Selection:
    return select(survey(FakeHost(), fakes), **options)  # type: ignore[arg-type]


def test_a_survey_probes_all_in_their_order() -> None:
    candidates = survey(FakeHost(), [new(), old("no kernel")])
    assert [c.backend.name for c in candidates] == ["new", "old"]
    assert [len(c.probe.usable) for c in candidates] == [2, 0]
    assert isinstance(candidates[0], Candidate)


@pytest.mark.parametrize(
    ("fakes", "driver", "reason"),
    [
        ([new(), old()], "library", "first usable in order of preference"),
        (
            [new("no module"), old()],
            "command",
            "new (library): no module; first usable in order of preference",
        ),
        (
            [new("no module", "not in PATH"), old()],
            "classic",
            "new (library): no module; new (command): not in PATH; first usable in order of preference",
        ),
    ],
)
def test_auto_takes_the_first_that_is_usable_and_says_why(
    fakes: list[Fake], driver: str, reason: str
) -> None:
    choice = chosen(fakes)
    assert (choice.driver.name, choice.reason) == (driver, reason)
    assert choice.backend in fakes


def test_auto_never_takes_a_backend_that_wants_to_be_named() -> None:
    with pytest.raises(NoBackend) as caught:
        chosen([rare(), old("no kernel")])
    assert caught.value.message == "no usable backend: old (classic): no kernel"
    assert caught.value.hint == "install old"
    assert chosen([rare()], backend="rare").reason == "asked for"
    assert chosen([rare(), old()], driver="special").backend.name == "rare"


@pytest.mark.parametrize(
    ("options", "driver"),
    [
        ({"backend": "old"}, "classic"),
        ({"backend": "new"}, "library"),
        ({"backend": "new", "driver": "command"}, "command"),
        ({"driver": "command"}, "command"),
        ({"driver": "classic"}, "classic"),
        ({"backend": AUTO, "driver": "classic"}, "classic"),
    ],
)
def test_what_is_named_is_taken(options: dict[str, str], driver: str) -> None:
    choice = chosen([new(), old(), rare()], **options)
    assert (choice.driver.name, choice.reason) == (driver, "asked for")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        # A store: as users of other programs call a backend and its flavour.
        ({"backend": "n"}, ("new", "library")),
        ({"backend": "classic"}, ("old", "classic")),
        ({"backend": "command"}, ("new", "library")),
        ({"backend": "n", "driver": "command"}, ("new", "command")),
        ({"driver": "n"}, ("new", "library")),
        # A tool.
        ({"backend": "newctl"}, ("new", "library")),
        # Not usable: the next of the same store, never one of another.
        ({"backend": "m"}, ("two", "late")),
        ({"driver": "m"}, ("two", "late")),
    ],
)
def test_names_of_stores_drivers_and_tools_are_understood(
    options: dict[str, str], found: tuple[str, str]
) -> None:
    fakes = [
        new(),
        old(),
        Fake("two", 30, (driver("early"), driver("gone", "no", store="m"), driver("late", store="m"))),
    ]
    fakes[0].tools = ("newctl",)
    choice = chosen(fakes, **options)
    assert (choice.backend.name, choice.driver.name) == found


def test_what_is_named_is_taken_or_nothing() -> None:
    with pytest.raises(NoBackend) as caught:
        chosen([new("no module", "not in PATH"), old()], backend="new")
    assert caught.value.exit_code == 3
    assert caught.value.message == ("no usable backend: new (library): no module; new (command): not in PATH")
    assert caught.value.hint == "install new"
    with pytest.raises(NoBackend) as caught:
        chosen([new("no module"), old()], driver="library")
    assert caught.value.message == "no usable backend: new (library): no module"


def test_names_that_do_not_exist() -> None:
    with pytest.raises(IntentError) as caught:
        chosen([new(), old()], backend="other")
    assert caught.value.exit_code == 2
    assert (caught.value.message, caught.value.hint) == (
        'there is no backend "other"',
        "one of auto, new, old",
    )
    with pytest.raises(IntentError) as caught:
        chosen([new(), old()], driver="other")
    assert (caught.value.message, caught.value.hint) == (
        'there is no driver "other"',
        "one of library, command, classic",
    )
    # A driver of another backend is no driver of this one.
    with pytest.raises(IntentError):
        chosen([new(), old()], backend="old", driver="library")


def test_all_remedies_are_named_once() -> None:
    fakes = [new("a", "b"), old("c"), Fake("third", 30, (driver("x", "d"),), fix="install old")]
    with pytest.raises(NoBackend) as caught:
        chosen(fakes)
    assert caught.value.hint == "install new; or install old"


def test_no_backend_at_all() -> None:
    with pytest.raises(NoBackend) as caught:
        select([])
    assert (caught.value.message, caught.value.hint) == ("no usable backend: none is installed", None)


class Entry(SimpleNamespace):
    """An entry point that loads what it is told to."""

    name: str
    value: str

    def load(self) -> Any:
        if isinstance(self.it, Exception):
            raise self.it
        return self.it


def installed(monkeypatch: pytest.MonkeyPatch, *them: Any) -> None:
    entries = [Entry(name=f"e{i}", value=f"package{i}", it=it) for i, it in enumerate(them)]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)


def test_the_built_in_backends_come_through_the_public_door() -> None:
    found = backends()
    assert [b.name for b in found][:2] == ["nftables", "iptables"]
    assert all(isinstance(b, Backend) for b in found)


def test_installed_backends_stand_in_the_order_of_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Fake("also", 10, ())
    installed(monkeypatch, rare(), old(), new(), other)
    assert [b.name for b in backends()] == ["also", "new", "old", "rare"]


@pytest.mark.parametrize("error", [ImportError("no module x"), RuntimeError("broken"), OSError("gone")])
def test_a_broken_backend_is_never_skipped(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    installed(monkeypatch, new(), error)
    with pytest.raises(NoBackend) as caught:
        backends()
    assert caught.value.message == f'backend "e1" (package1) cannot be loaded: {error}'
    assert "reinstall" in (caught.value.hint or "")


def test_what_is_no_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, SimpleNamespace(name="x", preference=1))
    with pytest.raises(NoBackend, match="is not an lbctl backend"):
        backends()


FULL = Capabilities(
    protocols=frozenset(Protocol),
    schedulers=frozenset(Scheduler),
    states=frozenset(State),
    source_nat=frozenset(SourceNat),
    affinity=True,
    allow=True,
)
NONE = Capabilities(
    protocols=frozenset({Protocol.TCP}),
    schedulers=frozenset({Scheduler.ROUND_ROBIN}),
    source_nat=frozenset({SourceNat.NEVER}),
)


def service(**options: Any) -> Service:
    given: dict[str, Any] = {
        "name": "web",
        "listeners": (Listener(protocol=Protocol.TCP, port=80),),
        "endpoints": (Endpoint(port=8001),),
    }
    return Service(**{**given, **options})


@pytest.mark.parametrize(
    ("asked", "feature", "needs"),
    [
        (service(scheduler=Scheduler.MAGLEV), "scheduler maglev", "schedulers of this backend: round-robin"),
        (
            service(listeners=(Listener(protocol=Protocol.SCTP, port=80),)),
            "protocol sctp",
            "protocols: tcp",
        ),
        (
            service(endpoints=(Endpoint(port=1), Endpoint(port=2, name="b", state=State.DRAIN))),
            "state drain (endpoint b)",
            "remove the endpoint, or its state",
        ),
        (
            service(affinity=60),
            "affinity",
            "remove affinity from the service, or choose another backend",
        ),
        (
            service(endpoints=(Endpoint(port=1, address=ip_address("10.0.0.1")),)),
            "source-nat hairpin",
            "source-nat of this backend: never",
        ),
        (
            service(allow=(ip_network("10.0.0.0/8"),)),
            "allow",
            "remove allow from the service, or choose another backend",
        ),
    ],
)
def test_what_a_backend_cannot_express_is_refused_by_name(asked: Service, feature: str, needs: str) -> None:
    with pytest.raises(Unsupported) as caught:
        require(Intent(services=(asked,)), NONE, backend="old")
    error = caught.value
    assert error.exit_code == 3
    assert error.message == f'service "web": backend old does not support {feature}'
    assert (error.backend, error.service, error.feature, error.hint) == ("old", "web", feature, needs)
    require(Intent(services=(asked,)), FULL, backend="old")


def test_ports_of_this_host_need_no_source_nat() -> None:
    require(Intent(services=(service(source_nat=SourceNat.ALWAYS),)), NONE, backend="old")


def test_completion_names_what_the_backends_have() -> None:
    assert set(complete_store("ipt")) == {"iptables-legacy", "iptables-nft"}
    assert complete_store("nope") == []
