"""The program that fetches one model: python -m thriftserve.remote.fetch_agent

    stdin:  {"url": …, "target": "/fetched/digits/43", "sha256": …, "max_bytes": …, "timeout_s": …}      one command
    stdout: {"progress": "downloading 41.0 of 120.0 MiB (34 %)"}                       several a second
            {"landed": true} | {"error": [14, "…", retryable]}                         the last event

Unpacking takes memory and the interpreter; in a process of its own it takes nobody else's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thriftserve.errors import Code, InvalidArgument, ThriftServeError
from thriftserve.remote.agent import Parent, run_agent
from thriftserve.remote.fetch import fetch
from thriftserve.remote.limits import Limits, Progress
from thriftserve.remote.staging import StagingBusy
from thriftserve.repository import integrity

#: Seconds between two progress events.
_PROGRESS_EVERY_S = 0.2
#: How long it waits for a predecessor, whose controller was killed, to notice that and to end.
_PREDECESSOR_S = 30.0
_RETRY_S = 0.05
#: What unpacks to more than this many times the largest download is not a model of that size.
_UNPACKED_SHARE = 2


def check_saved_model(version: Path) -> None:
    """Check an unpacked model as the versions of a base path are checked.

    Raises:
        InvalidArgument: it is no SavedModel, or lacks a part.
    """
    fault = integrity.diagnose(version)
    if fault:
        raise InvalidArgument(f"it is no complete SavedModel: {fault}")


def main(parent: Parent) -> None:
    """Fetch what the first command asks for, and report how it ended."""
    command = parent.next_command()
    until = time.monotonic() + _PREDECESSOR_S
    try:
        while not _try_to_fetch(parent, command, last=time.monotonic() > until):
            time.sleep(_RETRY_S)
    except ThriftServeError as error:
        parent.report(error=[error.code, error.message, error.retryable])
    except Exception as error:
        parent.report(error=[Code.INTERNAL, f"the fetch failed with {type(error).__name__}: {error}", False])
        raise
    else:
        parent.report(landed=True)


def _try_to_fetch(parent: Parent, command: Mapping[str, Any], *, last: bool) -> bool:
    """Fetch; return False if another fetch has the target, unless this is the last try."""
    max_bytes = command["max_bytes"]
    try:
        fetch(
            command["url"],
            Path(command["target"]),
            check=check_saved_model,
            sha256=command["sha256"],
            limits=Limits(
                max_bytes=max_bytes, max_unpacked_bytes=_UNPACKED_SHARE * max_bytes, timeout_s=command["timeout_s"]
            ),
            progress=_ProgressReporter(parent),
        )
    except StagingBusy:
        if last:
            raise
        return False
    return True


class _ProgressReporter:
    """Reports progress to the parent, several times a second at most."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._reported_at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._reported_at > _PROGRESS_EVERY_S:
            self._reported_at = now
            self._parent.report(progress=str(progress))


if __name__ == "__main__":
    run_agent(main)
