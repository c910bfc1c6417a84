"""The two ways to reach nftables. Both take the same text and print the same listings.

A driver is a module with `NAME`, `find(host)` → its version and the reason why it cannot be used ("" where it
can), `files(host)`, and `read` and `load`, which return how nft ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lbctl.errors import ApplyFailed, ToolCrashed
from lbctl_nftables import listing
from lbctl_nftables.drivers import libnftables, nft
from lbctl_nftables.kernel import netlink

if TYPE_CHECKING:
    from lbctl.host import Completed, Host

_OTHER_VERSION = "another version of nft may have written rules that this one cannot read: use one version"

#: In the order of preference: the binding saves the start of a process.
ALL = {libnftables.NAME: libnftables, nft.NAME: nft}


def read_table(host: Host, driver: str, family: str, name: str) -> list[Any]:
    """As `read`, all of a table; as text where it has flags (see `netlink.tables`)."""
    words = ("list", "table", family, name)
    if netlink.tables(host).get((family, name)):
        return listing.objects(_text(host, driver, *words))
    return read(host, driver, *words)


def read(host: Host, driver: str, *words: str) -> list[Any]:
    """Run one listing command and return the objects of its JSON; raises `ApplyFailed` with nft's words.

    An nft that was built without JSON ends with an error ("JSON support not compiled-in"), the library
    without a word. Then the text listing is read; where that fails too, the reason was another one.
    """
    done = ALL[driver].read(host, *words, json=True)
    if not done.code:
        try:
            answer = json.loads(done.out)
        except ValueError:
            pass
        else:
            return _objects(answer, done.out)
    return listing.objects(_text(host, driver, *words))


def _text(host: Host, driver: str, *words: str) -> str:
    done: Completed = ALL[driver].read(host, *words, json=False)
    if done.code:
        raise ApplyFailed(f"nft refused: {explain(' '.join(words), done.err)}")
    return done.out


def _objects(answer: Any, text: str) -> list[Any]:
    found = answer.get("nftables") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise ApplyFailed(
            f"nft answered something that is no list of objects: {text[:80]!r}",
            hint="does nft list tables work on this host?",
        )
    return [entry for entry in found if isinstance(entry, dict)]


def load(host: Host, driver: str, script: str, *, check: bool = False, trusted: bool = False) -> None:
    """Run a script as one transaction, or have it checked.

    `trusted`: nothing but this tool wrote rules since they were last verified, so that its library may run
    in this process. Raises `ApplyFailed` with nft's message, and `ToolCrashed` if nft did not end by itself.
    """
    done = ALL[driver].load(host, script, check=check, trusted=trusted)
    if done.ended_by is not None:
        version, _ = nft.find(host)
        message = f"nft {version or '(version unknown)'} (driver {driver}) was ended by {done.ended_by}"
        if check:
            raise ApplyFailed(message, hint=_OTHER_VERSION)
        raise ToolCrashed(message, hint=_OTHER_VERSION)
    if done.code:
        raise ApplyFailed(f"nft refused: {explain(script, done.err)}")


def explain(script: str, message: str) -> str:
    """The first complaint of nft, with the line of ours that it is about."""
    text = message.strip() or "no reason given"
    first = text.splitlines()[0]
    place = first.split(":", 3)
    if len(place) == 4 and place[1].isdigit() and 0 < int(place[1]) <= script.count("\n") + 1:
        line = script.splitlines()[int(place[1]) - 1].strip()
        return f"{place[3].strip()} in line {place[1]}: {line}"
    return first
