"""The documents have no dead links and no wide prose; `make docs` checks the site that it builds."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "docs" / "site" / "build.py"


def test_no_link_of_a_document_is_dead() -> None:
    done = subprocess.run([sys.executable, str(BUILD), "--check"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_prose_has_lines_of_at_most_110_columns() -> None:
    """Tables, pictures and code may be wider."""
    folders = ("docs", "examples", "backends", "packages")
    pages = [*ROOT.glob("*.md"), *(page for each in folders for page in (ROOT / each).rglob("*.md"))]
    long = []
    for page in pages:
        name = str(page.relative_to(ROOT))
        if "node_modules" in name:
            continue
        prose = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1|<!-- bench:.*?<!-- /bench", "", page.read_text())
        lines = [line for line in prose.splitlines() if not line.startswith(("|", "![", "    "))]
        long += [f"{name}: {line}" for line in lines if len(line) > 110]
    assert long == []


def test_pictures_are_well_formed() -> None:
    """The recorded session too: it shows the whole first part of the demo."""
    for picture in (ROOT / "docs").rglob("*.svg"):
        tree = ElementTree.parse(picture)
        assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg", picture
        if picture.name == "session.svg":
            text = "".join(tree.getroot().itertext())
            assert "Process 8002 is killed." in text
            assert "Process 8002 starts again." in text


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# A b\n\n[here](#a-b) [`code`](b.md#one) `[no](link.md)`\n\n```\n[no](link.md)\n```\n"
        "[gone](c.md) [lost](b.md#two) [far](https://example.org/x)\n"
    )
    (tmp_path / "b.md").write_text("## `One`\n\n[up](../x.md)\n")
    (tmp_path / "page.html").write_text('<a id="x" href="#x"></a><a href="#y"></a><img src="none.svg">')
    (tmp_path / "far.html").write_text(
        '<a href="https://example.org/x">x</a><link rel="next" href="https://example.org/y">'
        '<script src="https://example.org/a.js"></script><link rel="stylesheet" href="//example.org/b.css">'
    )
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import links; from pathlib import Path\n"
        "root = Path(sys.argv[2]); pages = {p.name: p.read_text() for p in sorted(root.glob('*.md'))}\n"
        "print(*links.dead_links(root, pages), *links.dead_in_html(root), sep='\\n')"
    )
    words = [sys.executable, "-c", script, str(BUILD.parent), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "a.md: c.md: no such file",
        "a.md: b.md#two: no such heading",
        "b.md: ../x.md: no such file",
        "far.html: https://example.org/a.js: loaded from another server",
        "far.html: //example.org/b.css: loaded from another server",
        "page.html: #y: no such anchor",
        "page.html: none.svg: no such page",
    ]


def test_flow_charts_are_drawn_by_the_site_itself() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import diagrams\n"
        "print(diagrams.drawn(sys.stdin.read()))"
    )
    chart = 'flowchart LR\n  a["one & two"] -->|x| b[(three)]\n  b --> a\n  subgraph "g"\n  c\n  end\n'
    words = [sys.executable, "-c", script, str(BUILD.parent)]
    done = subprocess.run(
        words,
        input=f"# A\n\n```mermaid\n{chart}```\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    drawn = done.stdout
    assert drawn.startswith("# A\n\n<div")
    # A blank line would end the block of HTML.
    assert "\n\n<" not in drawn[5:]
    pictures = ElementTree.fromstring(f"<all>{drawn.removeprefix('# A')}</all>")
    assert ["".join(text.itertext()) for text in pictures.iter("text")] == ["x", "one & two", "three", "c"]
    assert len([path for path in pictures.iter("path") if path.get("class") == "edge"]) == 2
    done = subprocess.run(
        words, input="```mermaid\nflowchart LR\na ==> b\n```\n", capture_output=True, text=True
    )
    assert "a diagram has a line that is not understood: a ==> b" in done.stderr
