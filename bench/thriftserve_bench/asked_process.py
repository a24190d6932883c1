"""A process that answers questions, one line of JSON each.

ask(order)  --stdin of `python -m MODULE`-->  it works  --stdout-->  answer
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any


class ProcessEnded(Exception):
    """It ended instead of answering."""


class AskedProcess:
    """A process of our own, from its construction until `close`.

    It leads a session of its own: Ctrl-C in the terminal reaches whoever asks, who then closes it.

    Args:
        module: what to run; it reads its orders with `answer_orders`.
        arguments: of its command line.
        python: the interpreter: another environment's, where it needs what is installed there.
    """

    def __init__(self, module: str, arguments: Sequence[str] = (), python: str = sys.executable) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, order: dict[str, Any]) -> Any:
        """Has it carry out one order; waits for the answer.

        Raises:
            ProcessEnded: it has ended.
        """
        try:
            print(json.dumps(order), file=_pipe(self._process.stdin), flush=True)
            line = _pipe(self._process.stdout).readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ProcessEnded(f"{self._module} ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def answer_orders(answer: Callable[[Any], Any]) -> None:
    """The asked process's side: answers every order until there are no more."""
    while line := sys.stdin.readline():
        print(json.dumps(answer(json.loads(line)), separators=(",", ":")), flush=True)
