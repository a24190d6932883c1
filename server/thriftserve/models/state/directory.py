"""The directory in which a server keeps what its processes tell each other of models.

    StateDir/plan.json  state.json  labels.json  wishes.json  keeper.json  attempts/PID.json  unmerged/PID-N.json

A file is written beside its place and renamed: whoever reads one finds it whole, and so does a restart after kill -9.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thriftserve.errors import ConfigError
from thriftserve.files import write_whole


class StateDir:
    """Such a directory.

    Args:
        path: of the directory; what is missing of it is made by `prepare`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels_file = path / "labels.json"
        self._attempts = path / "attempts"
        #: What workers tell of models whose requests must not share runs.
        self.unmerged = path / "unmerged"

    def prepare(self) -> None:
        """Makes it, without what a server before this one left of its processes; labels and operators' wishes stay.

        Raises:
            ConfigError: it can't be written.
        """
        try:
            for directory in (self._attempts, self.unmerged):
                directory.mkdir(parents=True, exist_ok=True)
            old = (self.path / f"{name}.json" for name in ("plan", "keeper"))
            for stale in (*self._attempts.iterdir(), *self.unmerged.iterdir(), *old):
                stale.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"state_dir is {str(self.path)!r}: it can't be used: {error.strerror}") from error

    def write(self, name: str, content: Any, *, durable: bool = True, mode: int | None = None) -> None:
        """Puts `content` into NAME.json, whole or not at all; `durable`: also where the machine fails.

        Args:
            mode: the file's permissions; None: those of any new file.
        """
        write_whole(self.path / f"{name}.json", json.dumps(content, indent=1), durable=durable, mode=mode)

    def read(self, name: str) -> Any:
        """What is in NAME.json; None where there is no such file, or none that can be read."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        return None

    def attempts(self) -> Iterator[tuple[int, Any]]:
        """(pid, content) of what each worker wrote of its loading."""
        for path in sorted(self._attempts.glob("*.json")):
            if path.stem.isdigit() and (content := self.read(f"attempts/{path.stem}")) is not None:
                yield int(path.stem), content

    def forget_attempt(self, pid: int) -> None:
        """A worker's loading has been dealt with."""
        (self._attempts / f"{pid}.json").unlink(missing_ok=True)
