"""What the agent reports to other programs of this host: the values of the table `agent`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model.check import check_file
from lbctl.values import dataclass

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcements:
    """Where it is announced whether this host balances; paths, None for nowhere.

    `track_file` is a file for `track_file` of keepalived: a number, 0 while this host is ready, 1 while it
    is not. `exabgp` is the named pipe on which exabgp takes commands: the routes of the listeners' addresses
    are announced while this host is ready, and withdrawn while it is not. So are those of `exabgp_routes`,
    e.g. to the networks of clients: then replies come back through a host that is ready.
    """

    track_file: str | None = None
    exabgp: str | None = None
    exabgp_routes: tuple[IPv4Network | IPv6Network, ...] = ()

    def __post_init__(self) -> None:
        for path in (self.track_file, self.exabgp):
            if path is not None:
                check_file(path)
        if self.exabgp_routes and self.exabgp is None:
            raise ValueError("routes for exabgp without its named pipe")


#: What holds without an `agent` table.
NO_ANNOUNCEMENTS = Announcements()
