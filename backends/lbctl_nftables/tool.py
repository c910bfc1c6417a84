"""What is known of the tool that writes our rules: the dialect that it writes rightly, and what it proved.

A tool that accepts a text need not write what the text says: nft 1.1.7 writes the keys of maps declared
`typeof numgen` in the other byte order, and the kernel then finds none of them. So what a tool writes is read
back: everything at its first use, what a change touched at every later one (`lbctl_nftables.apply`).

The record of a tool lasts until this host starts again, and only while its files are the same ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from lbctl.errors import Damaged
from lbctl.host import TOOL
from lbctl.model import Shape, read_record
from lbctl.values import dataclass
from lbctl.version import __version__
from lbctl_nftables import drivers

if TYPE_CHECKING:
    from lbctl.host import Host

#: Where distributions keep the library that does the work of either driver; Debian below a name like
#: x86_64-linux-gnu, one of a hundred directories there.
_LIBRARIES = (
    "/usr/lib/*-linux-*/libnftables.so.1",
    "/usr/lib*/libnftables.so.1",
    "/usr/local/lib/libnftables.so.1",
    "/lib/*-linux-*/libnftables.so.1",
)


#: The identity of a tool, and the fields of its `Record`.
_SHAPE: Shape = (
    [str],
    {"dialect": str, "reason": str, "offload_refusal": str, "verified": bool, "generation": str | None},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one tool on this host."""

    dialect: str
    #: Why this dialect.
    reason: str
    #: Why the kernel takes no flowtable; "" if it does.
    offload_refusal: str = ""
    #: True once everything that it wrote was read back and was right.
    verified: bool = False
    #: The kernel's generation after its last verified write: nothing but its own rules was written since.
    generation: str | None = None


def recall(host: Host, driver: str) -> Record | None:
    """Return the record of the tool behind a driver.

    None for a tool that was not used yet, or was replaced.
    """
    try:
        identity, fields = read_record(host.recall(_name(driver)) or "", _SHAPE)
    except Damaged:
        return None
    return Record(**fields) if identity == _identity(host, driver) else None


def keep(host: Host, driver: str, record: Record) -> None:
    """Remember a record. Best effort: without one, the next use of the tool counts as its first."""
    host.remember(_name(driver), json.dumps([_identity(host, driver), asdict(record)]))


def _name(driver: str) -> str:
    return f"{TOOL}{driver}"


def _identity(host: Host, driver: str) -> list[str]:
    """Return what changes when the tool, its library, the kernel or lbctl does."""
    kernel = (host.read("/proc/sys/kernel/osrelease") or "").strip()
    host.expect(fingerprints=(*drivers.ALL[driver].files(host), *_LIBRARIES))
    libraries = {path for pattern in _LIBRARIES for path in host.glob(pattern)}
    files = [*drivers.ALL[driver].files(host), *sorted(libraries)]
    return [__version__, kernel, *sorted({found for path in files if (found := host.fingerprint(path))})]
