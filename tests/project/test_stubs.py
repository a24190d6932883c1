"""gen-py is what the compilers make of the contracts, and the check that says so notices a difference."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from documents import ROOT
from thriftserve.errors import Code
from thriftserve.status import ServerPhase, WorkerPhase
from thriftserve_idl.ttypes import ErrorCode, ServerState, WorkerState


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "idl/generate.sh"), *arguments], capture_output=True, text=True, timeout=110, check=False
    )


@pytest.fixture(scope="module")
def _compiler() -> None:
    """The Thrift and the Protobuf compiler; where there is none, `make check` fetches it, a test installs nothing."""
    for command in (["idl/compiler.sh", "--no-install"], ["idl/protoc.sh", "--find"]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(done.stderr.strip().splitlines()[-1])


@pytest.mark.usefixtures("_compiler")
def test_stubs_match_the_contract() -> None:
    """The committed stubs are the compiler's output."""
    done = generate("--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("fault", ["changed", "missing", "added"])
@pytest.mark.parametrize(
    ("package", "changed", "missing"),
    [("thriftserve_idl", "ttypes.py", "constants.py"), ("thriftserve_proto", "tensor_pb2.py", "example_pb2.pyi")],
)
def test_a_difference_is_noticed(tmp_path: Path, package: str, changed: str, missing: str, fault: str) -> None:
    """Stubs that were edited, lost or added to are refused, with the remedy."""
    shutil.copytree(ROOT / "gen-py", tmp_path, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    stubs = tmp_path / package
    if fault == "changed":
        (stubs / changed).write_text("edited\n", encoding="utf-8")
    elif fault == "missing":
        (stubs / missing).unlink()
    else:
        (stubs / "Predict-remote").write_text("left over\n", encoding="utf-8")
    done = generate("--check", str(tmp_path))
    assert done.returncode == 1
    assert "make idl" in done.stderr


@pytest.mark.usefixtures("_compiler")
def test_generating_writes_the_same(tmp_path: Path) -> None:
    """What `make idl` writes passes the check, leftovers of before removed."""
    for package in ("thriftserve_idl", "thriftserve_proto"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "left_over.py").write_text("", encoding="utf-8")
    assert generate(str(tmp_path)).returncode == 0
    assert generate("--check", str(tmp_path)).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thriftserve_idl", "thriftserve_proto"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Code, ErrorCode), (ServerPhase, ServerState), (WorkerPhase, WorkerState)]
)
def test_our_numbers_are_the_contracts(ours: type[Code], theirs: type[ErrorCode]) -> None:
    """The neutral enums have the names and numbers of the contract's."""
    assert {one.name: int(one) for one in ours} == {one.name: int(one) for one in theirs}
