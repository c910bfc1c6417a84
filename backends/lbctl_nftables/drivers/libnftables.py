"""Driver `libnftables`: the library behind nft, through the Python binding that distributions ship."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.errors import ApplyFailed
from lbctl.host import Completed
from lbctl_nftables.drivers import binding

if TYPE_CHECKING:
    from lbctl.host import Host

NAME = "libnftables"
_CHILD = str(Path(__file__).with_name("libnftables_child.py"))


def find(host: Host) -> tuple[str | None, str]:
    """(version, "") where the binding can be used, else (None, the reason); the version is never known.

    The binding's own number says nothing about the library, and the library tells it only in a listing. No
    context is made, since that opens a netlink socket, which may load a kernel module.
    """
    if not host.is_here():
        return None, "it needs lbctl itself on that host"
    module = host.module(binding.MODULE)
    if module is None or not hasattr(module, "Nftables"):
        return None, binding.why_missing(host)
    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        return None, "libnftables.so.1 cannot be loaded"
    return None, ""


def read(host: Host, *words: str, handles: bool = False) -> Completed:
    """Run one listing command, in a process of its own: foreign tables may crash the library."""
    return _in_child(host, *(("--handle",) if handles else ()), *words)


def files(host: Host) -> tuple[str, ...]:
    """Return the files, besides the library, that decide what this driver writes."""
    module = host.module(binding.MODULE)
    return (str(module.__file__),) if module is not None and getattr(module, "__file__", None) else ()


def load(host: Host, script: str, *, check: bool, trusted: bool) -> Completed:
    """Run a script as one transaction, or have it checked only; in this process if that is `trusted`."""
    if not trusted:
        return _in_child(host, "check" if check else "load", stdin=script)
    with host.kept(NAME, lambda: _context(host)) as context:
        context.set_dry_run(check)
        return _run(context, script)


def _in_child(host: Host, *words: str, stdin: str = "") -> Completed:
    folder = [str(Path(path).parent.parent) for path in files(host)]
    return host.run([sys.executable, "-S", "-P", _CHILD, *(folder or [""]), *words], stdin=stdin)


def _run(context: Any, text: str) -> Completed:
    code, out, err = context.cmd(text)
    return Completed(code=code, out=out or "", err=err or "")


def _context(host: Host) -> Any:
    # A context holds a netlink socket, which belongs to the network namespace that it was opened in.
    module = host.module(binding.MODULE)
    if module is None:
        raise ApplyFailed("the Python module nftables went away")
    return module.Nftables()
