"""A worker process, from its fork to its end.

    fork --> own signals, tied to its parent's life --> prepare() --> ready --> run() --> exit code
    fork_away --> the same, as a child of an ancestor of the process that forked it

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
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol

from thriftserve.errors import ExitCode, StartError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Signals that a parent holds back while it forks, so that none reaches a child that has its parent's handlers.
FORK_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGQUIT))
#: How long the process between a worker and the one that forked it takes to end, about.
_ADOPTION_S = 0.0005
_LINE_BYTES = 4096


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
    """The child's end of the pipe on which its parent reads; without one nothing is said."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd

    def born(self) -> bool:
        """Says which process this is, where the parent did not fork it itself; False where nobody reads any more."""
        return self._say(f"born {os.getpid()}")

    def ready(self) -> None:
        """Every model is loaded; clients are taken."""
        self._say("ready")

    def failed(self, code: ExitCode, message: str) -> None:
        """It can't start; `message` is what the parent will say."""
        self._say(f"failed {int(code)} {' '.join(message.split())}")

    def stuck(self, pid: int, held_s: float) -> None:
        """Worker `pid` holds its requests longer than it may, for `held_s` seconds now: have it killed and replaced."""
        self._say(f"stuck {pid} {held_s:.3f}")

    def reload(self) -> None:
        """What is to be served has changed: have the workers replaced, one place after the other."""
        self._say("reload")

    def close(self) -> None:
        """Says nothing more."""
        os.close(self._fd)
        self._fd = -1

    def _say(self, line: str) -> bool:
        try:
            os.write(self._fd, line.encode()[: _LINE_BYTES - 1] + b"\n")  # so short that it comes in one piece
        except OSError:
            return False
        return True


def fork(main: Callable[[], int], on_term: Callable[[], None] | None = None) -> int:
    """Forks a child that runs `main` and ends with the exit code it returns.

    Args:
        main: runs in the child.
        on_term: what SIGTERM does in the child from its first moment on; None: it ends it.

    Returns:
        The child's pid.
    """
    parent = os.getpid()
    with _signals_held() as held:
        pid = os.fork()
        if pid == 0:
            _run_child(main, on_term, parent, held)
    return pid


def fork_away(main: Callable[[], int], parent: int) -> None:
    """Forks a process that runs `main` as a child of `parent`: an ancestor that adopts orphans.

    Raises:
        OSError: it can't be forked.
    """
    with _signals_held() as held:
        between = os.fork()
        if between == 0:
            _orphan(main, parent, held)
    os.waitpid(between, 0)


def _orphan(main: Callable[[], int], parent: int, held: set[signal.Signals | int]) -> NoReturn:
    """Forks the process that is meant, and ends: that makes it an orphan."""
    between = os.getpid()
    try:
        if os.fork() == 0:
            while os.getppid() == between:
                time.sleep(_ADOPTION_S)
            _run_child(main, None, parent, held)
    except OSError as error:
        log.error("a worker can't be forked: %s", error.strerror)
    finally:
        os._exit(ExitCode.OK)


def adopt_orphans(on: bool) -> None:
    """Whether descendants of this process become its children when their own parents end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on))


@contextlib.contextmanager
def _signals_held() -> Iterator[set[signal.Signals | int]]:
    """Around a fork: nothing is printed twice, and no signal reaches a child that has its parent's handlers."""
    sys.stdout.flush()
    sys.stderr.flush()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, FORK_SIGNALS)
    try:
        yield held
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


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
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(ExitCode.FORCED)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


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
