"""Build the documentation site from docs/ and the READMEs of examples: `make docs`.

The pages are plain Markdown that forges show too, with links that work there. So the site is made of copies:
links to what is no page of the site lead to the repository. `--check` only checks the links of all Markdown
files; it needs no Zensical.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import shutil
import subprocess
import sys
from pathlib import Path

import diagrams
import links

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/lbctl/lbctl"
#: Page of the site → its file; all other pages of docs/ keep their places.
ELSEWHERE = {
    "how-to/systemd.md": "examples/systemd/README.md",
    "how-to/monitoring.md": "examples/monitoring/README.md",
    "how-to/bgp.md": "examples/bgp/README.md",
    "how-to/ansible.md": "examples/ansible/README.md",
    "how-to/backend.md": "examples/third_party_backend/README.md",
    "how-to/source.md": "examples/third_party_source/README.md",
    "explanation/speed.md": "docs/bench/README.md",
    "explanation/netfilter.md": "backends/lbctl_netfilter/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
#: What pages show, and is copied as it is.
ASSETS = {".svg", ".png", ".json"}
#: Directories of what tools made.
BUILT = {"dist", "node_modules"}


def main() -> int:
    """Build or check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--check", action="store_true", help="check the links of all Markdown files only")
    parser.add_argument("directory", type=Path, nargs="?", default=ROOT / ".venv" / "site")
    options = parser.parse_args()
    dead = list(links.dead_links(ROOT, _markdown()))
    if not dead and not options.check:
        dead = _built(options.directory)
    for line in dead:
        print(line, file=sys.stderr)
    return int(bool(dead))


def _markdown() -> dict[str, str]:
    """Return the text of each Markdown file of the repository, by its path."""
    found = {}
    for place, directories, files in os.walk(ROOT):
        directories[:] = [name for name in directories if name[0] != "." and name not in BUILT]
        for path in (Path(place, name) for name in files if name.endswith(".md")):
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    return dict(sorted(found.items()))


def _built(directory: Path) -> list[str]:
    """Build the site below a directory; returns what is wrong with it."""
    pages = _pages()
    shutil.rmtree(directory, ignore_errors=True)
    for page, source in pages.items():
        target = directory / "docs" / page
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / source).read_text(encoding="utf-8")
        target.write_text(_for_site(text, page, source, pages), encoding="utf-8")
    for asset in (ROOT / "docs").rglob("*"):
        if asset.suffix in {*ASSETS, ".css"}:
            target = directory / "docs" / asset.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(asset, target)
    config = (ROOT / "docs" / "site" / "zensical.toml").read_text(encoding="utf-8")
    (directory / "zensical.toml").write_text(config, encoding="utf-8")
    zensical = Path(sys.executable).parent / "zensical"
    done = subprocess.run([zensical, "build", "--strict"], cwd=directory, check=False)
    if done.returncode:
        return ["zensical build failed"]
    unlisted = [page for page in pages if f'"{page}"' not in config]
    dead = [f"{page}: not in the navigation of docs/site/zensical.toml" for page in unlisted]
    dead += links.dead_in_html(directory / "html")
    if not dead:
        print(f"{directory / 'html' / 'index.html'}: {len(pages)} pages, no dead link")
    return dead


def _pages() -> dict[str, str]:
    """Return page of the site → its file in the repository."""
    own = (str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))
    moved = ELSEWHERE.values()
    return {path.removeprefix("docs/"): path for path in own if path not in moved} | ELSEWHERE


def _for_site(text: str, page: str, source: str, pages: dict[str, str]) -> str:
    """Return a page with the links that it needs where it stands on the site."""
    places = {file: page for page, file in pages.items()}

    def changed(target: str) -> str:
        if links.is_external(target) or target.startswith("#"):
            return target
        link = links.resolved(source, target)
        anchor = f"#{link.anchor}" if link.anchor else ""
        whole = ROOT / link.path
        place = places.get(link.path)
        if place is None and link.path.startswith("docs/") and whole.suffix in ASSETS:
            place = os.path.relpath(link.path, "docs")
        if place is not None:
            return posixpath.relpath(place, posixpath.dirname(page) or ".") + anchor
        kind = "tree" if whole.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{link.path}{anchor}"

    return diagrams.drawn(links.rewritten(text, changed))


if __name__ == "__main__":
    sys.exit(main())
