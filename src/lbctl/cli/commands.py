"""All commands in the order of their use, by what they are for, each with an example for its help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import typer

from lbctl.cli.activate import activate
from lbctl.cli.agent import agent
from lbctl.cli.apply import apply
from lbctl.cli.backends import backends
from lbctl.cli.check import check
from lbctl.cli.compare import compare
from lbctl.cli.confirm import confirm
from lbctl.cli.demo import demo
from lbctl.cli.doctor import doctor
from lbctl.cli.drain import drain
from lbctl.cli.explain import explain
from lbctl.cli.history import history
from lbctl.cli.hosts import hosts
from lbctl.cli.import_ import import_
from lbctl.cli.init import init
from lbctl.cli.migrate import migrate
from lbctl.cli.plan import plan
from lbctl.cli.publish import publish
from lbctl.cli.register import register
from lbctl.cli.remote import on_hosts
from lbctl.cli.remove import remove
from lbctl.cli.render import render
from lbctl.cli.rollback import rollback
from lbctl.cli.schema import schema
from lbctl.cli.status import status
from lbctl.cli.usage import Group
from lbctl.cli.weight import weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Command: TypeAlias = "Callable[..., None] | typer.Typer"

#: What they are for → name of a command → the command, and an example.
COMMANDS: Mapping[str, Mapping[str, tuple[_Command, str]]] = {
    "Begin": {
        "demo": (demo, "lbctl demo"),
        "init": (init, "lbctl init --listen 80/tcp --to 8001-8003 > lbctl.toml"),
        "import": (on_hosts(import_), "iptables-save | lbctl import - > lbctl.toml"),
        "check": (on_hosts(check), "lbctl check lbctl.toml"),
        "doctor": (on_hosts(doctor), "lbctl doctor"),
        "backends": (on_hosts(backends), "lbctl backends"),
    },
    "Change": {
        "plan": (on_hosts(plan), "lbctl plan --rules"),
        "apply": (on_hosts(apply), "lbctl apply --trial 60s"),
        "confirm": (on_hosts(confirm), "lbctl confirm"),
        "rollback": (on_hosts(rollback), "lbctl rollback"),
        "migrate": (on_hosts(migrate), "lbctl migrate --to nftables --trial 60s --save lbctl.toml"),
        "remove": (on_hosts(remove), "lbctl remove"),
    },
    "Daily work": {
        "status": (on_hosts(status), "lbctl status"),
        "drain": (on_hosts(drain), "lbctl drain web/8003 --wait 5m"),
        "activate": (on_hosts(activate), "lbctl activate web/8003"),
        "weight": (on_hosts(weight), "lbctl weight web/8003 2"),
        "history": (on_hosts(history), "lbctl history"),
        "agent": (agent, "lbctl agent --listen 127.0.0.1:9099"),
    },
    "Many hosts": {
        "publish": (publish, "lbctl publish edge.toml --canary lb1 --for 60s"),
        "hosts": (hosts, "lbctl hosts --watch"),
        "register": (register, "lbctl register web 10.0.0.11:8080 -- /usr/bin/app"),
    },
    "Rules": {
        "render": (render, "lbctl render --for nft=1.0.6 > lbctl.nft"),
        "compare": (on_hosts(compare), "lbctl compare lbctl.toml live:nftables"),
        "explain": (on_hosts(explain), "lbctl explain 80/tcp --client 198.51.100.7"),
        "schema": (schema, "lbctl schema --of plan"),
    },
}


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
