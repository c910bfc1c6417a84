"""How services lie in iptables: names, places and spellings that all rooms of this backend share.

In the nat table, in chains that begin with our prefix:

    PREROUTING, OUTPUT → LBCTL            finds the listener: goto LBCTL-<service>
    LBCTL-TCP, LBCTL-TCP.<block> …        … by blocks of addresses and ports, where there are many listeners
    LBCTL-TCP.LOCAL, LBCTL-TCP.RANGES …   … those without an address, and those with a range of ports
    LBCTL-<service>                       who is served, and how a slot is picked: a ladder of rules
    LBCTL-<service>.<number>              … the groups of a long ladder, so that few rules are met
    LBCTL-<service>.RANGES                leaves single ports inside its ranges to their own services
    LBCTL-<service>.EXCLUDED, .DENIED     blocks of excluded addresses and denied clients, if there are many;
    LBCTL-<service>.INCLUDED, .ADMITTED   … what comes behind these
    LBCTL-<service>.ARRIVED               what comes behind the check of the interface
    LBCTL-<service>.CLIENTS               blocks of allowed clients, if there are many
    LBCTL-<service>.SERVED                the ladder, where only some clients are allowed
    LBCTL-<service>.<hash>                an endpoint that remembers its clients (affinity)
    POSTROUTING → LBCTL-HAIRPIN           connections whose mark says that they need our source address if the
                                          endpoint would answer without us
    POSTROUTING → LBCTL-MASQUERADE        … that they need it in any case
    POSTROUTING → LBCTL-SOURCE            leads to both, if there are services of both kinds

In the filter table, for services that refuse some clients or all, with the same chains to find the listener:

    INPUT, FORWARD, OUTPUT → LBCTL        new connections that no endpoint was picked for
    LBCTL-<service>, … .RANGES            if the service leaves some of them alone, as above
    LBCTL-REFUSE                          the answer: a reset, or that the port is unreachable

and for services with `takeover`, before that:

    FORWARD → LBCTL-GUARD                 drops stray packets of endpoints; with blocks, if there are many

Another owner has `LBCTL.<owner>` and `LBCTL.<owner>.<service>`; names of owners and services are in small
letters and have no dot, so no two names can meet. A chain has at most 28 characters; what does not fit is cut
and gets a hash.

A comment is a match like any other: each connection takes some 20 ns to pass one (Linux 6.18). So the names
of chains say whose they are, and comments only what these cannot say: the name of an endpoint that has one of
its own (`service/endpoint`) and, in the last rule of a chain whose name is cut, the service. Earlier versions
commented each rule.

Two bits of the packet's mark, the intent's `mark`, say to later chains what the service's chain decided. No
other bit of it is ever touched.

Texts are spelled as iptables-save prints them, tokens joined by single blanks. So a program can be compared
with a dump, and whatever is changed by hand shows, be it in a rule's comment or in its target.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from lbctl.model import DEFAULT_OWNER, Family
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NAME = "iptables"
#: What `render --for TOOL=VERSION` may name: the legacy flavour and the one of nf_tables.
TOOLS = ("iptables", "iptables-nft")
#: The priority of table nat where destinations are translated, in both flavours.
PRECEDENCE = -100

#: Family → the word that begins the names of its commands.
WORD: Mapping[Family, str] = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
FAMILY: Mapping[str, Family] = {word: family for family, word in WORD.items()}

NAT = "nat"
FILTER = "filter"
#: The tables that iptables knows, which the other flavour has in nf_tables under the same names.
BUILT_IN = ("raw", "mangle", "nat", "filter", "security")
#: The tables that hold our rules, in the order in which a script names them.
TABLES = (FILTER, NAT)
#: The chains of the kernel itself in those tables: the ones that ours are entered from.
HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
#: Table → where new connections arrive that are looked up there.
ENTRANCES: Mapping[str, Sequence[str]] = {
    NAT: ("PREROUTING", "OUTPUT"),
    FILTER: ("INPUT", "FORWARD", "OUTPUT"),
}
MAX_CHAIN = 28

SOURCE = "SOURCE"
HAIRPIN = "HAIRPIN"
MASQUERADE = "MASQUERADE"
REFUSE = "REFUSE"
GUARD = "GUARD"
#: The target of that chain, and as an iptables writes and prints it that has no such option.
MASQUERADING = ("-j", "MASQUERADE", "--random-fully")
PLAIN_MASQUERADING = MASQUERADING[:2]
CLIENTS = "CLIENTS"
SERVED = "SERVED"
EXCLUDED = "EXCLUDED"
INCLUDED = "INCLUDED"
DENIED = "DENIED"
ADMITTED = "ADMITTED"
ARRIVED = "ARRIVED"
RANGES = "RANGES"

_HASH = 9
_COMMENT = re.compile(r"--comment ([a-z0-9-]+)[ /]")


@dataclass(frozen=True, slots=True)
class Marks:
    """What the two bits of a packet's mark say, each as `value/mask`."""

    none: str
    #: Our source address is needed where the endpoint would answer without us.
    hairpin: str
    #: Our source address is needed.
    masquerade: str
    #: An endpoint was picked, and nothing more is to be done.
    served: str

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, mark: int) -> Marks:
        """Return the marks that the bits of `mark` can say."""
        low = mark & -mark
        return cls(*(f"{value:#x}/{mark:#x}" for value in (0, low, mark ^ low, mark)))


