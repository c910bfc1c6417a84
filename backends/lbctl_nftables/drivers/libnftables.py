"""Driver `libnftables`: the library behind nft, through the Python binding that distributions ship."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lbctl.errors import ApplyFailed
from lbctl.host import Completed
from lbctl_nftables.drivers import binding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host

NAME = "libnftables"
_STDERR = 2


def find(host: Host) -> tuple[str | None, str]:
    """(version, "") where the binding can be used, else (None, the reason); the version is never known.

    The binding's own number says nothing about the library, and the library tells it only in a listing. No
    context is made, since that opens a netlink socket, which may load a kernel module.
    """
    module = host.module(binding.MODULE)
    if module is None or not hasattr(module, "Nftables"):
        return None, binding.why_missing(host)
    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        return None, "libnftables.so.1 cannot be loaded"
    return None, ""


def read(host: Host, *words: str, json: bool, handles: bool = False) -> Completed:
    """Run one listing command."""
    context = _context(host)
    if json:
        context.set_json_output(True)
    else:
        context.set_numeric_prio_output(True)
    if handles:
        context.set_handle_output(True)
    with _quiet():
        return _run(context, " ".join(words))


def load(host: Host, script: str, *, check: bool) -> Completed:
    """Run a script as one transaction, or have it checked only."""
    with host.kept(NAME, lambda: _context(host)) as context:
        context.set_dry_run(check)
        return _run(context, script)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing goes to standard error: errors come as text, but 1.0.6 writes warnings there itself.

    It has no JSON for an update of a map, says so for each one, and lists it as text.
    """
    try:
        before = os.dup(_STDERR)
    except OSError:
        # Closed: nobody is disturbed.
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)
        yield
    finally:
        os.dup2(before, _STDERR)
        os.close(before)


def _run(context: Any, text: str) -> Completed:
    code, out, err = context.cmd(text)
    return Completed(code=code, out=out or "", err=err or "")


def _context(host: Host) -> Any:
    # A context holds a netlink socket, which belongs to the network namespace that it was opened in.
    module = host.module(binding.MODULE)
    if module is None:
        raise ApplyFailed("the Python module nftables went away")
    return module.Nftables()
