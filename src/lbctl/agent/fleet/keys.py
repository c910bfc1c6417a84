"""Where things stand in etcd. Roles of etcd are given for these prefixes, see docs/how-to/many-hosts.md.

/lbctl/intent/NAME/current      the publication that all hosts follow
/lbctl/intent/NAME/canary       one that only the hosts in it follow, under the lease of who publishes
/lbctl/past/NAME/000000000007   the last publications, for a rollback
/lbctl/hosts/NAME/HOST          what a host reports, under the lease of its agent
/lbctl/known/NAME/HOST          a host that has reported once
"""

from __future__ import annotations

ROOT = "/lbctl/"


def intent(name: str) -> str:
    """Return the prefix of an intent's publications."""
    return f"{ROOT}intent/{name}/"


def current(name: str) -> str:
    """Return the key of the publication that all hosts follow."""
    return f"{intent(name)}current"


def canary(name: str) -> str:
    """Return the key of the publication that some hosts try."""
    return f"{intent(name)}canary"


def past(name: str, revision: int | None = None) -> str:
    """Return the key of a publication that was current, or the prefix of all."""
    return f"{ROOT}past/{name}/" + ("" if revision is None else f"{revision:012}")


def hosts(name: str, host: str = "") -> str:
    """Return the key of a host's report, or the prefix of all."""
    return f"{ROOT}hosts/{name}/{host}"


def known(name: str, host: str = "") -> str:
    """Return the key of a host that has reported once, or the prefix of all."""
    return f"{ROOT}known/{name}/{host}"
