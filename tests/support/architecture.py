"""The import graph of the source, and the package diagram in docs/explanation/architecture.md.

python -m support.architecture      (in tests/) prints the diagram and the circles
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter

import grimp

ROOTS = ("lbctl", "lbctl_netfilter", "lbctl_rules", "lbctl_nftables", "lbctl_iptables")
#: Packages (or modules) of the diagram; a module belongs to the longest one that contains it. The packages
#: lbctl and lbctl.engine themselves only re-export or start what is in them, and are left out.
NODES = (
    "lbctl.cli",
    "lbctl.conformance",
    "lbctl.demo",
    "lbctl.documents",
    "lbctl.engine.undo",
    "lbctl.engine.migrate",
    "lbctl.engine.inspect",
    "lbctl.engine.change",
    "lbctl.engine.record",
    "lbctl.config",
    "lbctl.spi",
    "lbctl.host",
    "lbctl.model",
    "lbctl.errors",
    "lbctl_nftables",
    "lbctl_iptables",
    "lbctl_rules",
    "lbctl_netfilter",
)

Graph = Mapping[str, frozenset[str]]


@cache
def modules() -> Graph:
    """Return module → the modules that it imports, also for type checking only."""
    graph = grimp.build_graph(*ROOTS, exclude_type_checking_imports=False, cache_dir=None)
    return {name: frozenset(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def node_of(module: str) -> str | None:
    """Return the node of the diagram that contains a module, if any."""
    return next((node for node in NODES if module == node or module.startswith(f"{node}.")), None)


def packages() -> Graph:
    """Return node → the nodes that its modules import.

    What a module gets from `lbctl.engine` comes from the packages of the engine, all of which its list of use
    cases imports.
    """
    through = {"lbctl.engine": frozenset(node for node in map(node_of, modules()["lbctl.engine"]) if node)}
    graph: dict[str, set[str]] = {node: set() for node in NODES}
    for module, imported in modules().items():
        if (node := node_of(module)) is None:
            continue
        for name in imported:
            graph[node] |= through.get(name, frozenset({node_of(name) or node})) - {node}
    return {node: frozenset(names) for node, names in graph.items()}


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Return one circle for each step that is needed to break all of them; none for a graph without."""
    left = {name: set(names) for name, names in graph.items()}
    found = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = tuple(reversed(error.args[1]))
            left[circle[0]].discard(circle[1])
            found.append(circle)
        else:
            return found


def reduced(graph: Graph) -> Graph:
    """Return a graph without the edges that a longer path implies. It must have no circle."""

    @cache
    def reached(name: str) -> frozenset[str]:
        return graph[name].union(*(reached(each) for each in graph[name]))

    return {
        name: frozenset(each for each in names if not any(each in reached(other) for other in names - {each}))
        for name, names in graph.items()
    }


def mermaid(graph: Graph) -> str:
    """Return a graph as a Mermaid flow chart, the core and the backends in a box each."""
    lines = ["flowchart TD"]
    core = [node for node in NODES if node.startswith("lbctl.")]
    for title, box in (("src/lbctl", core), ("backends", [node for node in NODES if node not in core])):
        lines += [
            f'  subgraph "{title}"',
            *(f"    {_identifier(node)}[{_label(node)}]" for node in box),
            "  end",
        ]
    lines += [f"  {_identifier(one)} --> {_identifier(other)}" for one, other in edges(graph)]
    return "\n".join([*lines, ""])


def edges(graph: Graph) -> Iterator[tuple[str, str]]:
    """Yield the edges of a graph in the order of `NODES`."""
    for node in NODES:
        yield from ((node, name) for name in _in_order(graph[node]))


def _in_order(names: Collection[str]) -> Iterable[str]:
    return (node for node in NODES if node in names)


def _identifier(node: str) -> str:
    return node.replace(".", "_")


def _label(node: str) -> str:
    return node.removeprefix("lbctl.")


if __name__ == "__main__":
    print(mermaid(reduced(packages())))
    for each in circles(modules()) + circles(packages()):
        print(" → ".join(each))
