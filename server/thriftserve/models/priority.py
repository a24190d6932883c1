"""Loading that leaves the processor to those that serve.

    in_background(True): every thread of this process  --nice-->  load  --nice 0 again-->  serve

Linux keeps a nice value for each thread, and a new one has that of the thread which started it. Whoever may not take
the value back (most who are not root) stays as he is: threads that were made while loading would serve slowly for good.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_NICE = 10


@contextlib.contextmanager
def in_background(wanted: bool) -> Iterator[None]:
    """While entered, this process's threads have a low priority, where they can have their old one back."""
    if not wanted or not _may_return():
        yield
        return
    own = os.getpriority(os.PRIO_PROCESS, 0)
    _set_all(own + _NICE)
    try:
        yield
    finally:
        _set_all(own)


def _set_all(nice: int) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)


def _may_return() -> bool:
    """Whether a lower priority can be taken back; tried by a thread that does nothing else."""
    answers: list[bool] = []

    def attempt() -> None:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + 1)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own)
        except OSError:
            answers.append(False)
        else:
            answers.append(True)

    trial = threading.Thread(target=attempt)
    trial.start()
    trial.join()
    return answers == [True]
