"""docs/explanation/architecture.md is what the code is; UPDATE_GOLDEN=1 writes its package diagram anew."""

import ast
import os
import pkgutil
import re
from pathlib import Path

import pytest

from support.architecture import circles, mermaid, modules, packages, reduced

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
_FUNCTION = re.compile(r'\["(lbctl\w*(?:\.\w+)+)"\]')
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
#: Files and folders as the documents for engineers name them: `src/lbctl/x.py`, `cli/x.py`, `reading/`.
_FILE = re.compile(r"`([A-Za-z0-9_./*-]+(?:\.(?:py|md|toml|txt|yaml|json)|/))`")
#: Where a name without its whole path is looked for.
_FOLDERS = ("", "src/lbctl", "backends", "backends/lbctl_nftables", "backends/lbctl_iptables", "tests")


def block(name: str) -> str:
    """The text of a generated or marked block of the page."""
    page = PAGE.read_text(encoding="utf-8")
    return page.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]


def test_the_diagram_of_packages_is_that_of_the_imports() -> None:
    made = f"```mermaid\n{mermaid(reduced(packages()))}```\n"
    if os.environ.get("UPDATE_GOLDEN"):
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page.replace(f"<!-- packages -->\n{block('packages')}", f"<!-- packages -->\n{made}"))
    assert block("packages") == made


def test_no_module_imports_itself_through_others() -> None:
    assert circles(modules()) == []


def test_no_package_imports_itself_through_others() -> None:
    assert circles(packages()) == []


def test_a_circle_is_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"}), "d": frozenset({"a"})}
    assert len(circles(graph)) == 1
    assert set(circles(graph)[0]) == {"a", "b", "c"}


def test_an_implied_import_is_left_out_of_the_diagram() -> None:
    graph = {"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset[str]()}
    assert reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_the_diagram_of_data_flow_names_functions_that_exist() -> None:
    names = _FUNCTION.findall(block("dataflow"))
    assert len(names) >= 10
    for name in names:
        assert callable(pkgutil.resolve_name(name)), name


#: What engineers read first.
DOCUMENTS = [
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/explanation/architecture.md",
    "docs/reference.md",
    "docs/tutorial.md",
    *(f"backends/{name}/README.md" for name in ("lbctl_iptables", "lbctl_netfilter", "lbctl_nftables")),
]


#: These name files of a user's host.
FOR_USERS = {"README.md", "SECURITY.md", "docs/reference.md", "docs/tutorial.md"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_links_of_a_document_lead_to_files(document: str) -> None:
    path = ROOT / document
    lost = [link for link in _LINK.findall(path.read_text("utf-8")) if not (path.parent / link).exists()]
    assert lost == []


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in FOR_USERS])
def test_the_files_that_a_document_names_exist(document: str) -> None:
    path = ROOT / document
    folders = [path.parent, *(ROOT / folder for folder in _FOLDERS)]
    named = {
        name
        for name in _FILE.findall(path.read_text("utf-8"))
        if not name.startswith("/") and "NAME" not in name
    }
    lost = [name for name in sorted(named) if not any(any(folder.glob(name)) for folder in folders)]
    assert lost == []


@pytest.mark.parametrize("backend", ["lbctl_iptables", "lbctl_netfilter", "lbctl_nftables"])
def test_the_readme_of_a_backend_names_each_module(backend: str) -> None:
    folder = ROOT / "backends" / backend
    text = (folder / "README.md").read_text("utf-8")
    found = [path.relative_to(folder) for path in (*folder.glob("*.py"), *folder.glob("reading/*.py"))]
    named = [f"`{path}`" if backend != "lbctl_netfilter" else str(path) for path in found]
    assert [name for name in named if "__init__.py" not in name and name not in text] == []


#: `_picker`, `SEVERITIES`, `FamilyStatus`: names of the code, as CONTRIBUTING and the READMEs have them.
_NAME = re.compile(r"`(_[a-z]\w+|[A-Z][A-Z_]{3,}|[A-Z][a-z]+[A-Z]\w+)`")
#: Names of other things.
_NO_CODE = frozenset({"LBCTL"})


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in FOR_USERS])
def test_the_names_of_the_code_in_a_document_exist(document: str) -> None:
    named = set(_NAME.findall((ROOT / document).read_text("utf-8"))) - _NO_CODE
    sources = (path for root in ("src", "backends", "tests") for path in (ROOT / root).rglob("*.py"))
    words = {word for path in sources for word in re.findall(r"\w+", path.read_text("utf-8"))}
    assert named - words == set()


def test_names_stand_in_the_files_that_are_named_with_them() -> None:
    """A step of CONTRIBUTING that names files and names of the code: each name is in one of these files."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    steps = re.findall(r"(?ms)^\d+\. .*?(?=^\d+\. |^#|\n\n)", text)
    wrong = []
    for step in steps:
        files = [path for name in re.findall(r"`([\w/]+\.py)`", step) for path in _places(name)]
        words = {word for path in files for word in re.findall(r"\w+", path.read_text("utf-8"))}
        wrong += [f"{name} in {step!r}" for name in _NAME.findall(step) if files and name not in words]
    assert len(steps) > 40
    assert wrong == []


def _places(name: str) -> list[Path]:
    """The files of a name: one, or those of both backends."""
    found = [path for path in (ROOT / name, *(ROOT / "backends").glob(f"*/{name}")) if path.is_file()]
    assert found or "NAME" in name, name
    return found


def test_no_two_classes_share_a_name() -> None:
    """Of those that other modules can use: a name means one thing in the whole house."""
    places: dict[str, list[str]] = {}
    for root in ("src", "backends"):
        for path in sorted((ROOT / root).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
