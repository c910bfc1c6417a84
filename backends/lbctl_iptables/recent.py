"""Affinity: a client keeps its endpoint this long after its last new connection.

Each endpoint of a service has a list of `recent`, which the kernel keeps while a rule names it:

    LBCTL-<service>         -m recent --rcheck … -g LBCTL-<service>.<hash>    a client that is on a list
                            … the ladder, for one that is on none
    LBCTL-<service>.<hash>  -m recent --set … -j DNAT …                       is noted, or noted anew

A list has a bounded length, a parameter of the kernel's module: beyond it, the client that was seen least
recently is forgotten. A list is the clients', not the intent's: rules are rewritten around it. It goes with
the last rule that names it: when the endpoint leaves, or takes no more clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl_iptables import layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model import Endpoint, Protocol, Service
    from lbctl_iptables.find import Rule

_WHOLE: Mapping[Family, str] = {
    Family.IPV4: "255.255.255.255",
    Family.IPV6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
}
#: A list has addresses of one family, but its name is known to both.
_SUFFIX: Mapping[Family, str] = {Family.IPV4: "", Family.IPV6: ".6"}


def chain(owner: str, service: Service, endpoint: Endpoint) -> str:
    """Return the name of the chain of an endpoint that remembers its clients."""
    return layout.chain(owner, service.name, layout.digest(endpoint.to))


def remembered(owner: str, service: Service, endpoint: Endpoint, family: Family) -> Rule:
    """Return the rule that leads a client of an endpoint there again."""
    name = chain(owner, service, endpoint)
    seen = ("--rcheck", "--seconds", str(service.affinity), "--reap")
    return ("-m", "recent", *seen, *_list(name, family), "-g", name)


def noting(
    owner: str,
    service: Service,
    endpoint: Endpoint,
    family: Family,
    protocols: Sequence[Protocol],
    target: Rule,
) -> Iterator[Rule]:
    """Yield the rules of an endpoint's chain. `target` is what they do, with their comment."""
    name = chain(owner, service, endpoint)
    for protocol in protocols:
        yield ("-p", protocol, "-m", "recent", "--set", *_list(name, family), *target)


def _list(name: str, family: Family) -> Rule:
    return ("--name", name + _SUFFIX[family], "--mask", _WHOLE[family], "--rsource")
