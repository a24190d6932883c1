"""`python examples/demo`; `make demo` and `make serve` run it.

argv  -->  story.run  -->  exit code
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

# This directory is a package of its parent, which no installation knows of.
sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from demo.model import TrainingFailed
from demo.options import Options, parse
from thriftserve_bench.processes import ServerFailed
from thriftserve_client import ThriftServeClientError

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; a failure is printed as one message, without a traceback."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is left running", file=sys.stderr)
        return _INTERRUPTED


def _run(options: Options) -> int:
    try:
        from rich.console import Console

        from demo import story
    except ModuleNotFoundError as error:
        return _failed(f"the demo needs {error.name}: pip install '.[server-cpu,bench]' in a checkout")
    try:
        return story.run(options, Console())
    except (TrainingFailed, ServerFailed, ThriftServeClientError, OSError) as error:
        return _failed(str(error))


def _failed(why: str) -> int:
    print(f"demo: {why}", file=sys.stderr)
    return 1


def _end(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that whatever was started is stopped on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
