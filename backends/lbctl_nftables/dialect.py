"""Which of two ways of writing rules this host understands, and how lbctl knows.

*Modern*: slot pages, that is, maps declared with `typeof`, counted and commented, whose data are an address
and a port (see `layout`). *Classic*: none of these, for nft 0.9.2 and Linux 4.18 onwards (see `classic`).

Two answers, since looking must leave no trace: `hint` reads versions and serves everything that only looks
at files or works without privilege. Versions mislead, though: distributions carry features back, and a new
nft may run on an old kernel. So `ask` has the kernel check the very expressions once lbctl is about to look
at its rules anyway. `probe` does not, since even a check loads the modules behind the expressions. What is
checked has no hook, so no packet ever meets it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, NoBackend
from lbctl_nftables import drivers, layout

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.spi import Capabilities

MODERN = "modern"
CLASSIC = "classic"

#: No owner's table can have this name.
_TABLE = "lbctl.dialect"
#: First releases with counters on the elements of a declared set; the other features are older.
_NFT = (0, 9, 5)
_KERNEL = (5, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The way to write rules, and why this one."""

    name: str
    reason: str


def hint(nft: str | None, kernel: str) -> Dialect:
    """What the versions suggest; what is not known counts as new."""
    known = [text for text in (f"nft {nft}" if nft else "", f"Linux {kernel}" if kernel else "") if text]
    if nft and _numbers(nft) < _NFT:
        return Dialect(name=CLASSIC, reason=f"nft {nft} is older than {_dotted(_NFT)}")
    if kernel and _numbers(kernel) < _KERNEL:
        return Dialect(name=CLASSIC, reason=f"Linux {kernel} is older than {_dotted(_KERNEL)}")
    return Dialect(name=MODERN, reason=", ".join(known) or "no version is known")


def ask(host: Host, driver: str) -> Dialect | None:
    """What the kernel and nft take; None where they take neither, which says nothing about dialects.

    A failure that has other reasons must not turn all rules round: classic is the answer only where its own
    expressions pass.
    """
    refusal = _refusal(host, driver, modern())
    if not refusal:
        return Dialect(name=MODERN, reason="the kernel and nft take it")
    if not _refusal(host, driver, classic()):
        return Dialect(name=CLASSIC, reason=refusal)
    return None


def refine(host: Host, driver: str, capabilities: Capabilities) -> Capabilities:
    """See `lbctl.spi.Refining.refine`."""
    found = ask(host, driver)
    return capabilities if found is None else speaking(capabilities, found.name)


def speaking(capabilities: Capabilities, name: str) -> Capabilities:
    """The capabilities in a dialect. A map that keeps a client's endpoint holds an address and a port."""
    return replace(capabilities, dialect=name, affinity=capabilities.affinity and name == MODERN)


def modern() -> str:
    """A script of what the modern dialect needs beyond the classic one."""
    return _script(
        (
            "map page {",
            *layout.declarations("ip")["page-addresses-tcp"],
            'elements = { 0 comment "web/10.0.0.1:80" : 10.0.0.1 . 80 }',
            "}",
        ),
        ("chain pick {", "meta l4proto tcp dnat ip to numgen inc mod 1 offset 0 map @page", "}"),
    )


def classic() -> str:
    """A script of what the classic dialect needs."""
    return _script(
        ("chain endpoint-web/10.0.0.1_80 {", "meta l4proto tcp counter dnat to 10.0.0.1:80", "}"),
        (
            "chain pick {",
            "meta l4proto tcp numgen inc mod 1 offset 0 vmap { 0 : goto endpoint-web/10.0.0.1_80 }",
            "}",
        ),
    )


def _script(*blocks: tuple[str, ...]) -> str:
    lines = [line for block in blocks for line in block]
    return "\n".join([f"table ip {_TABLE} {{", *lines, "}"]) + "\n"


def _refusal(host: Host, driver: str, script: str) -> str:
    try:
        drivers.load(host, driver, script, check=True)
    except ApplyFailed as error:
        return error.message
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


#: The first and the last release of nft that were run with the modern dialect and were right. 0.9.8 refuses
#: it (`counter` in a map is of 1.0.0, a map of concatenated data behind `dnat` of 1.0.1); 1.1.7 writes the
#: keys of named maps `typeof numgen` in the wrong byte order. A release that is not known to be right counts
#: as old: the classic dialect is right on all of them.
_MODERN_SINCE, _MODERN_UNTIL = (1, 0, 6), (1, 1, 3)
#: What the classic dialect needs.
_OLDEST = (0, 9, 2)


def for_version(version: str) -> str:
    """Return the dialect to write for an nft that cannot be asked, by its version.

    Raises `ValueError` for what is no version, and `NoBackend` for a release before 0.9.2.
    """
    if not re.fullmatch(r"\d+(\.\d+)+", version):
        raise ValueError(f"{version!r} is no version such as {_dotted(_MODERN_SINCE)}")
    if _numbers(version) < _OLDEST:
        raise NoBackend(
            f"lbctl writes no rules for nft {version}", hint=f"the oldest is nft={_dotted(_OLDEST)}"
        )
    return MODERN if _MODERN_SINCE <= _numbers(version) <= _MODERN_UNTIL else CLASSIC
