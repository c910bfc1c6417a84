"""The rules that documents show are those of the golden files; UPDATE_GOLDEN=1 writes them anew."""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "explanation" / "layouts.md"
_PART = re.compile(
    r"(?s)(?<=<!-- golden:)(?P<file>[a-z/.]+) -->\n```\n(?P<rules>.*?)```\n(?=<!-- /golden -->)"
)
#: File → where the part that is shown begins and ends.
_BOUNDS = {
    "minimal/nftables.nft": ("table ip lbctl {", "table ip6 lbctl\n"),
    "minimal/iptables.rules": ("-A LBCTL-web", "COMMIT"),
}


def test_the_page_of_layouts_shows_the_rules_as_they_are() -> None:
    def as_it_is(match: re.Match[str]) -> str:
        begin, end = _BOUNDS[match["file"]]
        text = (ROOT / "tests" / "golden" / match["file"]).read_text(encoding="utf-8")
        return f"{match['file']} -->\n```\n{text[text.index(begin) : text.index(end)]}```\n"

    shown = DOCUMENT.read_text(encoding="utf-8")
    made, number = _PART.subn(as_it_is, shown)
    assert number == len(_BOUNDS)
    if os.environ.get("UPDATE_GOLDEN"):
        DOCUMENT.write_text(made, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == made
