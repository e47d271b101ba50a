#!/usr/bin/env python3
"""The import graph: rooms, arrows and circles, of the whole house and inside each of its rooms.

    python scripts/import_graph.py          # this tree
    python scripts/import_graph.py TREE     # another checkout

Reads source files only; imports nothing of them. A *room* is a module or package directly below the one that is looked
into; an *arrow* goes from a room to another that any file of it imports, wherever in the file; a *circle* is a strongly
connected component of more than one room (Tarjan 1972). Exits with 1 where there is a circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "medfm_compress"
ROOMS = ("compress", "export", "bench", "data", "runtime")

Arrows = dict[str, set[str]]


def modules_of(tree: Path) -> dict[str, Path]:
    """Dotted name → file, with every top-level folder of the tree where the package has it."""
    modules: dict[str, Path] = {}
    for folder in (PACKAGE, *ROOMS):
        for path in sorted((tree / folder).rglob("*.py")):
            parts = path.relative_to(tree).with_suffix("").parts
            parts = parts if parts[0] == PACKAGE else (PACKAGE, *parts)
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


def arrows_within(container: str, modules: Mapping[str, Path]) -> tuple[set[str], Arrows]:
    """Rooms directly below ``container``, and the arrows between them."""
    prefix = f"{container}."
    rooms, arrows = set(), Arrows()
    for name, path in modules.items():
        if not name.startswith(prefix):
            continue
        room = name.removeprefix(prefix).split(".")[0]
        rooms.add(room)
        for target in imports_of(path, modules):
            other = target.removeprefix(prefix).split(".")[0]
            if target.startswith(prefix) and other != room:
                arrows.setdefault(room, set()).add(other)
    return rooms, arrows


def circles_in(rooms: set[str], arrows: Arrows) -> list[list[str]]:
    """Strongly connected components of more than one room."""
    reach = {room: _reachable(room, arrows) for room in rooms}
    together = {frozenset(b for b in rooms if b in reach[a] and a in reach[b]) for a in rooms}
    return sorted(sorted(component) for component in together if len(component) > 1)


def _reachable(start: str, arrows: Arrows) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in arrows.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def main(tree: Path) -> int:
    """Print one line a container; returns the exit code."""
    modules = modules_of(tree)
    packages = sorted({name for name, path in modules.items() if path.name == "__init__.py"})
    circular = False
    for container in packages:
        rooms, arrows = arrows_within(container, modules)
        if len(rooms) < 2:
            continue
        circles = circles_in(rooms, arrows)
        circular |= bool(circles)
        count = sum(len(targets) for targets in arrows.values())
        described = "; ".join(" ↔ ".join(circle) for circle in circles) or "no circle"
        print(f"{container:40} {len(rooms):3} rooms {count:4} arrows   {described}")
    return int(circular)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]))
