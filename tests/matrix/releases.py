"""The Debian releases of the matrix, the packages that each needs, and the drivers that each must offer."""

from __future__ import annotations

from dataclasses import dataclass

#: The oldest Python that lbctl runs on.
PYTHON = (3, 11)

#: What the commands of a release take: nft, both flavours of iptables, conntrack.
TOOLS = ("conntrack", "iptables", "nftables")
#: What a root takes in which lbctl itself runs, with its in-process drivers, and in which its tests do.
#: python-iptables is built from source: hence the compiler and the headers. Tests sign with
#: ssh-keygen and openssl.
_SYSTEM = (
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "gcc",
    "grep",
    "iproute2",
    "kmod",
    "libc-bin",
    "libc6-dev",
    "netbase",
    "openssh-client",
    "openssl",
    "python3",
    "python3-dev",
    "python3-nftables",
    "python3-venv",
    "sed",
    "util-linux",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One way from lbctl to the kernel. `in_process` if it is a library in lbctl's own Python.

    `optional` if lbctl may find it unusable on a release, and say why.
    """

    backend: str
    name: str
    in_process: bool
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.backend} {self.name}"


DRIVERS = (
    Driver(backend="nftables", name="libnftables", in_process=True),
    Driver(backend="nftables", name="nft", in_process=False),
    Driver(backend="iptables", name="nf_tables", in_process=False),
    Driver(backend="iptables", name="legacy", in_process=False),
    # python-iptables reads the memory of libraries, whose layout changes with releases of iptables.
    Driver(backend="iptables", name="iptc", in_process=True, optional=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A Debian release. `python` is its Python's version: (major, minor).

    `tests` if lbctl's unit and property tests are run on that Python, which is not the one of `make test`.
    """

    name: str
    title: str
    python: tuple[int, int]
    tests: bool

    def __str__(self) -> str:
        return self.title

    @property
    def hosts_lbctl(self) -> bool:
        """True if its own Python runs lbctl; if not, this machine's does, with the release's commands."""
        return self.python >= PYTHON

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages of a whole run, without what they depend on."""
        return (*TOOLS, *_SYSTEM) if self.hosts_lbctl else TOOLS

    @property
    def drivers(self) -> tuple[Driver, ...]:
        """The drivers that the recorded result must name."""
        return tuple(driver for driver in DRIVERS if self.hosts_lbctl or not driver.in_process)


RELEASES = (
    Release(name="bullseye", title="Debian 11", python=(3, 9), tests=False),
    Release(name="bookworm", title="Debian 12", python=(3, 11), tests=False),
    Release(name="trixie", title="Debian 13", python=(3, 13), tests=True),
    Release(name="forky", title="Debian testing", python=(3, 14), tests=True),
)
#: Of the quick run: the oldest nft and the newest.
QUICK = ("bullseye", "forky")
