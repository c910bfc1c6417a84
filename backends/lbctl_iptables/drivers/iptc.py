"""Driver `iptc`: python-iptables, that is, libiptc without the iptables commands. The independent reader.

The work is done in a short-lived process, `lbctl_iptables.xtables`, since the binding cannot be had in ours:
`import iptc` runs modprobe and ldconfig, its tables are cached for the life of a process, its extensions are
global C objects, and a table belongs to the network namespace it was read in, which a thread can change.
"""

from __future__ import annotations

import ctypes
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.host import TOOL, Completed
from lbctl_iptables import dialect
from lbctl_iptables.dialect import Feature
from lbctl_iptables.drivers.found import DriverProbe
from lbctl_iptables.drivers.restore import legacy_kernel, legacy_tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host

#: What a child runs, with the folders of its modules as the first arguments: where lbctl was found, and the
#: binding. Without site, and without all that lbctl imports, it takes a third of the time. -P, since with -c
#: alone the current directory would be the first place where a process of root looks for modules.
_START = (
    "import sys; sys.path += sys.argv[1:3]; from lbctl_iptables.xtables.child import main; "
    "sys.exit(main(sys.argv[3:]))"
)
#: What the binding loads: the libraries of the iptables package, here in the versions that it knows.
_LIBRARIES = (
    ("libxtables.so.12", "libxtables.so.11", "libxtables.so.10"),
    ("libip4tc.so.2", "libip4tc.so.0"),
)
#: `lbctl_iptables.xtables.binding`, which a child runs; it is not imported here.
_BINDING = Path(__file__).parents[1] / "xtables" / "binding.py"
#: What the answer of a child is kept under, see `_able`.
KNOWN = f"{TOOL}iptc"
_VERSION = re.compile(r"""^__version__\s*=\s*["'](?P<version>[\w.]+)["']""", re.MULTILINE)


class Iptc:
    """The old xtables interface, spoken by python-iptables."""

    name = "iptc"
    store = "iptables-legacy"
    restarts = True
    counted = False

    def find(self, host: Host) -> DriverProbe:
        """See `Driver`. Looks for the module without importing it."""
        if not host.is_here():
            return DriverProbe(reason="it needs lbctl itself on that host")
        spec = find_spec("iptc")
        if spec is None or spec.origin is None:
            return DriverProbe(reason="Python module iptc is not installed (pip install 'lbctl[iptc]')")
        for names in _LIBRARIES:
            if not any(map(_loads, names)):
                return DriverProbe(reason=f"{names[0]}, which Python module iptc needs, cannot be loaded")
        reason = legacy_kernel(host)
        if reason:
            return DriverProbe(reason=reason)
        lacks, reason = _able(host, Path(spec.origin))
        if reason:
            return DriverProbe(reason=reason)
        found = _VERSION.search(host.read(str(Path(spec.origin).with_name("version.py"))) or "")
        return DriverProbe(version=found["version"] if found else "unknown", lacks=lacks)

    def expect(self, host: Host, words: Iterable[str]) -> None:
        """See `Driver`. It works on this host only."""

    def save(self, host: Host, word: str) -> Completed:
        """See `Driver`."""
        tables = legacy_tables(host, word)
        return _run(host, "save", word, *tables) if tables else Completed(code=0, out="", err="")

    def load(self, host: Host, word: str, script: str, *, check: bool) -> Completed:
        """See `Driver`."""
        return _run(host, "check" if check else "load", word, stdin=script)


def _able(host: Host, binding: Path) -> tuple[frozenset[Feature], str]:
    """Return what the libraries lack, and why the binding cannot read their options; empty where it can.

    A process of its own has to say it. So the answer is kept for as long as the same libraries and the
    same binding are here.
    """
    files = (binding, *_mapped())
    identity = " ".join(host.fingerprint(str(path)) or f"{path}:gone" for path in files)
    known, _, answer = (host.recall(KNOWN) or "").partition("\n")
    if known != identity:
        wanted = [str(feature) for feature in (Feature.RANDOM_FULLY, Feature.RECENT_MASK, Feature.BYTECODE)]
        folder = str(binding.parent.parent)
        done = host.run([sys.executable, "-S", "-P", str(_BINDING), folder, *wanted])
        # The binding calls C through hand-written layouts: where those are wrong, a signal ends it.
        fault = f"python-iptables was ended by {done.ended_by}" if done.ended_by else done.err.strip()
        answer = f"not usable: {fault}" if done.code else f"lacks {done.out.strip()}"
        host.remember(KNOWN, f"{identity}\n{answer}")
    word, _, rest = answer.partition(" ")
    return (dialect.lacking(rest), "") if word == "lacks" else (frozenset(), rest.partition(" ")[2])


def _mapped() -> list[Path]:
    """Return the files of the libraries that `_loads` has loaded."""
    stems = tuple(names[0].partition(".")[0] for names in _LIBRARIES)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in maps if line.count(" ") > 5 and "/" in line}
    return sorted(path for path in paths if path.name.startswith(stems))


def _run(host: Host, *arguments: str, stdin: str = "") -> Completed:
    return host.run([*command(), *arguments], stdin=stdin)


def command() -> list[str]:
    """Return the command line of a child, but for its arguments."""
    spec, root = find_spec("iptc"), str(_BINDING.parents[2])
    # Gone since the driver was found: the child reports that it is missing.
    folder = str(Path(spec.origin).parent.parent) if spec and spec.origin else root
    return [sys.executable, "-S", "-P", "-c", _START, root, folder]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
