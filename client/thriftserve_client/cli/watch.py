"""What becomes of a load, shown until it is done.

Control.status, again and again  --follow-->  a line for each step, in its own place on a terminal  -->  has it worked?
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import Namespace
from dataclasses import asdict

from thriftserve_client.control import Control
from thriftserve_client.results import ModelStatus, VersionStatus

_LOOK_S = 0.2
#: Takes the cursor to the line's begin and clears it.
_AGAIN = "\r\x1b[K"


def follow(control: Control, arguments: Namespace, begun: ModelStatus) -> bool:
    """Shows a version's steps until it answers requests, or has ended.

    Args:
        begun: what loadModel answered.

    Returns:
        Whether it answers requests.
    """
    version = arguments.version if arguments.version is not None else _asked_for(begun)
    lines = _Lines(arguments)
    try:
        while True:
            one = _of(control.status(arguments.model), version)
            lines.show(one)
            if one.state in ("AVAILABLE", "END"):
                return one.state == "AVAILABLE"
            time.sleep(_LOOK_S)
    finally:
        lines.end()


def _asked_for(begun: ModelStatus) -> int:
    """The version that a load which named none has begun; where it had nothing to begin, the one that is served."""
    for state in ("START", "LOADING", "AVAILABLE"):
        found = [one.version for one in begun.versions if one.state == state]
        if found:
            return max(found)
    return max(one.version for one in begun.versions)


def _of(status: ModelStatus, version: int) -> VersionStatus:
    """That version; as ended where nothing is known of it any more."""
    return next((one for one in status.versions if one.version == version), VersionStatus(version, "END"))


class _Lines:
    """What is shown of one version: each step once, and how far it is where that can be seen."""

    def __init__(self, arguments: Namespace) -> None:
        self._model = arguments.model
        self._json = arguments.json
        self._in_place = not arguments.json and sys.stdout.isatty()
        self._shown: VersionStatus | None = None

    def show(self, one: VersionStatus) -> None:
        if one == self._shown:
            return
        same_step = self._shown is not None and self._shown.state == one.state
        if self._in_place:
            sys.stdout.write(_AGAIN if same_step else "\n" if self._shown is not None else "")
        self._shown = one
        sys.stdout.write(self._line(one) + ("" if self._in_place else "\n"))
        sys.stdout.flush()

    def end(self) -> None:
        if self._in_place and self._shown is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _line(self, one: VersionStatus) -> str:
        if self._json:
            return json.dumps({"name": self._model, **asdict(one)})
        failure = f"{one.error}: {one.error_message}" if one.error else one.error_message
        line = f"{self._model} {one.version}  {one.state:9}  {failure or one.note}".rstrip()
        # What is written over must fit into one line of the terminal.
        return line if failure or not self._in_place else line[: shutil.get_terminal_size().columns - 1]
