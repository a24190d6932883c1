"""A server of small loops that answer questions about their own process, under a real arbiter.

python -m supervised_server FOLDER PRELOAD  -->  "ready"  -->  ask(FOLDER/NAME-INDEX-PID, "facts")

Files in the folder steer it: `hold-NAME` keeps a group from ending, `crash-NAME` crashes it while it starts.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError
from thriftserve.models.tensorflow.preload import preload
from thriftserve.status import WorkerPhase
from thriftserve.supervisor.arbiter import Arbiter
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.scoreboard import Scoreboard
from thriftserve.supervisor.worker_group import WorkerGroup

#: A module that only the light preload imports.
MODULE = "wave"
FRONTS, WORKERS = 1, 2
_TICK_S = 0.02


class Talker:
    """A loop that answers on a Unix socket named after its process."""

    def __init__(self, folder: Path, name: str, context: WorkerContext) -> None:
        self._folder = folder
        self._name = name
        self._context = context
        self._draining = False

    def prepare(self) -> None:
        if (self._folder / f"crash-{self._name}").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(self._folder / f"{self._name}-{self._context.index}-{os.getpid()}"))
        self._sock.listen()
        self._context.set_phase(WorkerPhase.IDLE)

    def run(self) -> None:
        while not self._draining or (self._folder / f"hold-{self._name}").exists():
            if select.select([self._sock], [], [], _TICK_S)[0]:
                peer, _ = self._sock.accept()
                with peer:
                    word, *rest = peer.recv(1000).decode().split()
                    peer.sendall(json.dumps(getattr(self, f"on_{word}")(*rest)).encode())
        with (self._folder / "ends").open("a") as ends:
            ends.write(f"{self._name} {self._context.board.stopping}\n")

    def drain(self) -> None:
        self._draining = True

    def on_facts(self) -> dict[str, Any]:
        """Return the process's parent, what it has of the fork server's imports, and its descriptors."""
        descriptors = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        maps = Path("/proc/self/maps").read_text()
        return {
            "ppid": os.getppid(),
            "modules": [name for name in (MODULE, "tensorflow") if name in sys.modules],
            "maps_tensorflow": "tensorflow" in maps,
            "draining": self._draining,
            # The descriptor that listed the others is closed.
            "descriptors": sorted(
                f"{fd.name} {fd.readlink().name.partition(':')[0]}" for fd in descriptors if fd.is_symlink()
            ),
        }

    def on_request(self) -> None:
        """Count a request as answered."""
        self._context.counters.begin_request()
        self._context.counters.end_request()

    def on_report_stuck(self, pid: str) -> None:
        """Report a process as stuck."""
        self._context.report.stuck(int(pid), 1.5)

    def on_orphan(self) -> int:
        """Start a process whose parent ends at once; return its pid."""
        command = "read x & echo $!"
        done = subprocess.run(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=True)
        return int(done.stdout)

    def on_compute(self) -> float:
        """Run an operation of TensorFlow."""
        tensorflow = importlib.import_module("tensorflow")
        return float(tensorflow.reduce_sum(tensorflow.ones([3])))


def ask(path: Path, question: str) -> Any:
    """Return what a process answers to a question."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(question.encode())
        with sock.makefile() as answer:
            return json.loads(answer.read())


def _light(folder: Path) -> None:
    with (folder / "preloads").open("a") as preloads:
        preloads.write(f"{os.getpid()}\n")
    importlib.import_module(MODULE)


def _gated(folder: Path) -> None:
    (folder / "gate").read_bytes()


def _tensorflow(folder: Path) -> None:
    preload()


def _missing(folder: Path) -> None:
    importlib.import_module("no_such_module")


def _refused(folder: Path) -> None:
    raise ModelLoadError("there is nothing to serve")


PRELOADS: dict[str, Callable[[Path], None]] = {
    "light": _light,
    "gated": _gated,
    "tensorflow": _tensorflow,
    "missing": _missing,
    "refused": _refused,
}


def main() -> int:
    """Serve until a signal ends the server."""
    folder, preload = Path(sys.argv[1]), PRELOADS[sys.argv[2]]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    groups = [
        WorkerGroup("front", FRONTS, lambda context: Talker(folder, "front", context)),
        WorkerGroup(
            "worker",
            WORKERS,
            lambda context: Talker(folder, "worker", context),
            preload=lambda: preload(folder),
            drain_order=1,
        ),
    ]
    board = Scoreboard("TBatchingServer", 2 * (FRONTS + WORKERS))
    return Arbiter(groups, board, drain_timeout_s=20, on_ready=lambda: print("ready", flush=True)).run()


if __name__ == "__main__":
    sys.exit(main())
