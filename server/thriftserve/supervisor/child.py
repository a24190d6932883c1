"""A child process, from its fork to its end.

    fork         -->  own signals, tied to its parent's life  -->  run_loop: prepare(), ready, run()  -->  exit code
    double_fork  -->  the same, as a child of an ancestor of the process that forks
    SignalQueue  -->  signals as bytes of a pipe, for a main loop to read

Before a fork a process may import modules (also TensorFlow), bind sockets and read settings. It must not start a
thread, create a tensor or a session: a TensorFlow that was used before the fork hangs in its first operation, and a
lock that another thread held at the fork is held forever.

The child never returns into its parent's code. It ends by `os._exit`, so that no `finally` block and no exit hook of
the parent runs twice.
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
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol

from thriftserve.errors import ExitCode, StartError

#: Blocked around a fork, so that none of them reaches a child that still has its parent's handlers.
FORK_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGQUIT))
#: How often an orphan checks whether its new parent has adopted it. The process between them ends within about this.
_ADOPTION_POLL_S = 0.0005
#: The longest report. A write of up to PIPE_BUF (4096) bytes to a pipe is atomic: pipe(7).
_REPORT_BYTES = 4096


class Loop(Protocol):
    """What a child process runs. Each server type has its own."""

    def prepare(self) -> None:
        """Load everything that `run` needs.

        Raises:
            StartError: that is impossible.
        """

    def run(self) -> None:
        """Serve until `drain` was called and every accepted request is answered."""

    def drain(self) -> None:
        """Accept nothing new and finish what was accepted. Called from a signal handler: must not block."""


class Report:
    """The child's end of the pipe to its supervisor: one line a message. `Worker.read_report` is the other end.

    Without a pipe (`fd` < 0), or when nobody reads it any more, messages are dropped.
    """

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd

    def spawned(self) -> bool:
        """Report the pid of a process that the supervisor did not fork itself. Return False if nobody reads it."""
        return self._write(f"spawned {os.getpid()}")

    def ready(self) -> None:
        """Report that this process has loaded everything and serves."""
        self._write("ready")

    def failed(self, code: ExitCode, message: str) -> None:
        """Report why this process can't start. The supervisor logs `message`."""
        self._write(f"failed {int(code)} {' '.join(message.split())}")

    def stuck(self, pid: int, held_s: float) -> None:
        """Report that worker `pid` has had its requests for `held_s` seconds, longer than allowed: it gets killed."""
        self._write(f"stuck {pid} {held_s:.3f}")

    def request_reload(self) -> None:
        """Ask the supervisor to replace the workers, one slot after the other."""
        self._write("reload")

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._fd)
        self._fd = -1

    def _write(self, line: str) -> bool:
        try:
            os.write(self._fd, line.encode()[: _REPORT_BYTES - 1] + b"\n")
        except OSError:
            return False
        return True


def fork(main: Callable[[], int], on_term: Callable[[], None] | None = None) -> int:
    """Fork a child that runs `main` and ends with the exit code that it returns.

    Args:
        main: runs in the child.
        on_term: what SIGTERM does in the child from its first moment on. None: it ends the child.

    Returns:
        The pid of the child.
    """
    parent = os.getpid()
    with _signals_blocked() as old_mask:
        pid = os.fork()
        if pid == 0:
            _run_child(main, on_term, parent, old_mask)
    return pid


def double_fork(main: Callable[[], int], parent: int) -> None:
    """Fork a process that runs `main` as a child of `parent`, an ancestor that adopts orphans.

    Raises:
        OSError: the fork failed.
    """
    with _signals_blocked() as old_mask:
        middle = os.fork()
        if middle == 0:
            _fork_orphan(main, parent, old_mask)
    os.waitpid(middle, 0)


def adopt_orphans(on: bool) -> None:
    """Set whether descendants of this process become its children when their own parents end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends for whatever reason."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(ExitCode.FORCED)


def run_loop(loop: Loop, report: Report, listen: Callable[[], None]) -> int:
    """Run a loop to its end, in its own process.

    Args:
        loop: what to run.
        report: tells the supervisor when the loop is ready, or why it can't start.
        listen: called when the loop is prepared, before it is reported as ready.

    Returns:
        The exit code.
    """
    # Until the loop is prepared there is nothing to drain, and SIGTERM just ends the process.
    try:
        loop.prepare()
        gc.collect()
        gc.freeze()  # keeps the collector from walking over what was loaded again and again
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


@contextlib.contextmanager
def _signals_blocked() -> Iterator[set[signal.Signals | int]]:
    """Block FORK_SIGNALS around a fork, with empty output buffers so that nothing is printed twice."""
    sys.stdout.flush()
    sys.stderr.flush()
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORK_SIGNALS)
    try:
        yield old_mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _fork_orphan(main: Callable[[], int], parent: int, old_mask: set[signal.Signals | int]) -> NoReturn:
    """Fork the process that runs `main`, and end: that makes it an orphan."""
    middle = os.getpid()
    try:
        if os.fork() == 0:
            while os.getppid() == middle:
                time.sleep(_ADOPTION_POLL_S)
            _run_child(main, None, parent, old_mask)
    except OSError as error:
        log.error("can't fork a worker: %s", error.strerror)
    finally:
        os._exit(ExitCode.OK)


def _run_child(
    main: Callable[[], int], on_term: Callable[[], None] | None, parent: int, old_mask: set[signal.Signals | int]
) -> NoReturn:
    code: int = ExitCode.INTERNAL
    try:
        signal.set_wakeup_fd(-1)
        faulthandler.unregister(signal.SIGUSR1)  # drops the parent's handler, which this one would chain to
        for number in FORK_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if on_term is not None:
            signal.signal(signal.SIGTERM, lambda *_: on_term())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        print_stacks_on_sigusr1()
        die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
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


def print_stacks_on_sigusr1() -> None:
    """Have SIGUSR1 write stacks to stderr: the main thread's at once, whatever it does, then those of all threads.

    The second part is Python code that runs when the main thread does, with the interpreter lock. Reading the stacks of
    threads that run meanwhile, as faulthandler can, ended one worker of ten that were asked under load.
    """
    signal.signal(signal.SIGUSR1, lambda *_: faulthandler.dump_traceback(all_threads=True))
    faulthandler.register(signal.SIGUSR1, all_threads=False, chain=True)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class SignalQueue:
    """A context manager that queues the process's signals, and restores their handlers at its end.

    Enter it in the main thread. SIGUSR1 also prints the stacks of all threads to stderr.

    Attributes:
        fd: readable when the queue has signals.
        writer: the other end of the pipe. A child process has no use for either.
    """

    def __enter__(self) -> SignalQueue:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("run a server in the main thread: it handles the signals of the process")
        self.fd, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_fd = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self._old_handlers: dict[int, Any] = {number: signal.signal(number, _ignore) for number in HANDLED}
        print_stacks_on_sigusr1()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.unregister(signal.SIGUSR1)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self.fd)
        os.close(self.writer)

    def take(self) -> list[int]:
        """Remove and return the signals that have arrived."""
        numbers: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 256):
                numbers.extend(number for number in data if number in HANDLED)
        return numbers


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. Python writes to the wake-up pipe only for signals that have a Python handler."""


log = logging.getLogger(__name__)

#: Options of prctl(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
