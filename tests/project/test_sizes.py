"""Sizes: a file or a function that grows too long wants splitting, and is told here before it is grown used to."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from documents import ROOT

PACKAGES = ("server/thriftserve", "client/thriftserve_client", "bench/thriftserve_bench")
MOST_LINES = 500
MOST_LINES_OF_A_FUNCTION = 60


def too_long(source: str) -> Iterator[str]:
    """What of a module is longer than it may be."""
    lines = len(source.splitlines())
    if lines > MOST_LINES:
        yield f"{lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{node.name}: {lines} lines"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_too_long(package: str) -> None:
    """No file of a package has more than 500 lines, no function more than 60."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    told = {str(path.relative_to(ROOT)): list(too_long(path.read_text(encoding="utf-8"))) for path in files}
    assert {name: faults for name, faults in told.items() if faults} == {}


def test_what_is_too_long_is_found() -> None:
    """A line more than there may be is told, of a file and of a function within a class."""
    fits = "class A:\n    def b(self):\n" + 59 * "        pass\n"
    assert list(too_long(fits + "#\n" * (500 - 61))) == []
    assert list(too_long(fits + "        pass\n")) == ["b: 61 lines"]
    assert list(too_long("#\n" * 501)) == ["501 lines"]
