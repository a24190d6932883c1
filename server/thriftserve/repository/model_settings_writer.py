"""Writes a model.toml, leaving what people wrote into it.

    ModelSettings + the file as it is  -->  lines changed, added, taken out  -->  a new file in its place

What does not change stays as it is written, comments and order too; a file that can't be changed line by line is
written anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError
from thriftserve.files import write_whole
from thriftserve.repository.model_settings import UNSET, ModelSettings, from_text

_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?$")
_KEY = re.compile(r"(\s*([A-Za-z0-9_-]+)\s*=\s*)([^#]*?)(\s*(#.*)?)$")

#: By table and key what is to be written; None: nothing, the key goes.
Tables = Mapping[str, Mapping[str, str | None]]


def write_model_settings(path: Path, settings: ModelSettings) -> None:
    """Makes a model.toml say exactly `settings`; the file changes at once, or not at all.

    Settings that come to be at their default are left out.

    Raises:
        ModelLoadError: the settings would not be accepted when they are read again.
        OSError: the file can't be written.
    """
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = ""
    text = _edited(path, before, settings)
    if text is None:
        text = _changed("", _differences(UNSET, settings))
        from_text(path, text)
    write_whole(path, text, mode=path.stat().st_mode & 0o777 if path.exists() else 0o644)


def _edited(path: Path, before: str, settings: ModelSettings) -> str | None:
    """The text with what differs changed line by line; None where that does not lead there."""
    try:
        text = _changed(before, _differences(from_text(path, before), settings))
        return text if from_text(path, text) == settings else None
    except ModelLoadError:
        return None


def _differences(before: ModelSettings, after: ModelSettings) -> Tables:
    return {one.name: _table(getattr(before, one.name), getattr(after, one.name)) for one in fields(after)}


def _table(before: Any, after: Any) -> dict[str, str | None]:
    given = [(one, getattr(after, one.name)) for one in fields(after)]
    return {
        one.name: None if value == one.default else _toml(value)
        for one, value in given
        if value != getattr(before, one.name)
    }


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _changed(text: str, tables: Tables) -> str:
    """The text with the tables' keys as given: changed where they stand, the others at the end of their table."""
    sections = _sections(text)
    for name, table in tables.items():
        if name not in sections and table:
            sections[name] = ([""] if text else []) + [f"[{name}]"]
        if name in sections:
            sections[name] = _section(sections[name], table)
    return "\n".join(line for lines in sections.values() for line in lines).rstrip("\n") + "\n"


def _sections(text: str) -> dict[str, list[str]]:
    """The lines of each table, its heading first; those before any table under ""."""
    sections: dict[str, list[str]] = {"": []}
    current = sections[""]
    for line in text.splitlines():
        if heading := _TABLE.match(line):
            current = sections.setdefault(heading[1].strip(), [])
        current.append(line)
    return sections


def _section(lines: list[str], table: Mapping[str, str | None]) -> list[str]:
    kept: list[str] = []
    left = dict(table)
    for line in lines:
        found = _KEY.match(line)
        if found is None or found[2] not in left:
            kept.append(line)
        elif (value := left.pop(found[2])) is not None:
            kept.append(f"{found[1]}{value}{found[4]}")
    end = len(kept)
    while end and not kept[end - 1].strip():
        end -= 1
    return [*kept[:end], *(f"{key} = {value}" for key, value in left.items()), *kept[end:]]
