"""The links of Markdown and HTML files: where they lead, and which of them lead nowhere."""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: `[text](target)` and `![text](target)`, whose target has no blanks here; or code, which has no links.
_LINK = re.compile(
    r"(?P<before>!?\[(?:[^\[\]]|!?\[[^\]]*\](?:\([^)]*\))?)*\]\()(?P<target>[^()\s]+)(?P<after>\))"
    r"|`(?:[^`\n]|\n(?!\n))*`"
)
_HEADING = re.compile(r"(?m)^#{1,6} +(.*?) *#*$")
_FENCE = re.compile(r"(?ms)^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$")


class Link(NamedTuple):
    """Where a link leads: a path in the repository, from its root, and an anchor; either may be ""."""

    path: str
    anchor: str


def is_external(target: str) -> bool:
    """Return True for an address of another place than this repository."""
    return bool(urlsplit(target).scheme)


def resolved(page: str, target: str) -> Link:
    """Return where a relative link of `page` leads; an anchor alone leads to the page itself."""
    path, _, anchor = target.partition("#")
    if not path:
        return Link(page, anchor)
    return Link(posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(path))), anchor)


def rewritten(text: str, change: Callable[[str], str]) -> str:
    """Return a page with each target of a link changed; code is left alone."""

    def replace(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]
        return f"{match['before']}{change(match['target'])}{match['after']}"

    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(replace, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(replace, text[end:])])


def targets(text: str) -> Iterator[str]:
    """Yield the target of each link of a page."""
    for match in _LINK.finditer(_FENCE.sub("", text)):
        if match["target"] is not None:
            yield match["target"]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as forges and the site make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"\]\([^)]*\)", "", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


def dead_links(root: Path, pages: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each link of Markdown pages, by path from the root, that leads nowhere."""
    known = {path: anchors(text) for path, text in pages.items()}
    for page, text in pages.items():
        for target in targets(text):
            if is_external(target):
                continue
            link = resolved(page, target)
            if not (root / link.path).exists():
                yield f"{page}: {target}: no such file"
            elif link.anchor and link.anchor not in known.get(link.path, {link.anchor}):
                yield f"{page}: {target}: no such heading"


class _Page(HTMLParser):
    """The links and anchors of a page of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        #: What a browser loads with the page.
        self.assets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag leads to, and its anchor."""
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "link" and values.get("rel") == "canonical":
            return
        loaded = values.get("href") if tag == "link" and values.get("rel") != "next" else values.get("src")
        self.assets += [loaded] if loaded else []
        self.links += [value for name in ("href", "src") if (value := values.get(name))]


def dead_in_html(directory: Path) -> Iterator[str]:
    """Yield a sentence for each link of the pages below a directory that leads nowhere in it.

    Another one for each script, style or picture that a page loads from another server.
    """
    pages: dict[Path, _Page] = {}
    directory = directory.resolve()
    for file in sorted(directory.rglob("*.html")):
        pages[file] = _Page()
        pages[file].feed(file.read_text(encoding="utf-8"))
    for file, page in pages.items():
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.assets:
                    yield f"{file.relative_to(directory)}: {target}: loaded from another server"
                continue
            path = unquote(parts.path)
            base = directory if path.startswith("/") else file.parent
            other = (base / path.lstrip("/")).resolve() if path else file
            other = other / "index.html" if other.is_dir() else other
            if not other.exists():
                yield f"{file.relative_to(directory)}: {target}: no such page"
            elif parts.fragment and other in pages and unquote(parts.fragment) not in pages[other].anchors:
                yield f"{file.relative_to(directory)}: {target}: no such anchor"
