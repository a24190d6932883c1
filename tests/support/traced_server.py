"""`thriftserve serve` that notes which of our source files a request runs through.

python traced_server.py DIRECTORY serve …  -->  DIRECTORY/PID: a line for each file that ran while armed

It is armed while DIRECTORY/armed exists.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from thriftserve.cli import main

OURS = ("/server/thriftserve/", "/client/thriftserve_client/")


def trace_into(directory: Path) -> None:
    """Profile this thread, later threads and forked children; note each file's first call while armed."""
    armed = str(directory / "armed")
    seen: set[tuple[int, str]] = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        name = frame.f_code.co_filename
        key = (os.getpid(), name)
        if event != "call" or key in seen or not any(part in name for part in OURS) or not os.path.exists(armed):
            return
        seen.add(key)
        with open(directory / str(os.getpid()), "a", encoding="utf-8") as file:
            file.write(f"{name}\n")

    sys.setprofile(note)
    threading.setprofile(note)


if __name__ == "__main__":
    trace_into(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
