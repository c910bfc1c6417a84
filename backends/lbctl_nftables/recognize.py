"""Whether a text is one of nft's: asked of each text that is read, without the modules that read it."""

from __future__ import annotations

import re

_JSON = re.compile(r'\s*\{\s*"nftables"\s*:')
#: A statement at the beginning of a line. The line feed ahead of it is what makes the search fast: `re` looks
#: for a literal beginning much faster than for `^`.
_LOOKS = re.compile(
    r"\n[ \t]*(?:#!.*\bnft\b|(?:(?:add|create|insert)[ \t]+)?(?:table|chain|rule)[ \t]+"
    r"(?:(?:ip6?|inet|arp|bridge|netdev)[ \t]+)?[\w\"]"
    r"|flush[ \t]+ruleset)"
)
#: A command of a shell that calls nft, or names it for later: no line of nft's own language is like that.
_SCRIPT = re.compile(
    r"(?m)(?:^[ \t]*(?:[%$][ \t]+)?|[|;&][ \t]*)"
    r"(?:(?:(?:/[\w/]*/)?(?:sudo|doas)|ip[ \t]+netns[ \t]+exec[ \t]+\S+)[ \t]+(?:-\S+[ \t]+){0,4})?"
    r"(?:/[\w/]*/)?nft[ \t]"
    r"|^[ \t]*(?:\w+[ \t]+)?\w+=[\"']?(?:sudo[ \t]+)?(?:/[\w/]*/)?nft[\"']?[ \t]*$"
)


def recognizes(text: str) -> bool:
    """See `lbctl.spi.Reader`."""
    return is_json(text) or _LOOKS.search(f"\n{text}") is not None or is_script(text)


def is_json(text: str) -> bool:
    """Return True for what `nft -j list ruleset` prints."""
    return _JSON.match(text) is not None


def is_script(text: str) -> bool:
    """Return True for a shell's script that calls nft."""
    return "nft" in text and _SCRIPT.search(text) is not None
