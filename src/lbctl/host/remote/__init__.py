"""A host that is reached over ssh, and has nothing of lbctl on it."""

from lbctl.host.remote.destination import Destination
from lbctl.host.remote.host import RemoteHost
from lbctl.host.remote.session import SshSession

__all__ = ["Destination", "RemoteHost", "SshSession"]
