"""The page for people: one HTML document without a build step, an asset or anything from elsewhere.

It works without its script, which only fetches the page again. All text passes `_text`; sizes stand in SVG
attributes, since the policy of the page allows no style but its own.
"""

from __future__ import annotations

import base64
from fractions import Fraction
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from lbctl.documents.sources import failure_text, source_text
from lbctl.model import inert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl.documents.agent import AgentDocument, AgentStatusDocument
    from lbctl.documents.status import StatusEndpointDocument, StatusServiceDocument

#: So many services are drawn, those with a problem first; `/status` has all.
_SERVICES = 200
_ENDPOINTS = 64
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24
_STYLE = (files(__package__) / "page.css").read_text()
_SCRIPT = (files(__package__) / "page.js").read_text()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def render(document: AgentStatusDocument) -> bytes:
    """Return the page of a document."""
    agent = document.get("agent")
    host = agent["host"] if agent else ""
    body = f"{_header(document, agent)}{_main(document, agent)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>lbctl {_text(host)}</title><style>{_STYLE}</style>"
        '<noscript><meta http-equiv="refresh" content="5"></noscript>'
        f'</head><body><div id="view">{body}</div><script>{_SCRIPT}</script></body></html>\n'
    ).encode()


def _text(value: object) -> str:
    """Return text that HTML shows as it is, wherever it came from."""
    return escape(inert(str(value)))


def _header(document: AgentStatusDocument, agent: AgentDocument | None) -> str:
    badges = [_badge("in sync", "up") if document["in_sync"] else _badge("differs from the intent", "down")]
    notes: list[str] = []
    facts: list[str] = []
    if (trial := document.get("trial")) is not None:
        badges.append(_badge("on trial", "warn"))
        notes.append(f"On trial: reverted in {trial['left']:.0f} s unless lbctl confirm keeps it.")
    if agent is not None:
        if agent["paused_until"]:
            badges.append(_badge(f"paused until {agent['paused_until']}", "warn"))
        notes += [*agent["problems"], *([agent["notice"]] if agent["notice"] else [])]
        notes += filter(None, map(failure_text, agent["sources"][:_SERVICES]))
        facts = [agent["host"], f"owner {agent['owner']}", f"lbctl {agent['version']}", agent["now"]]
        if agent["conntrack"] is not None:
            facts.insert(2, "{used:,} of {limit:,} tracked connections".format(**agent["conntrack"]))
    facts.append(document["backend"])
    return (
        f"<header><h1>lbctl {''.join(badges)}</h1>"
        f'<p class="facts">{" · ".join(map(_text, facts))}</p>'
        + "".join(f'<p class="note">{_text(note)}</p>' for note in notes)
        + "</header>"
    )


def _badge(text: str, kind: str) -> str:
    return f'<span class="badge {kind}">{_text(text)}</span>'


def _main(document: AgentStatusDocument, agent: AgentDocument | None) -> str:
    services = document.get("services", [])
    rates: dict[tuple[str, str], Sequence[float]] = {}
    sources: dict[str, str] = {}
    if agent is not None:
        sources = {each["service"]: source_text(each) for each in agent["sources"]}
        rates = {(each["service"], each["endpoint"]): each["values"] for each in agent["rates"]}
    ordered = sorted(services, key=lambda service: not any(map(_is_failing, service["endpoints"])))
    more = len(ordered) - _SERVICES
    return (
        "<main>"
        + "".join(_service(each, rates, sources.get(each["name"])) for each in ordered[:_SERVICES])
        + (
            f'<p class="note">… {more:,} more services: see <a href="/status">/status</a></p>'
            if more > 0
            else ""
        )
        + ("" if services else '<p class="note">No service is balanced.</p>')
        + "</main>"
    )


