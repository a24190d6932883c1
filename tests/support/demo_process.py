"""The demo as its users run it: a process of its own, with one directory for all tests that need its model.

arguments  --DEMO-->  process  -->  exit code, what it said, what it left behind
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from demo.digits import RECIPE_FILE
from documents import ROOT

DEMO = [sys.executable, str(ROOT / "examples" / "demo")]


def environment() -> dict[str, str]:
    """This process's, without settings of the server and without make."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("THRIFTSERVE_", "MAKE"))}


def demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        [*DEMO, "--directory", str(directory), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@cache
def trained() -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A directory where the demo has run once, and what it said then. Do not change its model.

    Version 1 was there before, made by another recipe: the demo's own is version 2. Several pytest processes of one
    run share it: the first one trains, the others wait; the last one clears away.
    """
    place = Path(tempfile.gettempdir()) / f"thriftserve-demo-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    place.mkdir(exist_ok=True)
    told = place / "told.json"
    with _alone(place):
        (place / f"{os.getpid()}.user").touch()
        atexit.register(_clear_away, place)
        if not told.exists():
            done = _first_run(place / "demo")
            told.write_text(json.dumps([done.returncode, done.stdout, done.stderr]), encoding="utf-8")
    return place / "demo", subprocess.CompletedProcess(DEMO, *json.loads(told.read_text(encoding="utf-8")))


def _first_run(directory: Path) -> subprocess.CompletedProcess[str]:
    old = directory / "models" / "digits" / "1" / RECIPE_FILE
    old.parent.mkdir(parents=True)
    old.write_text("0\n", encoding="utf-8")
    return demo(directory, "--rounds", "1")


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    with place.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _clear_away(place: Path) -> None:
    with _alone(place):
        (place / f"{os.getpid()}.user").unlink(missing_ok=True)
        if not list(place.glob("*.user")):
            shutil.rmtree(place, ignore_errors=True)
            place.with_suffix(".lock").unlink(missing_ok=True)


def left_behind(directory: Path) -> list[str]:
    """Command lines of the processes that still mention a directory; zombies do not count."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(directory) in line and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(line)
    return found
