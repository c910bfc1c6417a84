"""What the tables of lbctl say of a service beside its endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import Family, SourceNat
from lbctl_nftables import layout
from lbctl_nftables.reading.grammar import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl_nftables.reading.document import Document
    from lbctl_nftables.reading.grammar import Key
    from lbctl_nftables.reading.select import Selector

_CHAINS = {chain: kind for kind, chain in layout.SOURCE_CHAIN.items()}
Known: TypeAlias = "Mapping[tuple[Family, Key], SourceNat]"


def source_nats(document: Document) -> Known:
    """When the client's address is replaced, by family and listener of the services of lbctl."""
    known: dict[tuple[Family, Key], SourceNat] = {}
    for family, word in layout.WORD.items():
        for (spoken, _), table in document.tables.items():
            if spoken != word:
                continue
            for asked, answer in ((layout.SERVICES, layout.SOURCES), (layout.PORTS, layout.SOURCE_PORTS)):
                leads = {
                    name: {
                        element.key: element.data.target
                        for element in (table.members[name].elements if name in table.members else ())
                        if isinstance(element.data, Verdict)
                    }
                    for name in (asked, answer)
                }
                for key, chain in leads[asked].items():
                    if layout.service_of_chain(chain) is not None:
                        known[family, key] = _CHAINS.get(leads[answer].get(key, ""), SourceNat.NEVER)
    return known


def key(selector: Selector) -> Key | None:
    """A selector as the dispatch maps of lbctl have it; None for one that they cannot have."""
    dst, proto, dport = (selector.get(what) for what in ("dst", "proto", "dport"))
    if proto is None or dport is None:
        return None
    return (*([dst.text] if dst else []), proto.text, dport.text)
