"""A host that is reached over ssh, and has nothing of lbctl on it."""

from lbctl.host.remote.connection import Connection
from lbctl.host.remote.destination import Destination
from lbctl.host.remote.host import RemoteHost

__all__ = ["Connection", "Destination", "RemoteHost"]
