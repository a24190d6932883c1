"""The program that fetches one model, in a process of its own: python -m thriftserve.controller.fetch_agent

    stdin:  {"url": …, "target": "/fetched/digits/43", "sha256": …, "max_bytes": …, "timeout_s": …}      one line
    stdout: {"progress": "downloading 41.0 of 120.0 MiB (34 %)"}                       several a second
            {"log": 20, "message": "…"}                                                what there is to log
            {"landed": true} | {"error": [14, "…", retryable]}                         the last line

Unpacking takes memory and the interpreter, and may be killed at any moment without harm: here that is nobody else's.
It ends with its stdin, so it outlives nobody.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from thriftserve.errors import Code, InvalidArgument, ThriftServeError
from thriftserve.files import CorruptFile
from thriftserve.remote import Limits, Progress, fetch
from thriftserve.repository import integrity

#: Progress is told so often.
_TELL_S = 0.2
_NICE = 5
#: What unpacks to more than this many times the largest download is not a model of that size.
_UNPACKED_SHARE = 2

log = logging.getLogger(__name__)


def whole(version: Path) -> None:
    """Holds what was unpacked to what a base path's versions are held to.

    Raises:
        InvalidArgument: it is no SavedModel, or lacks a part.
    """
    try:
        fault = integrity.find_fault(version, integrity.scan(version))
    except CorruptFile as error:
        fault = str(error)
    if fault:
        raise InvalidArgument(f"it is no whole SavedModel: {fault}")


class _Speaker:
    """Writes lines to whoever started this program."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._writing = threading.Lock()
        self._told_at = 0.0

    def say(self, **content: Any) -> None:
        with self._writing:
            self._out.write(json.dumps(content) + "\n")
            self._out.flush()

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told_at > _TELL_S:
            self._told_at = now
            self.say(progress=str(progress))


class _Upward(logging.Handler):
    """Has log records written by the process that reads this one's output: it knows how the server logs."""

    def __init__(self, speaker: _Speaker) -> None:
        super().__init__(logging.INFO)
        self._speaker = speaker

    def emit(self, record: logging.LogRecord) -> None:
        self._speaker.say(log=record.levelno, message=record.getMessage())


def main() -> None:
    """Fetches what stdin says."""
    os.nice(_NICE)
    speaker = _Speaker(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # what a library prints is no report
    logging.basicConfig(level=logging.INFO, handlers=[_Upward(speaker)])
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        _fetch(request, speaker)
        speaker.say(landed=True)
    except ThriftServeError as error:
        speaker.say(error=[error.code, error.message, error.retryable])
    except Exception as error:  # not foreseen: told in a line, and what its mending needs stands on stderr
        speaker.say(error=[Code.INTERNAL, f"the fetch failed with {type(error).__name__}: {error}", False])
        raise
    # Not by the interpreter's own end: the thread still waits for stdin.
    os._exit(0)


def _fetch(request: Mapping[str, Any], speaker: _Speaker) -> None:
    most = request["max_bytes"]
    limits = Limits(max_bytes=most, max_unpacked_bytes=_UNPACKED_SHARE * most, timeout_s=request["timeout_s"])
    target, sha256 = Path(request["target"]), request["sha256"]
    fetch(request["url"], target, check=whole, sha256=sha256, limits=limits, progress=speaker.progress)


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
