"""The journal of a download: which bytes of the file are on disk, so that the next try resumes there.

Journal.begin(url, validator, total)  --save-->  download.json beside the file  --load-->  Journal
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftserve.files import write_atomically


@dataclass(frozen=True)
class DownloadPaths:
    """Where a download is: the file and its journal."""

    file: Path
    journal: Path


@dataclass
class DownloadPart:
    """A range of the file, and how many of its bytes are there, from its start on."""

    start: int
    size: int
    done: int = 0


@dataclass(frozen=True)
class Journal:
    """A file that is downloaded in parts."""

    url: str
    #: Its ETag or Last-Modified.
    validator: str
    #: Its size in bytes.
    total: int
    parts: Sequence[DownloadPart]

    @classmethod
    def begin(cls, url: str, validator: str, total: int, part_bytes: int) -> Journal:
        """Return the journal of a file of which nothing is there."""
        starts = range(0, total, part_bytes)
        return cls(url, validator, total, [DownloadPart(start, min(part_bytes, total - start)) for start in starts])

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return sum(part.done for part in self.parts)

    def save(self, path: Path) -> None:
        """Write the journal in one step. The bytes that it counts must be on disk before."""
        content = {
            "url": self.url,
            "validator": self.validator,
            "total": self.total,
            "parts": [[part.start, part.size, part.done] for part in self.parts],
        }
        write_atomically(path, json.dumps(content))

    @classmethod
    def load(cls, path: Path) -> Journal | None:
        """Return what was saved; None if nothing was, or it makes no sense."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            parts = [DownloadPart(*map(int, part)) for part in content["parts"]]
            journal = cls(str(content["url"]), str(content["validator"]), int(content["total"]), parts)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return journal if journal._is_consistent() else None

    def _is_consistent(self) -> bool:
        end = 0
        for part in self.parts:
            if part.start != end or not 0 <= part.done <= part.size:
                return False
            end += part.size
        return end == self.total
