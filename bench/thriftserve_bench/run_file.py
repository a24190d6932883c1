"""The file of a run, whatever was measured: JSON that names its format, read back into typed records.

    Run.begin  -->  a run that fills while it is measured  --save-->  FILE.json  --load-->  Run, or NotARun

Each item of a run's long lists has a line of its own, so that files can be compared. A field of a record may have
another name in the file: `field(metadata={"key": "name"})`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from thriftserve_bench import machine

T = TypeVar("T")


class NotARun(Exception):
    """A file holds no run of the expected format; the message names the file and what is wrong."""


@dataclass
class Run:
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
    #: Whether the run was stopped before its end.
    cut_short: bool = field(default=False, kw_only=True)

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
        """Write the run; a reader sees either the old file or the new one, never a part of it."""
        data = to_data(self)
        lists = {name: data.pop(name) for name in self.LISTS}
        text = json.dumps({"format": self.FORMAT} | data, indent=1, ensure_ascii=False)[:-2]
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
        name = data.pop("format")
        if name != cls.FORMAT:
            raise NotARun(f"{path}: format {name!r}, expected {cls.FORMAT!r}")
        try:
            return from_data(cls, data)
        except (KeyError, TypeError, ValueError) as error:
            raise NotARun(f"{path}: no file of {cls.FORMAT!r} ({type(error).__name__}: {error})") from error


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


def to_data(value: Any) -> Any:
    """Return a record as JSON has it: dicts, lists, texts and numbers."""
    if is_dataclass(value):
        return {_key(each): to_data(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {name: to_data(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_data(item) for item in value]
    return value


def from_data(kind: type[T], data: Any) -> T:
    """Return a record of the type `kind` from JSON; the opposite of `to_data`.

    Raises:
        KeyError, TypeError, ValueError: the data is no such record.
    """
    return _build(kind, data)  # type: ignore[no-any-return]


def _build(kind: Any, data: Any) -> Any:
    if is_dataclass(kind):
        return _build_record(kind, data)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return [_build(arguments[0], item) for item in data]
    if origin is dict:
        return {name: _build(arguments[1], item) for name, item in data.items()}
    if origin is tuple:
        return tuple(data)
    if origin in (Union, UnionType):
        return data if data is None else _build(arguments[0], data)
    return data


def _build_record(kind: Any, data: Any) -> Any:
    if not isinstance(data, dict):
        raise TypeError(f"{kind.__name__}: {str(data)[:80]!r} is no object")
    expected = _fields(kind)
    unknown = data.keys() - expected.keys()
    if unknown:
        raise KeyError(f"{kind.__name__} has no {min(unknown)!r}")
    return kind(
        **{name: _build(of, data[key]) for key, (name, of, needed) in expected.items() if needed or key in data}
    )


@cache
def _fields(kind: Any) -> dict[str, tuple[str, Any, bool]]:
    """Return a record's fields by their keys in the file: name, type, whether there is no default."""
    types = get_type_hints(kind)
    return {
        _key(each): (each.name, types[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)
    }


def _key(each: Any) -> str:
    return str(each.metadata.get("key", each.name))
