"""Program → services with exact shares: follows the verdicts and look-ups as the kernel would."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.model import LiftedProgram, LiftedService
from lbctl_nftables import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.model import Item, Listener, Program, Protocol

_PICK = re.compile(
    r"meta l4proto (?P<protocol>\w+) (?P<action>redirect to :|dnat ip6? to )"
    r"(?P<picker>numgen inc|numgen random|jhash ip6? saddr) mod (?P<modulus>\d{1,5}) (?:seed 0x[0-9a-f]+ )?"
    r"offset (?P<offset>\d+) map @(?P<page>\S+)\Z"
)
_PICK_CHAIN = re.compile(
    r"meta l4proto (?P<protocol>\w+) (?P<picker>numgen inc|numgen random|jhash ip6? saddr) "
    r"mod (?P<modulus>\d{1,5}) (?:seed 0x[0-9a-f]+ )?offset 0 vmap \{ (?P<verdicts>[^{}]+) \}\Z"
)
#: How a new connection is picked at ingress: by a packet that opens one, or by each datagram. A rule that
#: asks for no protocol is of all that the service has.
_PICK_DIRECT = re.compile(
    r"(?:meta protocol ip6? )?(?:(?:(?P<opening>tcp) flags|@th,104,8) & 0x17 == 0x02 "
    r"|meta l4proto (?P<protocol>udp) )?"
    r"@ll,0,96 set (?P<picker>numgen inc|numgen random|jhash (?:@nh,96,32|@nh,64,128)) "
    r"mod (?P<modulus>\d{1,5}) (?:seed 0x[0-9a-f]+ )?offset (?P<offset>\d+) map @(?P<page>\S+) (?P<rest>.*)\Z"
)
_VERDICT = re.compile(r"(?P<slot>\d+) : goto (?P<chain>\S+)\Z")
_REST = re.compile(r"meta l4proto (?P<protocol>\w+) goto (?P<chain>\S+)\Z")
_LEAD = re.compile(r"meta l4proto (?P<protocol>\w+) counter (?P<action>redirect|dnat) to :?(?P<to>\S+)\Z")
#: The map that a rule looks a packet up in at its end.
_ASKED = re.compile(r"@(\S+)$", re.MULTILINE)
#: An endpoint without a port; what begins so and is none has blanks.
_ADDRESS = re.compile(r"[0-9a-f]*[.:][0-9a-f.:]+\Z")
#: What sends connections to endpoints, however it is written.
_SENDS = re.compile(r"\b(?:dnat|redirect|vmap|fwd)\b")
_MODES = {
    "numgen inc": "nth",
    "numgen random": "random",
    "jhash ip saddr": "hash",
    "jhash ip6 saddr": "hash",
    **{f"jhash {source}": "hash" for source in layout.SOURCES.values()},
}


def lift(program: Program) -> LiftedProgram:
    """See `lbctl.spi.Backend.lift`."""
    services: list[LiftedService] = []
    unsupported: list[str] = []
    #: Those at ingress, which have an element for each interface.
    direct: dict[LiftedService, None] = {}
    leading = {word: _leading(program, word) for word in layout.WORDS}
    for item in program.of_kind("element"):
        word, _, name, key = item.key
        if name not in leading[word]:
            continue
        chain = layout.verdict(item.text)
        service = layout.service_of_chain(chain) if chain else None
        listener = layout.listener(key)
        if word in layout.INGRESS.values() and item.text == ": return":
            # A service that is translated is kept from the range of another one.
            continue
        if service is None or listener is None:
            unsupported.append(f"{name} {{ {key} {item.text} }}")
            continue
        body = program.by_key.get((word, "rules", str(chain)))
        found = _service(program, word, service, listener, body)
        if word in layout.INGRESS.values():
            direct[found] = None
        else:
            services.append(found)
    return LiftedProgram(services=(*services, *direct), unsupported=tuple(unsupported))


def _leading(program: Program, word: str) -> frozenset[str]:
    """Return the maps that new connections from outside are looked up in; none in a table that is dormant."""
    if (word, "flags", "dormant") in program.by_key:
        return frozenset()
    bodies = [
        item.text
        for item in program.of_kind("rules")
        if item.key[0] == word and (item.key[2] == layout.PREROUTING or layout.is_ingress(item.key[2]))
    ]
    asked = {name for text in bodies for name in _ASKED.findall(text)}
    return frozenset(filter(layout.is_dispatch, asked))


def _service(program: Program, word: str, name: str, listener: Listener, body: Item | None) -> LiftedService:
    slots: tuple[str | None, ...] = (None,)
    mode, action = "none", "none"
    for rule in body.text.split("\n") if body else ():
        pick = _PICK.match(rule)
        if pick and pick["protocol"] == listener.protocol:
            first = int(pick["offset"])
            keys = range(first, first + int(pick["modulus"]))
            slots = _slots(program, word, pick["page"], keys)
            mode = _MODES[pick["picker"]] if len(slots) > 1 else "single"
            action = "redirect" if pick["action"].startswith("redirect") else "dnat"
            break
        direct = _PICK_DIRECT.match(rule)
        if direct and listener.protocol == (direct["opening"] or direct["protocol"] or listener.protocol):
            first = int(direct["offset"])
            keys = range(first, first + int(direct["modulus"]))
            slots = _slots(program, word, direct["page"], keys)
            mode, action = _MODES[direct["picker"]] if len(slots) > 1 else "single", "dsr"
            break
        if _PICK_CHAIN.match(rule) and body:
            slots, mode, action = _by_chains(program, word, body.text.split("\n"), listener.protocol)
            break
    else:
        if body and _SENDS.search(body.text):
            slots, mode = (), "unknown"
    return LiftedService(
        name=name, family=layout.FAMILY[word], listener=listener, mode=mode, slots=slots, action=action
    )


def _by_chains(
    program: Program, word: str, rules: list[str], protocol: Protocol
) -> tuple[tuple[str | None, ...], str, str]:
    """The slots, the mode and the action of a service's chain whose verdicts lead to endpoints' chains.

    What a picker's verdicts leave out comes to the rules behind it.
    """
    for number, rule in enumerate(rules):
        pick = _PICK_CHAIN.match(rule)
        if pick is None or pick["protocol"] != protocol:
            continue
        verdicts = [_VERDICT.match(text) for text in pick["verdicts"].split(", ")]
        chains = {int(verdict["slot"]): verdict["chain"] for verdict in verdicts if verdict}
        behind = [found for text in rules[number + 1 :] if (found := _REST.match(text))]
        rest = next((each["chain"] for each in behind if each["protocol"] == protocol), "")
        leads = {chain: _lead(program, word, chain, protocol) for chain in {rest, *chains.values()}}
        led = [leads[chains.get(slot, rest)] for slot in range(int(pick["modulus"]))]
        action = next((lead["action"] for lead in led if lead), "none")
        mode = _MODES[pick["picker"]] if len(led) > 1 else "single"
        return tuple(lead["to"] if lead else None for lead in led), mode, action
    return (None,), "none", "none"


def _lead(program: Program, word: str, chain: str, protocol: Protocol) -> re.Match[str] | None:
    body = program.by_key.get((word, "rules", chain))
    leads = (_LEAD.match(rule) for rule in body.text.split("\n")) if body else ()
    return next((lead for lead in leads if lead and lead["protocol"] == protocol), None)


def destination(rule: str) -> str | None:
    """Return the endpoint that a rule of an endpoint's chain leads to, as `Endpoint.to`."""
    lead = _LEAD.match(rule)
    return lead["to"] if lead else None


def _slots(program: Program, word: str, page: str, keys: Iterable[int]) -> tuple[str | None, ...]:
    """Return where each of these keys of a page leads to."""
    find = program.by_key.get
    items = [find((word, "element", page, str(key))) for key in keys]
    return tuple([to(item.text) if item else None for item in items])


def to(text: str) -> str | None:
    """Return the endpoint that a page's element leads to, as `Endpoint.to`."""
    # Without a pattern, since there are more of these than of all else.
    head, _, data = (
        text.partition('" : ') if text.startswith('comment "') else ("", "", text.removeprefix(": "))
    )
    if data.startswith("0x"):
        # What has these MAC addresses stands in the comment.
        return head.partition("/")[2] or None
    address, dot, port = data.rpartition(" . ")
    if not dot:
        return data if data.isdecimal() or _ADDRESS.match(data) else None
    if not port.isdecimal() or " " in address:
        return None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
