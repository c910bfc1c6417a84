"""What is sent to an endpoint to learn whether it serves: one file for each kind, and what they share.

prober.py   which kind goes where; the only name that the rest of the agent knows
tcp.py      connections, many at a time, on one epoll of their own
http.py     requests, over TLS or not; the protocol is h11's
dns.py      queries; the protocol is dnspython's
udp.py      datagrams
program.py  programs of the administrator, and the rules by which they may be run
local.py    processes of this host that stop listening
"""

from lbctl.agent.checks.prober import Prober

__all__ = ["Prober"]
