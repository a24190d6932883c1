"""The examples that stand in our documents, so that tests can run them.

README.md, "python"  -->  the content of each fenced block of that language, in order
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The directory of the helper modules: what a child process of a test needs on its path.
SUPPORT = Path(__file__).parent
#: Stands in the documents where a test has another port.
_DOCUMENTED_PORT = re.compile(r"\b9090\b")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    """Each fenced block of a language in a document, which is named from the root of the project."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [content for found, content in _FENCE.findall(text) if found == language]


def commands(document: str, program: str) -> list[list[str]]:
    """Each command of the `sh` blocks that runs this program of the environment, as its arguments."""
    lines = [line for block in blocks(document, "sh") for line in block.replace("\\\n", " ").splitlines()]
    prefix = f".venv/bin/{program} "
    return [shlex.split(line.removeprefix(prefix), comments=True) for line in lines if line.startswith(prefix)]


def run_python(example: str, port: int, directory: Path) -> str:
    """Runs an example in a directory against a port.

    Returns:
        What it printed; it printed nothing to stderr and ended well.
    """
    code = _DOCUMENTED_PORT.sub(str(port), example)
    return _run([sys.executable, "-W", "error", "-c", code], directory)


def run_client(arguments: list[str], port: int, directory: Path) -> str:
    """Runs `thriftserve-client` likewise."""
    program = str(Path(sys.executable).with_name("thriftserve-client"))
    return _run([program, *(_DOCUMENTED_PORT.sub(str(port), one) for one in arguments)], directory, port)


def _run(command: list[str], directory: Path, port: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THRIFTSERVE_")}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment | ({"THRIFTSERVE_PORT": str(port)} if port else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), (command, done.stdout, done.stderr)
    return done.stdout
