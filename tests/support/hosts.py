"""This host with tools that lack something: all else goes to the real ones."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from lbctl.host import Completed, LocalHost
from lbctl.host.fake import FakeHost
from lbctl_iptables.xtables import binding as iptc_binding
from lbctl_nftables import tool
from lbctl_nftables.layout import Dialect

#: Words that nft 0.9.3 does not know, or not in these places.
NEW = ("typeof", " comment ", " map @")
REFUSAL = "/dev/stdin:1:1-5: Error: syntax error, unexpected string\n"


def knows_nft(host: FakeHost, dialect: str = Dialect.MODERN, **fields: Any) -> None:
    """Have the host's nft, or the binding, be one whose dialect was found before: it is not probed."""
    for driver in ("nft", "libnftables"):
        tool.keep(host, driver, tool.Record(dialect=dialect, reason="as recorded", **fields))


class OldHost(LocalHost):
    """An nft and a library that are too old for the modern dialect."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        by_nft = argv[0].endswith("nft") or any(word.endswith("/libnftables_child.py") for word in argv)
        if by_nft and any(word in stdin for word in NEW):
            return Completed(code=1, out="", err=REFUSAL)
        return super().run(argv, stdin=stdin)

    def fingerprint(self, path: str) -> str | None:
        # Not the files of the real tools: what is known of those says nothing about these.
        found = super().fingerprint(path)
        return f"old {found}" if found else None

    def module(self, name: str) -> ModuleType | None:
        real = super().module(name)
        if name != "nftables" or real is None:
            return real
        made = ModuleType(name)
        made.__file__ = real.__file__
        made.Nftables = lambda: _OldLibrary(real.Nftables())  # type: ignore[attr-defined]
        return made


class _OldLibrary:
    """A context of the binding, as far as lbctl uses it."""

    def __init__(self, real: Any) -> None:
        self.set_dry_run = real.set_dry_run
        self._cmd = real.cmd

    def cmd(self, text: str) -> Any:
        return (-1, "", REFUSAL) if any(word in text for word in NEW) else self._cmd(text)


def with_iptc(host: FakeHost) -> FakeHost:
    """The host, with a python-iptables that reads the options of its library."""
    host.answer(Path(sys.executable).name, iptc_binding.__file__, out="\n")
    return host


class OldIptables(LocalHost):
    """An iptables of some years ago, played by the legacy one of today.

    Its parsers refuse what they did not know yet. Written from the manuals of those releases, not from what
    lbctl records of them.
    """

    #: Options of iptables-restore and of targets that came after 1.4.21.
    since: ClassVar = {"--version": (1, 6, 2), "--wait": (1, 6, 2), "--random-fully": (1, 6, 2)}

    def __init__(self, state: Path, version: str, *, carried_back: Sequence[str] = ()) -> None:
        super().__init__(state)
        self.version = version
        numbers = tuple(map(int, version.split(".")))
        self.unknown = {name for name, first in self.since.items() if numbers < first} - {*carried_back}

    def which(self, program: str) -> str | None:
        if program.startswith(("iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft")):
            return None
        return super().which(program)

    def fingerprint(self, path: str) -> str | None:
        """Other files than today's, as an upgrade or a downgrade leaves them."""
        found = super().fingerprint(path)
        return None if found is None else f"{found} {self.version}"

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        name = Path(argv[0]).name
        if name in {"iptables", "ip6tables"}:
            assert list(argv[1:]) == ["--version"]
            return Completed(code=0, out=f"{name} v{self.version}\n", err="")
        word, _, suffix = name.partition("-")
        if word not in {"iptables", "ip6tables"} or suffix not in {"restore", "save"}:
            return super().run(argv, stdin=stdin)
        complaints = [f"{name}: unrecognized option '{x}'\n" for x in argv[1:] if x in self.unknown]
        if "--help" in argv:
            usage = "" if "--wait" in self.unknown else " [-w secs]\n\t   [ --wait=<seconds>\n"
            return Completed(code=1, out="", err=f"Usage: {name} [-b] [-c] [-v] [-t] [-h]{usage}")
        if "--version" in argv and not complaints:
            return Completed(code=0, out=f"{name} v{self.version}\n", err="")
        # An option that is not known is passed over; what stood behind it is the name of a file.
        if "--wait" in argv and complaints:
            err = f"{''.join(complaints)}Can't open {argv[-1]}: No such file\n"
            return Completed(code=1, out="", err=err)
        for number, line in enumerate(stdin.splitlines(), 1):
            if lost := next((x for x in self.unknown if f" {x}" in line), None):
                err = f'{name} v{self.version}: unknown option "{lost}"\nError occurred at line: {number}\n'
                return Completed(code=2, out="", err=err)
        real = super().which(f"{word}-legacy-{suffix}") or ""
        known = [x for x in argv[1:] if x not in self.unknown]
        if suffix == "restore" and "--wait" in self.unknown:
            # The real one takes the lock that an old one does not know, and other tests hold it now and then.
            known += ["--wait", "20"]
        done = super().run([real, *known], stdin=stdin)
        out = done.out
        if "--random-fully" in self.unknown:
            out = out.replace(" --random-fully", "")
        return Completed(code=done.code, out=out, err="".join(complaints) + done.err)


class WithoutIp6tables(LocalHost):
    """A host whose distribution packs ip6tables apart."""

    def which(self, program: str) -> str | None:
        return None if program.startswith("ip6tables") else super().which(program)
