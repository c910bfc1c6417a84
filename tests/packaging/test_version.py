"""The version stands in one line; what names it elsewhere says the same."""

from __future__ import annotations

import re
from pathlib import Path

from lbctl.version import __version__

ROOT = Path(__file__).parents[2]


def test_the_newest_section_of_the_changelog_is_this_version() -> None:
    newest = re.findall(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[0]
    assert newest.split()[0] == ("Unreleased" if "dev" in __version__ else __version__)


def test_the_guide_names_the_packages_of_this_version() -> None:
    release = __version__.partition(".dev")[0]
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"lbctl_([\d.]+)-1_", guide)) == {release}
