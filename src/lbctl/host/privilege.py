"""What the kernel asks of who deals with its rules: CAP_NET_ADMIN, be it only to see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import PermissionDenied

if TYPE_CHECKING:
    from lbctl.host.host import Host

#: Why nothing is known of the rules of a host.
UNPRIVILEGED = "the kernel shows and changes rules only for processes with CAP_NET_ADMIN"


def need_privilege(host: Host, *, otherwise: str = "give it the capability CAP_NET_ADMIN") -> None:
    """Raise `PermissionDenied` where rules are neither shown nor changed; `otherwise` goes without root."""
    if not host.may_change_network():
        raise PermissionDenied(UNPRIVILEGED, hint=f"run lbctl as root (sudo), or {otherwise}")
