"""The same configuration as TOML: one [[model]] table a model.

    [[model]]                                   model_config_list { config { name: "digits"
    name = "digits"                  -->            version_labels { key: "stable" value: 42 } } }
    version_labels = {stable = 42}

Python's TOML reader keeps no line numbers: they are looked for in the text afterwards, for messages alone.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from thriftserve.repository.config_text import ConfigBlock, Field, SourcePosition, SyntaxFault

LIST, MODEL, LABELS = "model_config_list", "model", "version_labels"
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+(?:\s*\.\s*[A-Za-z0-9_\"'-]+)*)\s*=")
_INLINE_KEY = re.compile(r"[{,]\s*([A-Za-z0-9_\"'-]+)\s*=")
_WHERE = re.compile(r"at line (\d+), column (\d+)")

#: How a value is reached: names of keys, and each array's running number.
Path = tuple[str | int, ...]


def parse(text: str) -> ConfigBlock:
    """The fields of a TOML text, named as in the text format.

    Raises:
        SyntaxFault: it is no TOML, or has other tables than [[model]].
    """
    text = text.removeprefix("\ufeff")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _WHERE.search(str(error))
        where = SourcePosition(int(found[1]), int(found[2])) if found else SourcePosition(0)
        raise SyntaxFault(where, f"no valid TOML: {error}") from error
    except RecursionError:
        raise SyntaxFault(SourcePosition(0), "tables or lists lie too deep: flatten the file") from None
    lines = _Lines(text)
    for key in tables:
        if key != MODEL:
            raise SyntaxFault(lines.place((key,)), f"unknown key {key!r}: write one [[{MODEL}]] table for each model")
    models = tables.get(MODEL, [])
    if not isinstance(models, list) or not all(isinstance(one, dict) for one in models):
        raise SyntaxFault(lines.place((MODEL,)), f"{MODEL} is no list of tables: write [[{MODEL}]] above each model")
    configs = [
        Field("config", _block(model, (MODEL, number), lines), lines.place((MODEL, number)))
        for number, model in enumerate(models)
    ]
    top = SourcePosition(1, 1)
    return ConfigBlock((Field(LIST, ConfigBlock(tuple(configs), top), top),), top)


def _block(table: Mapping[str, Any], path: Path, lines: _Lines) -> ConfigBlock:
    fields: list[Field] = []
    for key, value in table.items():
        fields.extend(_fields(key, value, (*path, key), lines))
    return ConfigBlock(tuple(fields), lines.place(path))


def _fields(key: str, value: Any, path: Path, lines: _Lines) -> Iterable[Field]:
    at = lines.place(path)
    if key == LABELS and isinstance(value, dict):
        return [Field(key, _label(name, version, lines.place((*path, name))), at) for name, version in value.items()]
    if isinstance(value, list):
        return [Field(key, _value(one, path, lines), at, listed=True) for one in value]
    return [Field(key, _value(value, path, lines), at)]


def _label(name: str, version: Any, at: SourcePosition) -> ConfigBlock:
    return ConfigBlock((Field("key", name, at), Field("value", version, at)), at)


def _value(value: Any, path: Path, lines: _Lines) -> object:
    return _block(value, path, lines) if isinstance(value, dict) else value


class _Lines:
    """Where keys are written, as far as a look at each line tells."""

    def __init__(self, text: str) -> None:
        self._found: dict[Path, int] = {}
        counts: dict[Path, int] = {}
        above: Path = ()
        for number, line in enumerate(text.splitlines(), start=1):
            header = _HEADER.match(line)
            if header:
                above = self._below(_names(header[2]), counts, fresh=header[1] == "[[")
                self._found.setdefault(above, number)
                continue
            for path in _keys(line):
                self._found.setdefault((*above, *path), number)

    def place(self, path: Path) -> SourcePosition:
        """The line of a key, or of what it lies in."""
        while path and path not in self._found:
            path = path[:-1]
        return SourcePosition(self._found.get(path, 0))

    @staticmethod
    def _below(names: tuple[str, ...], counts: dict[Path, int], *, fresh: bool) -> Path:
        """The path of a header: behind the name of an array of tables comes the number of its latest one."""
        path: Path = ()
        for position, name in enumerate(names):
            path = (*path, name)
            if fresh and position == len(names) - 1:
                counts[path] = counts.get(path, -1) + 1
            if path in counts:
                path = (*path, counts[path])
        return path


def _keys(line: str) -> Iterator[Path]:
    found = _KEY.match(line)
    if found:
        outer = _names(found[1])
        yield outer
        for inner in _INLINE_KEY.finditer(line, found.end()):
            yield (*outer, *_names(inner[1]))


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
