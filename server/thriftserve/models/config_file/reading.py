"""Fields of a Block as values of a type, with one clear message where one is not.

Block, "num_versions"  --Reader.number-->  2 | ConfigError "models.config:7:5: num_versions = 'two': …"
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from thriftserve.errors import ConfigError
from thriftserve.models.config_file.tree import Block, Field, Place, Word

_TRUE, _FALSE = ("true", "True", "t"), ("false", "False", "f")


class Reader:
    """Reads values; `source` is the file's name, for messages."""

    def __init__(self, source: str) -> None:
        self._source = source

    def fault(self, at: Place, message: str) -> ConfigError:
        """An error that says where."""
        return ConfigError(f"{':'.join(part for part in (self._source, str(at)) if part)}: {message}")

    def known(self, block: Block, names: Collection[str], inside: str) -> None:
        """Refuses fields of other names, and says what may have been meant."""
        for field in block.fields:
            if field.name not in names:
                near = difflib.get_close_matches(field.name, names, 1, 0.6)
                meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
                raise self.fault(field.at, f"unknown key {field.name!r} in {inside}: {meant}")

    def one(self, block: Block, name: str) -> Field | None:
        """The field of a name that may be there once."""
        found = list(block.named(name))
        if len(found) > 1 or (found and found[0].listed):
            raise self.fault(found[-1].at, f"{name} takes one value: give it once, and no list")
        return found[0] if found else None

    def block(self, block: Block, name: str) -> Block | None:
        """The block of a name that may be there once."""
        found = self.one(block, name)
        return None if found is None else self.as_block(found)

    def as_block(self, field: Field) -> Block:
        """The field's block."""
        if not isinstance(field.value, Block):
            raise self.fault(
                field.at, f"{field.name} = {shown(field.value)}: a block is expected: {field.name} {{ … }}"
            )
        return field.value

    def text(self, block: Block, name: str) -> str | None:
        """A string that may be there once."""
        found = self.one(block, name)
        if found is None:
            return None
        if isinstance(found.value, Word) or not isinstance(found.value, str):
            raise self.fault(found.at, f"{name} = {shown(found.value)}: a string is expected, in quotes")
        return found.value

    def number(self, field: Field, low: int, high: int) -> int:
        """The field's whole number."""
        value = field.value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fault(
                field.at, f"{field.name} = {shown(value)}: a whole number from {low} to {high} is expected"
            )
        return value

    def truth(self, block: Block, name: str) -> bool | None:
        """true or false; the text format's other spellings of them too."""
        found = self.one(block, name)
        if found is None:
            return None
        value = self.plain(found)
        if not isinstance(value, bool):
            raise self.fault(found.at, f"{name} = {shown(found.value)}: true or false is expected")
        return value

    def plain(self, field: Field) -> object:
        """The value as TOML would have it: words that are true or false are bools."""
        if isinstance(field.value, Word):
            if field.value in _TRUE:
                return True
            if field.value in _FALSE:
                return False
        if isinstance(field.value, Block):
            raise self.fault(field.at, f"{field.name} is a block: a value is expected: {field.name}: …")
        return field.value

    def only(self, fields: Iterable[Field], what: str) -> Field | None:
        """The one field of those that exclude each other."""
        found = list(fields)
        if len(found) > 1:
            names = " and ".join(dict.fromkeys(one.name for one in found))
            raise self.fault(found[1].at, f"{what} has {names}: give one of them, once")
        return found[0] if found else None


def shown(value: object) -> str:
    """A value as it is told in a message."""
    if isinstance(value, Block):
        return "{ … }"
    return str(value) if isinstance(value, Word) else repr(value)
