"""All commands in the order of their use, by what they are for, each with an example for its help.

A command is imported when it is the one that is called, or when the help lists all of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from lbctl.cli.usage import Group
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import typer

Command: TypeAlias = "Callable[..., None] | typer.Typer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A command in the list."""

    example: str
    #: Its module in `lbctl.cli`, and its function there; "" for those of its name.
    module: str = ""
    function: str = ""
    #: True if it also takes `--host`.
    hosts: bool = False
    #: The parameter that names an intent file, beside that of `--config`.
    intent: str = "config"

    def load(self, name: str) -> Command:
        """Return the command, imported."""
        module = self.module or name
        found: Command = getattr(import_module(f"lbctl.cli.{module}"), self.function or module)
        if not self.hosts:
            return found
        from lbctl.cli.remote import on_hosts

        return on_hosts(found, self.intent)


#: What they are for → name of a command → the command.
COMMANDS: Mapping[str, Mapping[str, Listing]] = {
    "Begin": {
        "demo": Listing(example="lbctl demo"),
        "init": Listing(example="lbctl init --listen 80/tcp --to 8001-8003 > lbctl.toml"),
        "import": Listing(
            example="iptables-save | lbctl import - > lbctl.toml", module="import_", hosts=True
        ),
        "check": Listing(example="lbctl check lbctl.toml", hosts=True, intent="files"),
        "doctor": Listing(example="lbctl doctor", hosts=True),
        "backends": Listing(example="lbctl backends", hosts=True),
    },
    "Change": {
        "plan": Listing(example="lbctl plan --rules", hosts=True, intent="file"),
        "apply": Listing(example="lbctl apply --trial 60s", hosts=True, intent="file"),
        "confirm": Listing(example="lbctl confirm", hosts=True),
        "rollback": Listing(example="lbctl rollback", hosts=True),
        "migrate": Listing(example="lbctl migrate --to nftables --trial 60s --save lbctl.toml", hosts=True),
        "remove": Listing(example="lbctl remove", hosts=True),
    },
    "Daily work": {
        "status": Listing(example="lbctl status", hosts=True),
        "drain": Listing(example="lbctl drain web/8003 --wait 5m", hosts=True),
        "activate": Listing(example="lbctl activate web/8003", hosts=True),
        "weight": Listing(example="lbctl weight web/8003 2", hosts=True),
        "history": Listing(example="lbctl history", hosts=True),
        "agent": Listing(example="lbctl agent --listen 127.0.0.1:9099"),
    },
    "Many hosts": {
        "publish": Listing(example="lbctl publish edge.toml --canary lb1 --for 60s"),
        "hosts": Listing(example="lbctl hosts --watch"),
        "register": Listing(example="lbctl register web 10.0.0.11:8080 -- /usr/bin/app"),
    },
    "Rules": {
        "render": Listing(example="lbctl render --for nft=1.0.6 > lbctl.nft"),
        "compare": Listing(example="lbctl compare lbctl.toml live:nftables", hosts=True),
        "explain": Listing(example="lbctl explain 80/tcp --client 198.51.100.7", hosts=True),
        "schema": Listing(example="lbctl schema --of plan"),
    },
}
#: Called by lbctl itself.
HIDDEN: Mapping[str, Listing] = {"watch-trial": Listing(example="", module="confirm", function="watch_trial")}


class Grouped(Group):
    """The program itself, whose help has a list of commands for each of their purposes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (Typer's)
        """Write the lists."""
        limit = formatter.width - 4 - max(len(name) for commands in COMMANDS.values() for name in commands)
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(limit)) for name in commands]
                )
