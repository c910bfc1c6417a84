"""Tokens of rules, as iptables-save spells them. Without lbctl, for a process that starts fast."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@%+!\[\]-]+\Z")
_NEEDLESS = re.compile(rf'"(?<= ")({_PLAIN.pattern[:-2]})"(?= |$)', re.M)
_PLAIN_LINES = bytes(code for code in range(128) if _PLAIN.match(chr(code))) + b" \n"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')


def quote(token: str) -> str:
    """Return a token of a rule. The one place where a name or comment becomes rule text."""
    if _PLAIN.match(token):
        return token
    if not token.isprintable():
        raise ValueError(f"{token!r} cannot be quoted")
    escaped = token.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def join(tokens: Sequence[str]) -> str:
    """Tokens → text."""
    return lines([tokens])


def lines(rules: Sequence[Sequence[str]]) -> str:
    """Rules as tokens → text, one a line."""
    text = "\n".join([" ".join(tokens) for tokens in rules])
    # Nearly always no token needs quotes, and one look at all of them is enough.
    whole = text.count(" ") == sum(map(len, rules)) - len(rules) and text.count("\n") == len(rules) - 1
    if text and whole and is_plain(text):
        return text
    return "\n".join([" ".join(map(quote, tokens)) for tokens in rules])


def unquoted(text: str) -> str:
    """Rules without the quotes that iptables-save puts around tokens which need none."""
    return "".join(_NEEDLESS.split(text)) if '"' in text else text


def is_plain(text: str) -> bool:
    """Return True for rules, one a line, of tokens that need no quotes, joined by single blanks."""
    return (
        text.isascii()
        and not text.encode().translate(None, _PLAIN_LINES)
        and not ("  " in text or " \n" in text or "\n " in text or "\n\n" in text)
        and text.strip(" \n") == text
    )


def split(text: str) -> list[str]:
    """Text, of ours or of iptables-save → tokens."""
    return [
        re.sub(r"\\(.)", r"\1", token[1:-1]) if token[0] == '"' and len(token) > 1 else token
        for token in _TOKEN.findall(text)
    ]
