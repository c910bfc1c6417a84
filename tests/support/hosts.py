"""This host with tools that lack something: all else goes to the real ones."""

from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from lbctl.host import Completed, LocalHost
from lbctl.host.fake import FakeHost
from lbctl_nftables import tool
from lbctl_nftables.layout import Dialect

#: Words that nft 0.9.3 does not know, or not in these places.
NEW = ("typeof", " comment ", " map @")
REFUSAL = "/dev/stdin:1:1-5: Error: syntax error, unexpected string\n"
NO_JSON = "JSON support not compiled-in\n"

Answer = tuple[int, str, str]


def knows_nft(host: FakeHost, dialect: str = Dialect.MODERN, **fields: Any) -> None:
    """Have the host's nft, or the binding, be one whose dialect was found before: it is not probed."""
    for driver in ("nft", "libnftables"):
        tool.keep(host, driver, tool.Record(dialect=dialect, reason="as recorded", **fields))


class OldHost(LocalHost):
    """An nft and a library that are too old for the modern dialect."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        by_nft = argv[0].endswith("nft") or "lbctl_nftables.drivers.libnftables_child" in argv
        if by_nft and any(word in stdin for word in NEW):
            return Completed(code=1, out="", err=REFUSAL)
        return super().run(argv, stdin=stdin)

    def module(self, name: str) -> ModuleType | None:
        def refuse(text: str, _: bool) -> Answer | None:
            return (-1, "", REFUSAL) if any(word in text for word in NEW) else None

        return _changed(super().module(name), name, refuse)


class HostWithoutJson(LocalHost):
    """An nft and a library that were built without JSON: the library says nothing of it."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if argv[0].endswith("nft") and "--json" in argv:
            return Completed(code=1, out="", err=NO_JSON)
        return super().run(argv, stdin=stdin)

    def module(self, name: str) -> ModuleType | None:
        return _changed(super().module(name), name, lambda _, json: (-1, "", "") if json else None)


class OldHostWithoutJson(HostWithoutJson, OldHost):
    """Both."""


def _changed(
    real: ModuleType | None, name: str, refuse: Callable[[str, bool], Answer | None]
) -> ModuleType | None:
    if name != "nftables" or real is None:
        return real
    made = ModuleType(name)
    made.Nftables = lambda: _Context(real.Nftables(), refuse).namespace()  # type: ignore[attr-defined]
    return made


class _Context:
    def __init__(self, real: Any, refuse: Callable[[str, bool], Answer | None]) -> None:
        self.real = real
        self.refuse = refuse
        self.json = False

    def namespace(self) -> SimpleNamespace:
        names = [name for name in dir(self.real) if name.startswith("set_")]
        options = {name: getattr(self.real, name) for name in names}
        return SimpleNamespace(**{**options, "cmd": self.cmd, "set_json_output": self.set_json_output})

    def set_json_output(self, on: bool) -> None:
        self.json = on
        self.real.set_json_output(on)

    def cmd(self, text: str) -> Answer:
        answer: Answer = self.refuse(text, self.json) or self.real.cmd(text)
        return answer
