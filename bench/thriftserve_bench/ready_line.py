"""The line by which a server says that it is ready.

stdout of a server  -->  "thriftserve ready host=127.0.0.1 port=9090 pid=4711"  -->  {"host": "127.0.0.1", …}
"""

from __future__ import annotations

import os
import re
import select
import time
from typing import IO

_READY = re.compile(rb"^\S+ ready((?: [a-z_]+=\S+)*)$")
_CHUNK = 65536


def wait_for_ready(stdout: IO[bytes], until: float) -> dict[str, str] | None:
    """Reads a pipe up to the ready line; lines before it are passed over.

    Args:
        stdout: the pipe.
        until: when to give up, monotonic seconds.

    Returns:
        Every name=value of the line; None where the pipe ended, or time was over, before it came.
    """
    poll = select.poll()
    poll.register(stdout, select.POLLIN)
    pending = b""
    while (left_s := until - time.monotonic()) > 0:
        if not poll.poll(left_s * 1000):
            continue
        read = os.read(stdout.fileno(), _CHUNK)
        if not read:
            return None
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            found = _parsed(line)
            if found is not None:
                return found
    return None


def _parsed(line: bytes) -> dict[str, str] | None:
    match = _READY.match(line.rstrip())
    if match is None:
        return None
    return dict(pair.split("=", 1) for pair in match[1].decode().split())
