"""How services lie in iptables: names, places and spellings that all rooms of this backend share.

Everything is in the nat table, in chains that begin with our prefix:

    PREROUTING, OUTPUT → LBCTL            one rule per listener: goto LBCTL-<service>
    LBCTL-<service>                       the slots as a ladder of `statistic` rules
    POSTROUTING → LBCTL-SOURCE            which connections need our source address
    LBCTL-HAIRPIN                         … only where the endpoint would answer without us

Another owner has `LBCTL.<owner>` and `LBCTL.<owner>.<service>`; names of owners and services are in small
letters and have no dot, so no two names can meet. A chain has at most 28 characters; what does not fit is cut
and gets a hash.

Texts are spelled as iptables-save prints them, tokens joined by single blanks. So a program can be compared
with a dump, and whatever is changed by hand shows, be it in a rule's comment or in its target.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from lbctl.model import DEFAULT_OWNER, Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "iptables"

#: Family → the word that begins the names of its commands.
WORD: Mapping[Family, str] = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}

HOOKS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
MAX_CHAIN = 28

_HASH = 8
_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@%+!\[\]-]+\Z")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')


def prefix(owner: str) -> str:
    """What all chains of an owner begin with; also the name of the chain that finds the service."""
    return "LBCTL" if owner == DEFAULT_OWNER else f"LBCTL.{owner}"


def _stem(owner: str) -> str:
    """What an owner's other chains begin with. An owner's name may end in what looks like a service's."""
    return f"{prefix(owner)}-" if owner == DEFAULT_OWNER else f"{prefix(owner)}."


def chain(owner: str, service: str) -> str:
    """The name of a service's chain."""
    name = f"{_stem(owner)}{service}"
    if len(name) <= MAX_CHAIN:
        return name
    digest = base64.b32encode(hashlib.sha256(service.encode()).digest()).decode().lower()[:_HASH]
    return f"{name[: MAX_CHAIN - _HASH - 1]}.{digest}"


def source_chain(owner: str) -> str:
    """The name of the chain that POSTROUTING enters."""
    return f"{_stem(owner)}SOURCE"


def hairpin_chain(owner: str) -> str:
    """The name of the chain for services with source-nat hairpin."""
    return f"{_stem(owner)}HAIRPIN"


def owns(owner: str, chain_name: str) -> bool:
    """True for a name of a chain of this owner."""
    return chain_name == prefix(owner) or chain_name.startswith(_stem(owner))


def quote(token: str) -> str:
    """A token of a rule. The one place where a name or comment becomes rule text."""
    if _PLAIN.match(token):
        return token
    if not token.isprintable():
        raise ValueError(f"{token!r} cannot be quoted")
    escaped = token.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def join(tokens: Iterable[str]) -> str:
    """Tokens → text."""
    return " ".join(quote(token) for token in tokens)


def split(text: str) -> list[str]:
    """Text, of ours or of iptables-save → tokens."""
    return [
        re.sub(r"\\(.)", r"\1", token[1:-1]) if token[0] == '"' and len(token) > 1 else token
        for token in _TOKEN.findall(text)
    ]
