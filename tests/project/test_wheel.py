"""The wheel: what is in it, and that a bare installation of it can call a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from client_service import serving
from documents import ROOT

ROOTS = (
    "gen-py/thriftserve_idl",
    "gen-py/thriftserve_proto",
    "client/thriftserve_client",
    "server/thriftserve",
    "bench/thriftserve_bench",
)
SKIPPED = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built of a copy of the sources: a build leaves files beside what it builds."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for root in ROOTS:
        shutil.copytree(ROOT / root, source / root, ignore=SKIPPED)
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(made), str(source)], check=True, timeout=100)
    (found,) = made.glob("thriftserve-*.whl")
    return found


def test_everything_is_in_the_wheel(wheel: Path) -> None:
    """Each source file of each package is in the wheel, the page's files and the type markers too, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"{Path(root).name}/{file.relative_to(ROOT / root).as_posix()}"
        for root in ROOTS
        for file in (ROOT / root).rglob("*")
        if file.suffix in (".py", ".pyi", ".html", ".css", ".js") or file.name == "py.typed"
    }
    assert inside == expected


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an empty environment in which only the wheel was installed."""
    home = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=60)
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--no-compile"]
    install += ["--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, str(wheel)], capture_output=True, text=True, timeout=110, check=False)
    if "Could not find a version" in done.stderr and "CI" not in os.environ:
        pytest.skip(f"no package index within reach: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return home / "bin"


CALL = """
import importlib.metadata, importlib.util, json, sys
from thriftserve_client import Client
with Client(port=int(sys.argv[1])) as client:
    y = client.predict("half_plus_two", {"x": __import__("numpy").array([1, 2, 5], "f4")}, outputs=["y"])["y"].tolist()
print(json.dumps({
    "y": y,
    "c_extension": importlib.util.find_spec("thrift.protocol.fastbinary") is not None,
    "installed": sorted(one.name.lower() for one in importlib.metadata.distributions()),
}))
"""


@pytest.mark.timeout(240)
def test_a_bare_installation_calls_a_server(bare: Path) -> None:
    """With thrift and numpy alone a server is called, from Python and from the command line."""
    with serving() as service:
        called = subprocess.run(
            [bare / "python", "-I", "-c", CALL, str(service.port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        pinged = subprocess.run(
            [bare / "thriftserve-client", "--port", str(service.port), "ping"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    found = json.loads(called.stdout)
    assert found["y"] == [2.5, 3.0, 4.5]
    assert found["c_extension"]
    assert set(found["installed"]) - {"pip", "setuptools"} == {"numpy", "thrift", "thriftserve"}
    assert pinged.stdout.startswith("ok, ")
