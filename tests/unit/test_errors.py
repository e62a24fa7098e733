"""The tree of errors at the top of `lsb.errors` is all there is."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import lsb.errors
from lsb.errors import LsbError

ROOT = Path(__file__).resolve().parents[2]
TREE = {name: kind for name, kind in vars(lsb.errors).items() if isinstance(kind, type) and issubclass(kind, LsbError)}


def test_no_module_has_errors_of_its_own_beside_the_tree() -> None:
    """Those of other trees, such as a ValueError's, never reach whoever called."""
    files = [path for room in ("lsb", "tasks", "flows") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and path.name != "errors.py"
        if any(isinstance(base, ast.Name) and base.id in TREE for base in node.bases)
    ]
    assert found == []


def test_the_drawing_shows_each_under_its_parent_with_its_exit_code() -> None:
    drawn, above = {}, {}
    for line in inspect.cleandoc(lsb.errors.__doc__ or "").splitlines():
        name = next((word for word in line.split() if word in TREE), None)
        if name is None or not line.startswith("    "):
            continue
        depth = line.index(name) // 4
        above[depth] = name
        drawn[name] = above.get(depth - 1)
        if "exit " in line:
            assert TREE[name].exit_code == int(line.split("exit ")[1].split()[0]), name
    parents = {name: None if kind is LsbError else kind.__bases__[0].__name__ for name, kind in TREE.items()}
    assert drawn == parents
