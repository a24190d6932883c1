"""examples/node: a client in another language, on stubs generated from the IDL."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from documents import ROOT
from encoded_images import encoded
from small_models import small
from thriftserve_bench.processes import ServerProcess

IDL = ROOT / "idl" / "thriftserve.thrift"
EXAMPLE = ROOT / "examples/node"
#: More than a double holds.
VERSION = 2**53 + 1


def compiler() -> str | None:
    """The Thrift compiler that the project's stubs are made with, where there is one."""
    found = subprocess.run(
        [str(ROOT / "idl" / "compiler.sh"), "--no-install"], capture_output=True, text=True, timeout=60, check=False
    )
    return found.stdout.strip() or None


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed and with its stubs; skips where that can't be had."""
    thrift = compiler()
    missing = [name for name, path in (("node", shutil.which("node")), ("npm", shutil.which("npm"))) if path is None]
    if missing or thrift is None:
        pytest.skip(f"not here: {', '.join([*missing, *([] if thrift else ['the Thrift compiler'])])}")
    place = tmp_path_factory.mktemp("node") / "node"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("node_modules", "gen-nodejs", "package-lock.json"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    installed = subprocess.run(install, cwd=place, capture_output=True, text=True, timeout=100, check=False)
    if installed.returncode:
        pytest.skip(f"npm can't install the example's packages: {installed.stderr.strip().splitlines()[-1:]}")
    generated = [thrift, "--gen", "js:node,es6", "-o", str(place), str(IDL)]
    subprocess.run(generated, capture_output=True, timeout=60, check=True)
    return place


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PNG file of upright stripes."""
    stripes = np.tile(np.arange(28, dtype=np.uint8) // 4 % 2 * 255, (28, 1))
    path = tmp_path_factory.mktemp("scans") / "stripes.png"
    path.write_bytes(encoded(Image.fromarray(stripes)))
    return str(path)


@pytest.fixture(scope="module")
def server(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with a model of images and one of vectors."""
    stripes = tmp_path_factory.mktemp("stripes")
    (stripes / str(VERSION)).symlink_to(small("image_classifier") / "1")
    models = ["--model", f"stripes={stripes}", "--model", f"half={small('half_plus_two')}"]
    with ServerProcess([*models, "--port", "0", "--workers", "1"]) as running:
        yield running


def node(example: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of the example to its end."""
    return subprocess.run(["node", *arguments], cwd=example, capture_output=True, text=True, timeout=60, check=False)


def test_images_are_classified(example: Path, server: ServerProcess, scan: str) -> None:
    """Encoded images go out, labels and a 64-bit version come back."""
    done = node(example, "classify.js", server.host, str(server.port), "stripes", scan, scan)
    assert done.returncode == 0, done.stderr
    first, second, version = done.stdout.splitlines()
    assert first == second
    assert first == f"{scan} vertical 1.000"
    assert version == f"version {VERSION}"


def test_numbers_go_both_ways(example: Path, server: ServerProcess) -> None:
    """A vector of floats becomes a tensor with a 64-bit shape, and the answer numbers: y = x / 2 + 2."""
    done = node(example, "predict.js", server.host, str(server.port), "half", "x", "y", "1", "2", "-5.5")
    assert (done.returncode, done.stdout) == (0, "shape 3 values 2.5 3 -0.75\n"), done.stderr


def test_errors_are_typed(example: Path, server: ServerProcess, scan: str) -> None:
    """The server's PredictError arrives as one, with its code and words."""
    done = node(example, "classify.js", server.host, str(server.port), "nobody", scan)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("code 5: ") and "'nobody'" in done.stderr


def test_the_documented_command_generates_these_stubs() -> None:
    """`npm run generate` has the options that the tests use, and its path leads to the IDL."""
    script = json.loads((EXAMPLE / "package.json").read_text(encoding="utf-8"))["scripts"]["generate"]
    assert script.startswith("thrift --gen js:node,es6 -o . ")
    assert (EXAMPLE / script.split()[-1]).resolve() == IDL.resolve()
