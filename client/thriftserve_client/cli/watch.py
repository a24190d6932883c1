"""Show the progress of a load until it is done.

Control.status, repeatedly --follow--> a line for each step, overwritten in place on a terminal --> success?
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import Namespace
from dataclasses import asdict

from thriftserve_client.cli.commands import failure
from thriftserve_client.control import Control
from thriftserve_client.results import ModelStatus, VersionStatus

#: Seconds between two calls.
_POLL_S = 0.2
#: Moves the cursor to the line's beginning and clears the line.
_CLEAR_LINE = "\r\x1b[K"


def follow(control: Control, arguments: Namespace, begun: ModelStatus) -> bool:
    """Show a version's steps until it serves or has ended.

    Args:
        control: the server.
        arguments: of the command `load`.
        begun: the result of loadModel.

    Returns:
        Whether the version serves.
    """
    version = arguments.version if arguments.version is not None else _loading_version(begun)
    lines = _Lines(arguments)
    try:
        while True:
            status = _status_of(control.status(arguments.model), version)
            lines.show(status)
            if status.state in ("AVAILABLE", "END"):
                return status.state == "AVAILABLE"
            time.sleep(_POLL_S)
    finally:
        lines.end()


def _loading_version(begun: ModelStatus) -> int:
    """Return the version that a load without a version has begun, or the served one if there was nothing to do."""
    for state in ("START", "LOADING", "AVAILABLE"):
        versions = [version.version for version in begun.versions if version.state == state]
        if versions:
            return max(versions)
    return max(version.version for version in begun.versions)


def _status_of(model: ModelStatus, version: int) -> VersionStatus:
    """Return a version's status; END if the server does not know the version any more."""
    return next((status for status in model.versions if status.version == version), VersionStatus(version, "END"))


class _Lines:
    """Prints a version's steps, each once; on a terminal the progress of a step is overwritten in place."""

    def __init__(self, arguments: Namespace) -> None:
        self._model = arguments.model
        self._json = arguments.json
        self._in_place = not arguments.json and sys.stdout.isatty()
        self._shown: VersionStatus | None = None

    def show(self, status: VersionStatus) -> None:
        if status == self._shown:
            return
        same_step = self._shown is not None and self._shown.state == status.state
        if self._in_place:
            sys.stdout.write(_CLEAR_LINE if same_step else "\n" if self._shown is not None else "")
        self._shown = status
        sys.stdout.write(self._line(status) + ("" if self._in_place else "\n"))
        sys.stdout.flush()

    def end(self) -> None:
        if self._in_place and self._shown is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _line(self, status: VersionStatus) -> str:
        if self._json:
            return json.dumps({"name": self._model, **asdict(status)})
        line = f"{self._model} {status.version}  {status.state:9}  {failure(status) or status.note}".rstrip()
        # A line that is overwritten must fit into one line of the terminal.
        return line if failure(status) or not self._in_place else line[: shutil.get_terminal_size().columns - 1]
