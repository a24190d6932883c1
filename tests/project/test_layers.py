"""Imports point downward: the contracts of pyproject.toml hold, and would not if somebody broke them."""

from __future__ import annotations

import ast
import graphlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documents import ROOT

ROOTS = (
    "server/thriftserve",
    "client/thriftserve_client",
    "bench/thriftserve_bench",
    "gen-py/thriftserve_idl",
    "gen-py/thriftserve_proto",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, to be broken."""
    place = tmp_path_factory.mktemp("layers")
    for root in ROOTS:
        shutil.copytree(ROOT / root, place / root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def lint(place: Path) -> subprocess.CompletedProcess[str]:
    """Checks the contracts on the sources below `place`."""
    path = os.pathsep.join(dict.fromkeys(str((place / root).parent) for root in ROOTS))
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=place,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_contracts_hold(copy: Path) -> None:
    """Every contract is kept by the sources as they are."""
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        (
            "server/thriftserve/models/session.py",
            "import thriftserve.service",
            "Imports in the server point downward",
        ),
        ("server/thriftserve/errors.py", "import thriftserve.settings", "Imports in the server point downward"),
        ("server/thriftserve/rpc/__init__.py", "import thriftserve.app", "Imports in the server point downward"),
        ("client/thriftserve_client/__init__.py", "import thriftserve.errors", "The client stands alone"),
        (
            "gen-py/thriftserve_idl/__init__.py",
            "import thriftserve_client",
            "The generated stubs import nothing of ours",
        ),
        ("bench/thriftserve_bench/__init__.py", "import thriftserve.rpc", "The benchmarks start servers as processes"),
        (
            "bench/thriftserve_bench/__init__.py",
            "import thriftserve_bench.servers.our_host",
            "The benchmarks' server programs",
        ),
        ("server/thriftserve/log.py", "import thriftserve_bench", "The server does not know the benchmarks"),
        ("bench/thriftserve_bench/stats.py", "import thriftserve_bench.report", "Imports in the benchmarks point down"),
    ],
)
def test_contracts_bite(copy: Path, module: str, line: str, broken: str) -> None:
    """An import that points upward breaks the contract that forbids it."""
    path = copy / module
    content = path.read_text(encoding="utf-8")
    path.write_text(f"{content}\n{line}\n", encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        path.write_text(content, encoding="utf-8")
    assert done.returncode == 1
    assert any(row.startswith(broken) and " BROKEN" in row for row in done.stdout.splitlines()), done.stdout


def test_a_new_module_needs_a_layer(copy: Path) -> None:
    """A module of the server that no layer names is refused, so none can stand outside the contract."""
    path = copy / "server/thriftserve/unplaced.py"
    path.write_text('"""Nowhere."""\n', encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        path.unlink()
    assert done.returncode == 1
    assert "unplaced" in done.stdout


def module_name(path: Path, root: Path) -> str:
    """The name of the module in a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: set[str]) -> set[str]:
    """The modules among these that a file imports anywhere: also in functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules
            if names - modules:
                found.add(node.module)
    return found & modules


def circle(root: Path) -> list[str]:
    """A circle of imports between the modules below `root`; empty if there is none."""
    paths = {module_name(path, root): path for path in root.rglob("*.py")}
    graph = {name: imports(path, set(paths)) - {name} for name, path in paths.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_circle(copy: Path) -> None:
    """No modules of the server import each other, not even for their types."""
    assert circle(copy / "server") == []


def test_an_import_circle_is_seen(copy: Path) -> None:
    """An import under TYPE_CHECKING closes a circle, and the test above names its modules."""
    path = copy / "server/thriftserve/servers/batching/request_queue.py"
    content = path.read_text(encoding="utf-8")
    line = "if TYPE_CHECKING:\n    from thriftserve.servers.batching.connection import FrontConnection\n"
    path.write_text(f"{content}\n{line}", encoding="utf-8")
    try:
        modules = circle(copy / "server")
    finally:
        path.write_text(content, encoding="utf-8")
    assert {"thriftserve.servers.batching.connection", "thriftserve.servers.batching.request_queue"} <= set(modules)
