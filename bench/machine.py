"""The machine of a run: all that its figures depend on, nothing that identifies it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from programs import version

import lbctl

VERSIONS = {
    "nft": ("nft", "--version"),
    "iptables": ("iptables-legacy", "--version"),
    "HAProxy": ("haproxy", "-v"),
    "nginx": ("nginx", "-v"),
    "nftlb": ("nftlb", "--help"),
    "Node.js": ("node", "--version"),
    "ipvsadm": ("ipvsadm", "--version"),
}


def two_processors() -> set[int]:
    """Return two processors, of different cores if there are such."""
    cores: dict[str, int] = {}
    usable = sorted(os.sched_getaffinity(0))
    for number in usable:
        threads = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        cores.setdefault(threads.read_text() if threads.exists() else str(number), number)
    return set((list(cores.values()) + usable)[:2]) if len(cores) > 1 else set(usable[:2])


def machine() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo").read_text()
    memory = re.findall(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[0]
    model = re.findall(r"(?m)^(?:model name|Model|uarch)\s*: *(.*)", cpu)
    return {
        "cpu": model[0] if model else os.uname().machine,
        "processors": os.cpu_count(),
        "processors_used": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory) / (1 << 20)),
        "virtual": bool(re.search(r"(?m)^flags\s*:.*\bhypervisor\b", cpu)),
    }


def versions() -> dict[str, str]:
    # Without what distributions add to a release.
    kernel = re.match(r"[\d.]*\d", os.uname().release)
    found = {"Linux": kernel[0] if kernel else os.uname().release}
    found |= {name: there for name, argv in VERSIONS.items() if (there := version(*argv))}
    return found | {"Python": sys.version.split()[0], "lbctl": lbctl.__version__}
