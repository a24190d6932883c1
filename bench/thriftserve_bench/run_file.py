"""The file of a run, whatever was measured: JSON that names its format, read back into typed records.

    Run.begin  -->  a run that fills while it is measured  --save-->  FILE.json  --load-->  Run, or NotARun

Each item of a run's long lists has a line of its own, so that files can be compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

from thriftserve_bench import machine


class NotARun(Exception):
    """A file holds no run of the wanted format; the message names the file and what is wrong."""


class _Ending(msgspec.Struct, kw_only=True):
    #: Whether the run was stopped before its end.
    cut_short: bool = False


class Run(_Ending):
    """A run and the machine that it ran on. Each benchmark adds what it measures."""

    #: Stands in the file: the command and a number, as in "thriftserve-bench calls 1".
    FORMAT: ClassVar[str]
    #: Keys in the file of the lists that are written one item a line.
    LISTS: ClassVar[tuple[str, ...]] = ()

    began: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str

    @classmethod
    def begin(cls, settings: Mapping[str, Any], packages: Sequence[str]) -> Self:
        """Return a run that begins now, on this machine, and has measured nothing yet."""
        return cls(
            began=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=dict(settings),
            machine=machine.describe(),
            versions=machine.versions(packages),
            commit=machine.commit(),
        )

    def save(self, path: Path) -> None:
        """Write the run; a reader finds either the old file or the new one, never a part of it."""
        data = {"format": self.FORMAT} | msgspec.to_builtins(self)
        lists = {name: data.pop(name) for name in self.LISTS}
        text = json.dumps(data, indent=1, ensure_ascii=False)[:-2]
        for name, items in lists.items():
            body = ",\n".join("  " + json.dumps(item, separators=(",", ":")) for item in items)
            text += f',\n "{name}": [\n{body}\n]'
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(text + "}\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            NotARun: the file holds something else.
            OSError: it can't be read.
        """
        data = _read(path)
        if data["format"] != cls.FORMAT:
            raise NotARun(f"{path}: format {data['format']!r}, expected {cls.FORMAT!r}")
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise NotARun(f"{path}: not a file of {cls.FORMAT!r}: {error}") from error


def format_of(path: Path, known: Iterable[str]) -> str:
    """Return which of the known formats a file has.

    Raises:
        NotARun: none of them.
        OSError: it can't be read.
    """
    name = str(_read(path)["format"])
    if name not in known:
        raise NotARun(f"{path}: format {name!r}, expected one of {', '.join(map(repr, known))}")
    return name


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotARun(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict) or "format" not in data:
        raise NotARun(f"{path}: not a file of thriftserve-bench: it names no format")
    return data


def write(path: Path, data: Mapping[str, Any], **lists: Sequence[str]) -> None:
    """Writes a run.

    Args:
        path: of the file; its directory is made where it is not there.
        data: what stands at the head, "format" included.
        lists: what follows by its name: each item as JSON already, see `line`.
    """
    text = json.dumps(data, indent=1, ensure_ascii=False)[:-2]
    for name, items in lists.items():
        body = ",\n".join(items)
        text += f',\n "{name}": [\n{body}\n]'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "}\n", encoding="utf-8")


def line(item: Any) -> str:
    """An item of a list in one line."""
    return "  " + json.dumps(item, separators=(",", ":"))


@contextmanager
def reading(path: Path, wanted: str) -> Iterator[dict[str, Any]]:
    """The data of a file of the format `wanted`; what the block misses in it or can't use is told as NotARun.

    Args:
        path: of the file.
        wanted: as in "thriftserve-bench calls 1": the command and a number.

    Raises:
        NotARun: the file is something else.
        OSError: it can't be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != wanted:
            raise NotARun(f"{path}: format {data['format']!r}, this command reads {wanted!r}")
        yield data
    except (ValueError, KeyError, TypeError) as error:
        command = wanted.rpartition(" ")[0]
        raise NotARun(f"{path}: no results of {command} ({type(error).__name__}: {error})") from error