def prefix(owner: str) -> str:
    """Return what all chains of an owner begin with; also the name of the chain that finds the service."""
    return "LBCTL" if owner == DEFAULT_OWNER else f"LBCTL.{owner}"


@lru_cache(maxsize=8)
def _stem(owner: str) -> str:
    """Return what an owner's other chains begin with.

    An owner's name may end in what looks like a service's.
    """
    return f"{prefix(owner)}-" if owner == DEFAULT_OWNER else f"{prefix(owner)}."


def chain(owner: str, *names: str) -> str:
    """Return the name of a chain: a service's with what it is of that service, or one of ours in capitals."""
    name = ".".join(names)
    room = MAX_CHAIN - len(_stem(owner))
    if len(name) > room:
        # What begins with a capital still does.
        short, end = name[: max(0, room - _HASH - 1)], digest(name)
        end = end.replace("x", "X", 1) if name[0].isupper() else end
        name = f"{short}.{end}" if short else end
    return _stem(owner) + name


def digest(text: str) -> str:
    """Return a few small letters and digits that stand for a text; never digits alone."""
    code = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
    return f"x{code[: _HASH - 1]}"


def owns(owner: str, chain_name: str) -> bool:
    """Return True for a name of a chain of this owner."""
    return chain_name == prefix(owner) or chain_name.startswith(_stem(owner))


def owner_of(chain_name: str) -> str | None:
    """Return the owner of a chain; None for a foreign chain."""
    default = prefix(DEFAULT_OWNER)
    if chain_name == default or chain_name.startswith(f"{default}-"):
        return DEFAULT_OWNER
    head, dot, rest = chain_name.partition(".")
    return (rest.partition(".")[0] or None) if dot and head == default else None


def is_shared(owner: str, chain_name: str) -> bool:
    """Return True for a name of a chain of this owner that is no single service's: those have capitals."""
    return chain_name == prefix(owner) or chain_name[len(_stem(owner)) :][:1].isupper()


def service_of(owner: str, chain_name: str, rules: str = "") -> str | None:
    """Return the service of a chain of this owner: the one in its name, or in a comment of a name cut short.

    None for a chain that is shared, and for a name cut short if no comment of `rules`, one a line, is known.
    """
    if is_shared(owner, chain_name):
        return None
    # A name that is cut is as long, or one shorter where only its hash fits.
    if len(chain_name) < MAX_CHAIN - 1:
        return chain_name[len(_stem(owner)) :].partition(".")[0]
    found = _COMMENT.search(rules)
    return found[1] if found else None


def interface(name: str) -> str:
    """Return the name of an interface, as iptables has it."""
    return f"{name[:-1]}+" if name.endswith("*") else name


def comment(text: str) -> tuple[str, ...]:
    """Return the match that is a rule's comment."""
    return ("-m", "comment", "--comment", text)


def targets(tokens: Sequence[str]) -> Iterator[str]:
    """Return what the tokens of a rule lead to: a target, or a chain."""
    return (value for option, value in pairwise(tokens) if option in {"-j", "-g"})
