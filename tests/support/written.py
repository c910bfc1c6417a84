"""What some nft writes of an intent, and what the netlink reader makes of it: for any version of nft."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_nftables import backend as nftables, dialect, layout
from lbctl_nftables.observe import touched
from support.intents import forgetful

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Intent, Item, Key

#: What an item should be, and what the kernel holds in its place.
Difference = tuple["Item | None", "Item | None"]


class Refused(Exception):
    """This nft does not take the text."""


def differences(host: Host, intent: Intent, *, nft: str, speaking: str) -> dict[Key, Difference]:
    """Load an intent in a dialect by this nft, read it back, remove it; return what came back otherwise.

    Both ways to read must give the same: all of the tables, and each item by its key. Runs in the caller's
    network namespace, in which the owner of the intent has no tables. Raises `Refused`.
    """
    capabilities = dialect.speaking(dialect.CAPABILITIES, speaking)
    meant = nftables.compile(intent if capabilities.affinity else forgetful(intent), capabilities)
    done = host.run([nft, "-f", "-"], stdin=nftables.render(meant))
    if done.code:
        raise Refused(done.err)
    try:
        held = nftables.observe(host, "nft", intent.owner).by_key
        one_by_one = touched(host, intent.owner, [*meant.by_key, *held])
    finally:
        for word in layout.WORD.values():
            host.run([nft, "delete", "table", word, layout.table(intent.owner)])
    assert {key: item for key, item in one_by_one.items() if item is not None} == dict(held)
    wanted = meant.by_key
    return {
        key: (wanted.get(key), held.get(key))
        for key in dict.fromkeys([*wanted, *held])
        if wanted.get(key) != held.get(key)
    }