def _service(
    service: StatusServiceDocument, rates: Mapping[tuple[str, str], Sequence[float]], source: str | None
) -> str:
    name = service["name"]
    shown = service["endpoints"][:_ENDPOINTS]
    more = len(service["endpoints"]) - len(shown)
    rows = "".join(_endpoint(each, rates.get((name, each["name"]), ())) for each in shown)
    listen = ", ".join(service["listen"])
    return (
        f'<section><h2>{_text(name)}</h2><p class="facts">{_text(listen)} · {_text(service["scheduler"])} · '
        f"{service['connections']:,} connections{'' if source is None else f' · {_text(source)}'}</p>"
        f'<div class="rows">{rows}</div>'
        + (f'<p class="note">… {more:,} more endpoints</p>' if more > 0 else "")
        + "</section>"
    )


def _endpoint(endpoint: StatusEndpointDocument, rates: Sequence[float]) -> str:
    label = endpoint["name"] if endpoint["name"] == endpoint["to"] else f"{endpoint['name']} {endpoint['to']}"
    established = endpoint["established"]
    return (
        f'<div class="row {_kind(endpoint)}"><span class="name">{_text(label)}</span>'
        f'<span class="state">{_text(_state(endpoint))}</span>'
        f'<span class="share">{_share(endpoint)}</span>'
        f'<span class="count">{"-" if established is None else f"{established:,}"} open</span>'
        f'<span class="rate">{_spark(rates)}</span></div>'
    )


def _is_failing(endpoint: StatusEndpointDocument) -> bool:
    health = endpoint["health"]
    return endpoint["mark"] is not None or (health is not None and health["state"] == "down")


def _kind(endpoint: StatusEndpointDocument) -> str:
    """Return the class of a row: what is seen of an endpoint at a glance."""
    if _is_failing(endpoint):
        return "down"
    if endpoint["state"] != "active" or endpoint["operator"] is not None:
        return "warn"
    return endpoint["health"]["state"] if endpoint["health"] is not None else "unknown"


def _state(endpoint: StatusEndpointDocument) -> str:
    """Return what an endpoint is, in words: its state, why its connections fail, why it gets what it gets."""
    plain = endpoint["operator"] is None and endpoint["health"] is None
    own = [endpoint["state"]] if plain or endpoint["state"] != "active" else []
    mark = [endpoint["mark"]] if endpoint["mark"] else []
    return "; ".join([*own, *mark, *([] if plain else [endpoint["reason"]])])


def _share(endpoint: StatusEndpointDocument) -> str:
    """Return the bar of each family, one where they agree: what is wanted below, what was got on top."""
    families = endpoint["families"]
    pairs = {name: (each["wanted"], each["actual"]) for name, each in families.items()}
    if len(set(pairs.values())) == 1:
        pairs = {"": next(iter(pairs.values()))}
    return "".join(_bar(name, *pair) for name, pair in pairs.items())


def _bar(family: str, wanted: str | None, actual: str | None) -> str:
    want = Fraction(wanted or 0)
    have = None if actual is None else Fraction(actual)
    words = f"{family} wanted {wanted or '-'}, actual {'-' if have is None else f'{float(have):.1%}'}".strip()
    filled = f'<rect class="actual" y="3" width="{float(have) * 100:.2f}" height="4"/>' if have else ""
    return (
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{_text(words)}">'
        f'<rect class="track" width="100" height="10"/>'
        f'<rect class="wanted" width="{float(want) * 100:.2f}" height="10"/>{filled}</svg>'
        f"<small>{_text(words)}</small>"
    )


def _spark(values: Sequence[float]) -> str:
    """Return new connections per second as a line, and the last value in words."""
    if not values:
        return ""
    top = max(*values, 1.0)
    step = _SPARK_WIDTH / max(len(values) - 1, 1)
    points = " ".join(
        f"{number * step:.1f},{_SPARK_HEIGHT - 2 - value / top * (_SPARK_HEIGHT - 4):.1f}"
        for number, value in enumerate(values)
    )
    return (
        f'<svg viewBox="0 0 {_SPARK_WIDTH} {_SPARK_HEIGHT}" preserveAspectRatio="none" role="img" '
        'aria-label="connections per second">'
        f'<polyline points="{points}"/></svg><small>{values[-1]:,.0f}/s</small>'
    )
