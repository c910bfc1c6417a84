"""Words of other load balancers and of rules, and what answers them here.

Imported only where a document has a mistake.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

#: Schedulers of IPVS, HAProxy, nginx and Envoy, spelled with dashes → ours.
_SCHEDULERS = {
    "rr": "round-robin",
    "wrr": "round-robin",
    "static-rr": "round-robin",
    "weighted": "round-robin",
    "sh": "source-hash",
    "source": "source-hash",
    "hash": "source-hash",
    "ip-hash": "source-hash",
    "iphash": "source-hash",
    "mh": "maglev",
    "consistent": "maglev",
    "ring-hash": "maglev",
    "lc": "least-connections",
    "wlc": "least-connections",
    "leastconn": "least-connections",
    "least-conn": "least-connections",
    "least-request": "least-connections",
}
#: Keys of other programs, spelled with dashes → ours.
_KEYS = {
    "to": "address",
    "target": "address",
    "port": "address",
    "backends": "endpoints",
    "servers": "endpoints",
    "server": "endpoints",
    "upstream": "endpoints",
    "real-server": "endpoints",
    "algorithm": "scheduler",
    "method": "scheduler",
    "balance": "scheduler",
    "lb-algo": "scheduler",
    "sticky": "affinity",
    "persistence": "affinity",
    "persistence-timeout": "affinity",
    "bind": "listen",
    "virtual-server": "listen",
    "allowed": "allow",
    "denied": "deny",
    "blocked": "deny",
    "interface": "interfaces",
    "excluded": "exclude",
    "except": "exclude",
    "version": "schema",
    "health-check": "check",
    "healthcheck": "check",
    "health": "check",
}
_ADVICE = {
    "weights": 'give an endpoint its weight in a table: [[service.endpoint]] with `address = "8001"` and '
    "`weight = 2`",
}
#: What begins a text that is no intent file → its name.
_LANGUAGES = (
    (r"^\*(?:nat|filter|mangle|raw|security)$|^:[A-Z]+ (?:ACCEPT|DROP|-) \[", "iptables-save"),
    (r"^[ \t]*(?:sudo )?(?:/usr)?(?:/s?bin/)?ip6?tables(?:-legacy|-nft)? +-", "commands of iptables"),
    (r"^[ \t]*(?:add )?table (?:ip6?|inet|netdev|bridge|arp) \S+|^flush ruleset$", "rules of nft"),
    (r"^[ \t]*(?:sudo )?nft +(?:-\S+ +)*(?:add|create|insert|flush|-f) ", "commands of nft"),
)
_IPVS = re.compile(r"(?m)^(?:ipvsadm +)?-[Aa] -[tuf] ")


def scheduler_hint(word: str, known: Collection[str]) -> str | None:
    """Return the hint for a scheduler of another program; None for a word that none is known to have."""
    ours = _SCHEDULERS.get(word.lower().replace("_", "-"))
    if ours is None:
        return None
    return f'did you mean "{ours}"?' if ours in known else None


def key_hint(key: str, known: Collection[str]) -> str | None:
    """Return the hint for a key of another program; None for one that none is known to have."""
    word = key.lower().replace("_", "-")
    ours = _KEYS.get(word, word)
    return f"did you mean `{ours}`?" if ours in known else _ADVICE.get(ours)


def other_language(text: str) -> tuple[str, str] | None:
    """Return what a text holds instead of an intent, and a hint; None for a text of no known kind."""
    if _IPVS.search(text):
        return (
            "output of ipvsadm-save",
            (
                "lbctl init prints an intent file; rr and wrr are round-robin, sh is source-hash, "
                'mh is maglev, and a weight of 0 is `state = "drain"`'
            ),
        )
    for pattern, name in _LANGUAGES:
        if re.search(f"(?m){pattern}", text):
            return name, "lbctl import FILE prints the intent file for such rules"
    return None
