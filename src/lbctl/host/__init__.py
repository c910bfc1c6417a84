"""Every effect of lbctl: running programs, reading files, importing bindings, locks and namespaces."""

from lbctl.host.host import Completed, Host, LocalHost

__all__ = ["Completed", "Host", "LocalHost"]
