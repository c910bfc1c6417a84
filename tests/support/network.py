"""The three hosts of the conformance suite, and the real program on the middle one."""

import gc
import json
import os
import site
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from lbctl.cli import main
from lbctl.conformance import network as conformance

#: Every way to the kernel: (backend, driver).
DRIVERS = (
    ("nftables", "libnftables"),
    ("nftables", "nft"),
    ("iptables", "legacy"),
    ("iptables", "iptc"),
    ("iptables", "nf_tables"),
)
#: A test of nftables for both of its drivers, where the fixture `options` chooses one.
BOTH = pytest.mark.parametrize("options", ["libnftables", "nft"], indirect=True)


@dataclass
class Result:
    """How one run of lbctl ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """What was said but for the intent file that was used."""
        return "".join(x for x in self.err.splitlines(keepends=True) if not x.startswith("Intent: "))

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Network(conformance.Network):
    """The three hosts. `lbctl` runs the real program on the middle one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def lbctl(
        self,
        *words: str,
        config: str | Path | None = None,
        stdin: str = "",
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run the real program on the host. `config` is a path, or the text of an intent file."""
        if isinstance(config, str):
            path = self.folder / "lbctl.toml"
            put(path, config)
            config = path
        options = ["--config", str(config)] if config else []
        with self.host.entered():
            return run_lbctl(
                *words, *options, stdin=stdin, env={"LBCTL_STATE_DIR": str(self.folder), **(env or {})}
            )

    def tool(self, *argv: str, stdin: str = "") -> str:
        """Run another program on the host."""
        return self.host.run(*argv, stdin=stdin)

    def rules(self) -> str:
        """Everything that any rule language shows on the host, without counters and dates."""
        # The kernel lists tables in the order of their making.
        tables = sorted(self.tool("nft", "list", "tables").splitlines())
        texts = [self.tool("nft", "-s", "list", *table.split()) for table in tables]
        for word in ("iptables", "ip6tables"):
            texts.append(self.tool(f"{word}-legacy-save"))
            texts.append(self.tool(f"{word}-nft-save"))
        return "\n".join(
            line.split(" [")[0] if line.startswith(":") else line
            for text in texts
            for line in text.splitlines()
            if not line.startswith("#")
        )


def put(path: Path, text: str) -> None:
    """Write a file that another process may be reading."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def run_lbctl(*words: str, stdin: str = "", env: dict[str, str] | None = None) -> Result:
    """Run the real program, from its arguments to its exit code, in the current namespace.

    In this process: to start Python takes ten times as long as most commands do. What only a process can
    show (signals, terminals, pipes, what it imports) has tests of its own.
    """
    out, err = StringIO(), StringIO()
    code = 0
    with ExitStack() as stack:
        unset = {key: value for key, value in os.environ.items() if key != "LBCTL_CONFIG"}
        stack.enter_context(patch.dict(os.environ, {**unset, "LBCTL_DEBUG": "1", **(env or {})}, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["lbctl", *words]))
        stack.enter_context(
            patch.object(sys, "stdin", TextIOWrapper(BytesIO(stdin.encode("utf-8", "surrogateescape"))))
        )
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        # As the launcher has it.
        stack.enter_context(patch.object(site, "ENABLE_USER_SITE", False))
        # The program turns it off for its short life.
        stack.callback(gc.enable)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    assert code != 70, err.getvalue()
    return Result(code, out.getvalue(), err.getvalue())


def service(name: str, listen: str | list[str], *endpoints: str, **options: Any) -> str:
    """One `[[service]]` of an intent file, short form."""
    lines = ["[[service]]", f'name = "{name}"', f"listen = {json.dumps(listen)}"]
    if endpoints:
        lines.append(f"endpoints = {json.dumps(endpoints)}")
    lines += [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(lines) + "\n"


def weighted(**weights: int) -> str:
    """`[[service.endpoint]]` tables: name=weight, each name's address given as `to_<port>`."""
    lines = []
    for word, weight in weights.items():
        name, port = word.rsplit("_", 1)
        lines += ["[[service.endpoint]]", f'name = "{name}"', f'address = "{port}"', f"weight = {weight}"]
    return "\n".join(lines) + "\n"


def intent(*services: str, owner: str | None = None) -> str:
    """The text of an intent file."""
    head = "schema = 1\n" + (f'owner = "{owner}"\n' if owner else "")
    return head + "\n".join(services)
