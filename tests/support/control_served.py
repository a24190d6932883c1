"""A real server with a control port, and what an operator sees of it.

Controlled(base, …)  -->  operator.load(…)  -->  state(version), waited for
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from served import Served
from thriftserve_client.control import Control
from thriftserve_client.results import VersionStatus

QUICK = ("--file-system-poll-s", "0.1", "--load-retry-interval-s", "0.2", "--workers", "1", "--no-warmup")


def wait_until(true: Callable[[], bool]) -> None:
    """Waits for something that has to happen; pytest's own time-out is the limit."""
    while not true():
        time.sleep(0.02)


class Controlled:
    """A server of the model "half", its operator and its log.

    Args:
        base: the base path of "half".
        state: its state directory, where a later one goes on.
    """

    def __init__(self, base: Path, state: Path, *more: str) -> None:
        self.state_dir = state
        self.server = Served("--model", f"half={base}", "--control-port", "0", "--state-dir", str(state), *QUICK, *more)
        self.operator: Control

    def __enter__(self) -> Controlled:
        self.server.__enter__()
        self.operator = Control("127.0.0.1", self.server.control_port, timeout_s=30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.operator.close()
        self.server.__exit__(kind, error, at)

    def version(self, number: int, model: str = "half") -> VersionStatus:
        """What a client is told of a version; as "" where that is nothing."""
        with self.server.client() as client:
            found = next((each.versions for each in client.models() if each.name == model), ())
        return next((one for one in found if one.version == number), VersionStatus(number, ""))

    def wait(self, number: int, state: str, model: str = "half") -> VersionStatus:
        """Waits for a version's state."""
        wait_until(lambda: self.version(number, model).state == state)
        return self.version(number, model)

    @property
    def fetched(self) -> Path:
        """Where fetched versions of "half" lie."""
        return self.state_dir / "fetched" / "half"

    def visible(self) -> set[str]:
        """Names of version directories that are there of fetched models."""
        return {one.name for one in self.fetched.iterdir() if one.name[0] != "."} if self.fetched.exists() else set()
