"""Names say what they hold: some words say nothing, and no class name means two things."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import ROOT

PACKAGES = ("server/thriftserve", "client/thriftserve_client", "bench/thriftserve_bench", "examples/demo")
#: A reader can't search for these, and none of them says what the variable is or what the function does.
EMPTY_WORDS = frozenset({"one", "found", "made", "told", "kept"})


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything that a module binds: variables, parameters, attributes, functions."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name


def empty_names(path: Path) -> list[str]:
    """Return each place of a file that binds an empty word, private or not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [f"{path}:{line}: {name}" for line, name in bound_names(tree) if name.strip("_") in EMPTY_WORDS]


@pytest.mark.parametrize("package", PACKAGES)
def test_names_say_what_they_hold(package: str) -> None:
    """No variable, parameter, attribute or function of a package has an empty word for a name."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert [place for path in files for place in empty_names(path)] == []


def test_an_empty_name_is_noticed(tmp_path: Path) -> None:
    """Loops, parameters, attributes and functions are all looked at."""
    path = tmp_path / "module.py"
    path.write_text("def told(self, kept):\n    self._made = [one for one in kept]\n    for version in kept: pass\n")
    assert [place.rpartition(" ")[2] for place in empty_names(path)] == ["told", "kept", "_made", "one"]


def test_no_class_name_stands_twice_in_the_server() -> None:
    """A class name leads to one class."""
    places = defaultdict(list)
    for path in sorted((ROOT / "server/thriftserve").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
