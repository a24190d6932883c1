"""The wheel: every module is in it, nothing else is, and what is in it runs without the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from thriftserve import __version__

ROOT = Path(__file__).parents[1]
ROOTS = {
    "gen-py": "thriftserve_idl",
    "client": "thriftserve_client",
    "server": "thriftserve",
    "bench": "thriftserve_bench",
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built of a copy of the sources with the setuptools that is here, and unpacked."""
    copy, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for root, package in ROOTS.items():
        shutil.copytree(ROOT / root / package, copy / root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(target)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, timeout=110, check=True)
    with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
        wheel.extractall(target / "unpacked")
    return target / "unpacked"


def test_every_module_is_in_it(unpacked: Path) -> None:
    """No package is forgotten in setup.cfg, and no file but ours and the wheel's own metadata is added."""
    expected = {
        str(path.relative_to(ROOT / root))
        for root, package in ROOTS.items()
        for path in (ROOT / root / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    metadata = {name for name in found if name.startswith(f"thriftserve-{__version__}.dist-info/")}
    assert found - metadata == expected
    assert metadata, "the version of setup.cfg is not that of the package"


def test_a_caller_needs_thrift_and_numpy_only(unpacked: Path) -> None:
    """Without an extra the wheel asks for nothing but thrift and numpy."""
    metadata = (unpacked / f"thriftserve-{__version__}.dist-info/METADATA").read_text(encoding="utf-8")
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert sorted(line.split()[1].split("<")[0].split(">")[0] for line in needs) == ["numpy", "thrift"]


def test_it_runs_without_the_sources(unpacked: Path) -> None:
    """The command line comes out of the wheel's own files."""
    code = "import thriftserve, thriftserve.cli; print(thriftserve.__file__); thriftserve.cli.main(['--version'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=unpacked,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    place, version = done.stdout.splitlines()
    assert Path(place).is_relative_to(unpacked)
    assert version == f"thriftserve {__version__}"
