"""A worker process, from its fork to its end.

    fork --> own signals, tied to its parent's life --> prepare() --> ready --> run() --> exit code

What may be done before the fork: import modules (TensorFlow too), bind sockets, read settings. What may
not: start a thread, create a tensor or a session. A forked TensorFlow that was used hangs in its first
operation, and a lock that another thread held at the fork is held for ever.

The child never returns into its parent's code: it ends by `os._exit`, so that no `finally` of the
parent's and no exit hook runs twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, Protocol

from thriftserve.errors import ExitCode, StartError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
#: Signals that a parent holds back while it forks, so that none reaches a child that has its parent's handlers.
FORK_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGQUIT))


class Loop(Protocol):
    """What a worker runs; each server type has its own."""

    def prepare(self) -> None:
        """Loads what is served.

        Raises:
            StartError: it can't be.
        """

    def run(self) -> None:
        """Serves until `drain` was called and everything in hand is answered."""

    def drain(self) -> None:
        """Take nothing new, finish what is in hand. Called from a signal handler: must not block."""


class Report:
    """The child's end of the pipe on which its parent waits."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def ready(self) -> None:
        """Every model is loaded; clients are taken."""
        os.write(self._fd, b"ready\n")

    def failed(self, code: ExitCode, message: str) -> None:
        """It can't start; `message` is what the parent will say."""
        with contextlib.suppress(OSError):
            os.write(self._fd, f"failed {int(code)} {' '.join(message.split())}\n".encode()[:4096])


def fork(main: Callable[[], int], on_term: Callable[[], None] | None = None) -> int:
    """Forks a child that runs `main` and ends with the exit code it returns.

    Args:
        main: runs in the child.
        on_term: what SIGTERM does in the child from its first moment on; None: it ends it.

    Returns:
        The child's pid.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, FORK_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(main, on_term, parent, held)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return pid


def _run_child(
    main: Callable[[], int], on_term: Callable[[], None] | None, parent: int, held: set[signal.Signals | int]
) -> NoReturn:
    code: int = ExitCode.INTERNAL
    try:
        signal.set_wakeup_fd(-1)
        faulthandler.unregister(signal.SIGUSR1)  # or what it does here would be the parent's
        for each in FORK_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if on_term is not None:
            signal.signal(signal.SIGTERM, lambda *_: on_term())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else ExitCode.INTERNAL
    except BaseException:
        log.exception("worker %d failed", os.getpid())
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the one that forked it ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(ExitCode.FORCED)


def serve(loop: Loop, report: Report, listen: Callable[[], None]) -> int:
    """Runs a worker's loop to its end.

    Returns:
        The exit code.
    """
    # Until there is something to drain, SIGTERM just ends the process.
    try:
        loop.prepare()
        gc.collect()
        gc.freeze()  # the collector need not walk what was loaded, over and over
        signal.signal(signal.SIGTERM, lambda *_: loop.drain())
        listen()
        report.ready()
    except StartError as error:
        report.failed(error.exit_code, error.message)
        return error.exit_code
    except Exception as error:
        log.exception("the worker can't start")
        report.failed(ExitCode.INTERNAL, f"{type(error).__name__}: {error}")
        return ExitCode.INTERNAL
    loop.run()
    return ExitCode.OK
