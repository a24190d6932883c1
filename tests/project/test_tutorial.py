"""docs/tutorial/first-model.md works as it is written: each step is run, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployed import wait_until
from documents import blocks, commands, run_client, run_python
from thriftserve_bench.processes import ServerProcess, clean_environment

PAGE = "docs/tutorial/first-model.md"


def moved(text: str, tmp_path: Path) -> str:
    """Return a command or example with the tutorial's directory replaced by the test's."""
    return text.replace("/tmp/first", str(tmp_path / "first"))


def save(example: str, directory: Path) -> None:
    """Run a block that saves a model; TensorFlow may write warnings of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([sys.executable, "-c", example], cwd=directory, env=environment, check=True, timeout=100)


@pytest.mark.timeout(400)  # it starts TensorFlow six times
def test_the_tutorial(tmp_path: Path) -> None:
    """A SavedModel is saved, checked, served, called and replaced by a new version; a Python class is served."""
    saves, calls, greeter = blocks(PAGE, "python")
    check, serve_line, serve_greeter = commands(PAGE, "thriftserve")
    call_line, call_greeter = commands(PAGE, "thriftserve-client")

    save(moved(saves, tmp_path), tmp_path)
    program = str(Path(sys.executable).with_name("thriftserve"))
    checked = subprocess.run(
        [program, *(moved(word, tmp_path) for word in check)], capture_output=True, text=True, timeout=100, check=True
    )
    assert "good: it can be served" in checked.stdout and "share runs" in checked.stdout

    with ServerProcess([*(moved(word, tmp_path) for word in serve_line[1:]), "--port", "0"]) as server:
        assert "2.5" in run_client(call_line, server.port, tmp_path)
        assert run_python(calls, server.port, tmp_path) == "[2.5 3.  4.5] from version 1\n"
        second = moved(saves, tmp_path).replace("Line(0.5)", "Line(10.0)").replace("line/1", "line/2")
        assert second != moved(saves, tmp_path)
        save(second, tmp_path)
        wait_until(
            lambda: run_python(calls, server.port, tmp_path) == "[12. 22. 52.] from version 2\n", "version 2 answers"
        )

    (tmp_path / "greeting.py").write_text(greeter, encoding="utf-8")
    environment = clean_environment() | {"PYTHONPATH": str(tmp_path)}
    with ServerProcess([*serve_greeter[1:], "--port", "0"], env=environment) as server:
        assert "hello Ada" in run_client(call_greeter, server.port, tmp_path)
