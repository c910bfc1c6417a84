"""Which program keeps foreign rules, and where removed rules are among those of now."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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


def keeper_of(names: Iterable[str]) -> str | None:
    """Return the program that keeps its rules in places of such names, and writes them again.

    None for nobody.
    """
    lower = [name.lower() for name in names]
    return next((who for name in lower for start, who in _KEEPERS.items() if name.startswith(start)), None)


def missing(old: Sequence[tuple[str, bool]], now: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield where rules are to be put back among those of now: before which one, and the rule.

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
    """Return the places among the rules of now of those that are to go."""
    found = _found(old, now)
    return [found[number] for number, (_, goes) in enumerate(old) if goes and number in found]


def _found(old: Sequence[tuple[str, bool]], now: Sequence[str]) -> dict[int, int]:
    """Return the rules of before that are there now: number → number."""
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
