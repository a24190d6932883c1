"""What of a download is on disk, kept beside it so that the next try goes on from there.

Part.done, counted while bytes arrive  --save-->  download.json  --load-->  the same, after a kill
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftserve.files import write_whole


@dataclass
class Part:
    """A range of the file, and how many of its bytes are there, from its start on."""

    start: int
    size: int
    done: int = 0


@dataclass(frozen=True)
class Journal:
    """A file that is downloaded in parts."""

    url: str
    validator: str
    total: int
    parts: Sequence[Part]

    @classmethod
    def begun(cls, url: str, validator: str, total: int, part_bytes: int) -> Journal:
        """Nothing of it is there yet."""
        starts = range(0, total, part_bytes)
        return cls(url, validator, total, [Part(start, min(part_bytes, total - start)) for start in starts])

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return sum(one.done for one in self.parts)

    def save(self, path: Path) -> None:
        """Writes it; the file changes whole or not at all. What it says is there must be on disk before."""
        content = {
            "url": self.url,
            "validator": self.validator,
            "total": self.total,
            "parts": [[one.start, one.size, one.done] for one in self.parts],
        }
        write_whole(path, json.dumps(content))

    @classmethod
    def load(cls, path: Path) -> Journal | None:
        """What was saved; None where nothing was, or it makes no sense."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            parts = [Part(*map(int, one)) for one in content["parts"]]
            found = cls(str(content["url"]), str(content["validator"]), int(content["total"]), parts)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if found._sound() else None

    def _sound(self) -> bool:
        at = 0
        for one in self.parts:
            if one.start != at or not 0 <= one.done <= one.size:
                return False
            at += one.size
        return at == self.total
