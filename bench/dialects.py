"""What each dialect of nftables costs with the nft in PATH: load, change, memory, and a new flow.

nft 1.1.7 writes the keys of maps declared `typeof numgen` wrongly, so another form has to do there. The
candidates: slot pages whose keys are declared as marks, an anonymous map per service, the classic dialect. A
dialect that this nft does not write rightly is left out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growth import Bench
from layouts import ANONYMOUS, ELSEWHERE, LAYOUTS, NFT, Layout, intent
from timing import fresh

from lbctl.host import LocalHost
from lbctl.model import Endpoint, Intent, diff
from lbctl_nftables import backend, dialect, script

if TYPE_CHECKING:
    from programs import Programs
    from sizes import Size

    from lbctl.model import Program


def compiled(name: str, wanted: Intent) -> Program:
    return backend.compile(wanted, dialect.speaking(dialect.CAPABILITIES, name))


def rules(name: str, services: int) -> str:
    return script.render(compiled(name, intent(services)))


def change(name: str, number: int, _: str) -> str:
    """The text that moves the first endpoint of one service: the same, however many there are."""
    [*_, service] = intent(number + 1).services
    first, *others = service.endpoints
    will = replace(service, endpoints=(Endpoint(address=ELSEWHERE, port=first.port), *others))
    before, after = (compiled(name, Intent(services=(each,))) for each in (service, will))
    return "".join(script.transactions(before.owner, diff(before, after), after))


def layout(name: str) -> Layout:
    return Layout(
        name=name, about=f"dialect {name}", text=partial(rules, name), change=partial(change, name), tool=NFT
    )


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:
    host = LocalHost(folder)
    with fresh(host):
        right = [name for name in dialect.Dialect if dialect.fault(host, "nft", name) is None]
    anonymous = next(each for each in LAYOUTS["nftables"] if each.name == ANONYMOUS)
    layouts = [*map(layout, right), anonymous]
    bench = Bench(backend="nftables", size=size, sender=programs.sender, folder=folder, layouts=layouts)
    return {"right": list(right), **bench.measure()}
