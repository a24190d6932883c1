"""docs/explanation/architecture.md is a true map: every package is on it, and every file that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documents import ROOT

PAGE = "docs/explanation/architecture.md"
SOURCES = ("server/thriftserve", "client/thriftserve_client", "gen-py", "bench/thriftserve_bench")


def packages(source: Path) -> set[str]:
    """Return the packages below a source root, relative to it; its own name stands for the root itself."""
    inner = {str(path.parent.relative_to(source)) for path in source.rglob("__init__.py")}
    return {source.name if name == "." else name for name in inner}


def listed(text: str) -> dict[str, set[str]]:
    """Return the packages that the map lists, by source root: first cells without a file's ending."""
    tables = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    rows = {table.splitlines()[0]: re.findall(r"^\| ((?:`[^`]+`(?:, )?)+)", table, re.MULTILINE) for table in tables}
    names = {root: {name for row in cells for name in re.findall(r"`([^`]+)`", row)} for root, cells in rows.items()}
    return {root: {name for name in cells if not name.endswith(".py")} for root, cells in names.items()}


def missing_and_gone(text: str, source: str) -> tuple[set[str], set[str]]:
    """Return the packages that the map lacks, and those that it lists although they are gone."""
    there, on_map = packages(ROOT / source), listed(text)[source]
    root = {Path(source).name} if source.startswith("server") else set()
    return there - on_map - root, on_map - there


@pytest.mark.parametrize("source", SOURCES)
def test_every_package_is_on_the_map(source: str) -> None:
    """No package is missing from the map, and none of the map is gone."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert missing_and_gone(text, source) == (set(), set())


def test_a_missing_package_is_noticed() -> None:
    """The check itself fails for a package that the map lacks, and for one that is gone."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert "| `rpc` |" in text
    changed = text.replace("| `rpc` |", "| `telegraph` |")
    assert missing_and_gone(changed, "server/thriftserve") == ({"rpc"}, {"telegraph"})


def test_every_file_that_it_names_exists() -> None:
    """Each `…/name.py` and each module of the picture of a request exists in the server."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    server = ROOT / "server/thriftserve"
    files = {name for name in re.findall(r"`([\w/]+\.py)`", text) if not name.startswith("tests/")} - {"cli.py"}
    modules = {f"{name}.py" for name in re.findall(r"^ *(?:front|worker)? +((?:\w+/)+\w+)\b", text, re.MULTILINE)}
    assert len(files) > 20 and len(modules) >= 10
    assert {name for name in files | modules if not (server / name).exists()} == set()
