"""What a backend adds to `Reader` where rules of anybody can be taken out, and put back in their places."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import Remembered

#: Whose rules are in places with names that begin so, in any case of letters: who would write them again.
_KEEPERS: Mapping[str, str] = {
    "cali": "Calico",
    "cilium": "Cilium",
    "cni": "a CNI plugin",
    "docker": "Docker",
    "firewalld": "firewalld",
    "flannel": "flannel",
    "istio": "Istio",
    "kube-": "kube-proxy",
    "libvirt": "libvirt",
    "netavark": "Podman",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """Rules of a dump that are to go, with what nothing else leads to then."""

    #: The dump without them.
    after: str
    #: The lines of the dump that go.
    lines: tuple[int, ...]
    #: What `take_out` and `put_back` need to know, as a text to keep.
    record: str


@runtime_checkable
class Retiring(Protocol):
    """Takes out rules of anybody, exactly those, and puts them back.

    A `record` is that of a `Retirement`. What was done already is not done again, so that both can be
    repeated after an interruption; each is atomic per family.
    """

    def retire(self, text: str, lines: Collection[int]) -> Retirement:
        """Find what goes with some lines of a dump: what then leads to nothing, or has no user. Pure."""

    def keeper(self, text: str, lines: Collection[int]) -> str | None:
        """The program that writes these rules of a dump itself, and would do so again; None for nobody."""

    def retired(self, record: str) -> tuple[str, ...]:
        """The rules of a record that go, as a dump has them. Pure."""

    def standing(self, host: Host, driver: str, record: str) -> bool:
        """True where all that is to be retired is in the kernel."""

    def side_effects(self, driver: str, text: str, record: str) -> tuple[str, ...]:
        """What taking out or putting back rules does to those that a dump has beside them, in words. Pure."""

    def departure(self, host: Host, driver: str, record: str) -> str:
        """What takes out what is still there, for the host's own tools."""

    def take_out(self, host: Host, driver: str, record: str) -> None:
        """Take out what is still there; raises `ApplyFailed`."""

    def put_back(self, host: Host, driver: str, record: str) -> None:
        """Put back what is not there, each rule behind those that were before it; raises `ApplyFailed`."""

    def clients_of(
        self, host: Host, text: str, services: Mapping[str, Collection[int]]
    ) -> tuple[Remembered, ...]:
        """The clients that rules of a dump keep; `services` are the lines of each that moves."""


def keeper_of(names: Iterable[str]) -> str | None:
    """The program that keeps its rules in places of such names, and writes them again; None for nobody."""
    lower = [name.lower() for name in names]
    return next((who for name in lower for start, who in _KEEPERS.items() if name.startswith(start)), None)


def missing(old: Sequence[tuple[str, bool]], now: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Where rules are to be put back among those of now: before which one, and the rule.

    `old` are the rules of before, each with whether it was to go.
    """
    place = 0
    found = _found(old, now)
    for number, (text, goes) in enumerate(old):
        if number in found:
            place = found[number] + 1
        elif goes:
            yield place, text


def present(old: Sequence[tuple[str, bool]], now: Sequence[str]) -> list[int]:
    """The places among the rules of now of those that are to go."""
    found = _found(old, now)
    return [found[number] for number, (_, goes) in enumerate(old) if goes and number in found]


def _found(old: Sequence[tuple[str, bool]], now: Sequence[str]) -> dict[int, int]:
    """The rules of before that are there now: number → number."""
    texts = [text for text, _ in old]
    blocks = SequenceMatcher(None, texts, now, autojunk=False).get_matching_blocks()
    found = {block.a + n: block.b + n for block in blocks for n in range(block.size)}
    for number, (text, goes) in enumerate(old):
        if not goes and number not in found:
            # Of rules that are alike, the one that is there is the one that was to stay.
            twin = next((n for n in found if old[n] == (text, True)), None)
            if twin is not None:
                found[number] = found.pop(twin)
    return found
