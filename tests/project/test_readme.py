"""What the documents tell people to type: it works as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_process import trained
from documents import ROOT, blocks, commands, run_client, run_python
from thriftserve.servers import HostSettings
from thriftserve.settings import SERVER_TYPES
from thriftserve_bench.processes import ServerProcess

DOCUMENTS = ["README.md", *(str(one.relative_to(ROOT)) for one in sorted((ROOT / "docs").rglob("*.md")))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that looks like a checkout where the demo has run."""
    path = tmp_path_factory.mktemp("checkout")
    (path / ".demo").symlink_to(trained()[0])
    (path / "idl").symlink_to(ROOT / "idl")
    return path


@pytest.fixture(scope="module")
def port(checkout: Path) -> Iterator[int]:
    """Port of a server started by README's own command, but for the port."""
    (arguments,) = commands("README.md", "thriftserve")
    assert arguments[0] == "serve"
    given = [one.replace(".demo/", f"{checkout}/.demo/") for one in arguments[1:]]
    with ServerProcess([*given, "--port", "0"]) as server:
        assert server.ready["server_type"] == "TBatchingServer"
        yield server.port


def test_readme_commands(port: int, checkout: Path) -> None:
    """README's commands of the client answer, and the right digit comes first."""
    outputs = [run_client(arguments, port, checkout) for arguments in commands("README.md", "thriftserve-client")]
    assert len(outputs) == 4
    metadata, classified, status = outputs[1:]
    assert "image" in metadata and "scores" in metadata
    assert re.search(r"\b7\b.*\b0?\.\d+", classified), classified
    assert "TBatchingServer" in status


def test_readme_python(port: int, checkout: Path) -> None:
    """README's lines of Python name the digit and get ten scores."""
    (example,) = blocks("README.md", "python")
    assert len([line for line in example.splitlines() if line]) <= 10
    said = run_python(example, port, checkout)
    assert said.startswith("the file shows a 7, ")
    assert "(1, 10) from version 2" in said


@pytest.mark.parametrize("number", range(4))
def test_clients_python(port: int, checkout: Path, number: int) -> None:
    """docs/how-to/call-a-server.md: our client, the pool, the generated stubs and thriftpy2 each see the 7."""
    examples = blocks("docs/how-to/call-a-server.md", "python")
    assert len(examples) == 4
    said = run_python(examples[number], port, checkout)
    assert re.search(r"\b7\b", said.splitlines()[0]), said
    if number == 0:
        assert "'digit'" in said and "False" in said


def test_server_types_are_described() -> None:
    """README's table and docs/reference/server-types.md have each server type once, the default first."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/reference/server-types.md").read_text(encoding="utf-8")
    default = HostSettings().server_type
    types = [default, *(each for each in SERVER_TYPES if each != default)]
    assert re.findall(r"^\| (T\w+)", readme, re.MULTILINE) == types
    assert re.findall(r"^## (T\w+)", page, re.MULTILINE) == types


def test_settings_named_in_server_types_exist() -> None:
    """Each setting that docs/reference/server-types.md names is in the table of settings."""
    page = (ROOT / "docs/reference/server-types.md").read_text(encoding="utf-8")
    table = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", page))
    assert named and named <= known, named - known


def test_make_targets_exist() -> None:
    """Each `make …` that a document names is a target."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^ {4}|make demo` and `)make (\w+)", text, re.MULTILINE))
        assert named <= targets, (document, named - targets)
    assert {"demo", "test", "serve"} <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Each relative link of a document leads to a file that is there."""
    page = ROOT / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [one for one in links if not (page.parent / one).exists()] == []
