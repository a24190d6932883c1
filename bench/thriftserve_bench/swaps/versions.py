"""Versions of one model, each with an answer of its own, and the base path that they appear in.

    make_versions (a process with TensorFlow)  -->  store/1, store/2, …  --land: copy, rename-->  BASE/1, BASE/2, …

Version v answers x/2 + v: whoever has an answer can tell which version gave it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from thriftserve_bench.server_process import clean_environment

#: The model's name at every server.
MODEL = "half"
_BUILD_TIMEOUT_S = 600.0


class VersionsNotMade(Exception):
    """The models could not be built; the message ends in what the builder said."""


def make(store: Path, count: int) -> None:
    """Builds versions 1 to `count` into `store`.

    Raises:
        VersionsNotMade: TensorFlow is not there, or the disk is full.
    """
    command = [sys.executable, "-m", "thriftserve_bench.swaps.make_versions", str(store), str(count)]
    made = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
    )
    if made.returncode:
        raise VersionsNotMade(f"the models could not be built:\n{made.stderr.strip()}")


class Versions:
    """A base path whose versions come and go.

    Args:
        store: what `make` has filled.
        base: the base path; it is made, with version 1 in it.
    """

    def __init__(self, store: Path, base: Path) -> None:
        self._store = store
        self.base = base
        self.newest = 0
        base.mkdir(parents=True)
        self.land()

    def land(self) -> int:
        """Puts the next version there, whole at once, as docs/reference/models.md has it; returns its number."""
        version = self.newest + 1
        beside = self.base / f"{version}.tmp"
        shutil.copytree(self._store / str(version), beside)
        beside.rename(self.base / str(version))
        self.newest = version
        return version

    def remove(self, version: int) -> None:
        """Takes one away that is served no more."""
        shutil.rmtree(self.base / str(version))
