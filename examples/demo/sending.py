"""PNG files go to the server and come back as digits.

files  --dealt to threads-->  one client and connection each  -->  classify  -->  Answer, in the files' order
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftserve_client import Client

#: A server that takes one connection at a time makes the others wait for their turn, and one that forks loads
#: the model for each of them: the first answer of a connection may take long.
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What the server answered for a file.

    Attributes:
        label: the best class.
        score: its probability.
        seconds: from the request to the answer, seen from here; the first of a connection includes connecting.
        first: whether it is its connection's first.
    """

    label: str
    score: float
    seconds: float
    first: bool


@dataclass(frozen=True)
class Sent:
    """All answers: `answers[i]` is that of file i; `seconds` for all of them together."""

    answers: tuple[Answer, ...]
    seconds: float


_Outcome = tuple[int, Answer] | Exception


class _Sender(threading.Thread):
    """One client with its share of the files. It ends with the process, should that not wait for it."""

    def __init__(
        self, host: str, port: int, share: Sequence[tuple[int, Path]], outcomes: queue.Queue[_Outcome]
    ) -> None:
        super().__init__(daemon=True)
        self._client = Client(host, port, timeout_s=TIMEOUT_S)
        self._share = share
        self._outcomes = outcomes
        self.stopped = threading.Event()

    def run(self) -> None:
        """Send its share, file by file."""
        try:
            with self._client as client:
                for turn, (place, file) in enumerate(self._share):
                    if self.stopped.is_set():
                        return
                    self._outcomes.put((place, _ask(client, file, first=turn == 0)))
        except Exception as error:  # the thread that waits for the answers raises it
            self._outcomes.put(error)


def _ask(client: Client, file: Path, first: bool) -> Answer:
    begun = time.perf_counter()
    best = client.classify("digits", file, top_k=1)[0][0]
    return Answer(best.label, best.score, time.perf_counter() - begun, first)


def send(host: str, port: int, files: Sequence[Path], clients: int, on_answer: Callable[[], None]) -> Sent:
    """Send each file once, over `clients` connections at a time.

    Args:
        host: of the server.
        port: of the server.
        files: PNG files; the same one may be there several times.
        clients: connections, each with a thread.
        on_answer: called after each answer, in the thread that called this.

    Raises:
        ThriftServeClientError: a call failed; the other clients stop.
    """
    outcomes: queue.Queue[_Outcome] = queue.Queue()
    numbered = list(enumerate(files))
    shares = [share for share in (numbered[first::clients] for first in range(clients)) if share]
    senders = [_Sender(host, port, share, outcomes) for share in shares]
    begun = time.perf_counter()
    try:
        for sender in senders:
            sender.start()
        answers: dict[int, Answer] = {}
        while len(answers) < len(files):
            outcome = outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            answers[outcome[0]] = outcome[1]
            on_answer()
        seconds = time.perf_counter() - begun
    finally:
        for sender in senders:
            sender.stopped.set()
    return Sent(tuple(answers[place] for place in range(len(files))), seconds)
