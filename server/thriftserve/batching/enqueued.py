"""How many requests wait for one model in this process, and how many may.

add --> waiting --> remove;  one too many --> ResourceExhausted
"""

from __future__ import annotations

import threading

from thriftserve.errors import ResourceExhausted


class Enqueued:
    """A bounded count."""

    def __init__(self, model: str, most: int) -> None:
        self.most = most
        self._model = model
        self._count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        """Counts one more.

        Raises:
            ResourceExhausted: as many wait as may.
        """
        with self._lock:
            if self._count >= self.most:
                raise ResourceExhausted(
                    f"{self._count} requests wait for model {self._model!r}, and max_enqueued of its model.toml is "
                    f"{self.most}: try again later, or on another server"
                )
            self._count += 1

    def remove(self, count: int = 1) -> None:
        """Counts fewer."""
        with self._lock:
            self._count -= count
