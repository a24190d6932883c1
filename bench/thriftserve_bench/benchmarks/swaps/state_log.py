"""What a server says of its models' versions, followed as it says it.

its log  --lines {"event": "model_version_state", …}-->  Step  -->  when each version entered each state
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import IO

_MARK = '"event": "model_version_state"'
LOADING, AVAILABLE, UNLOADING, ENDED = "LOADING", "AVAILABLE", "UNLOADING", "ENDED"


class StateLog:
    """A server's log, read on as it grows; that costs the server nothing, as asking for the status would.

    Args:
        path: of the log; it is there.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open(encoding="utf-8", errors="replace")
        self._rest = ""
        #: By version, then state: when it was entered first, seconds since 1970.
        self.entered: defaultdict[int, dict[str, float]] = defaultdict(dict)
        #: Steps with an error: (version, message).
        self.errors: list[tuple[int, str]] = []

    def close(self) -> None:
        """Reads no more."""
        self._file.close()

    def read(self) -> None:
        """Takes what has been written since."""
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            if _MARK in line:
                self._take(json.loads(line[line.index("{") :]))

    def _take(self, step: dict[str, object]) -> None:
        version, state, at = int(str(step["version"])), str(step["state"]), float(str(step["at"]))
        self.entered[version].setdefault(state, at)
        if "error_message" in step:
            self.errors.append((version, str(step["error_message"])))

    def has(self, version: int, state: str) -> bool:
        """Whether a version has entered a state."""
        return state in self.entered.get(version, {})
