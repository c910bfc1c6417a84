"""Kernel load balancing as a declared intent.

One small file says which port or address is balanced over which processes or hosts. lbctl compiles it
for nftables or iptables, applies it atomically, reads it back and proves the share of every endpoint.

The names of `lbctl.api` are for Python programs and stay. They are imported on use.
"""

from lbctl.lazy import imported_on_use
from lbctl.version import __version__ as __version__

with imported_on_use(globals()):
    from lbctl.api import (
        Endpoint as Endpoint,
        Intent as Intent,
        LbctlError as LbctlError,
        Listener as Listener,
        Plan as Plan,
        Scheduler as Scheduler,
        Service as Service,
        Session as Session,
        SourceNat as SourceNat,
        State as State,
        Status as Status,
        apply as apply,
        dump as dump,
        load as load,
        loads as loads,
        open_session as open_session,
        plan as plan,
        remove as remove,
        status as status,
    )
