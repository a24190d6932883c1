"""What a configuration file says, before anyone asks what it means.

    text format | TOML  -->  Block of Fields, each with its Place  -->  ModelConfig

A field that is written several times, or as a list, is several Fields of one name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1; column 0: only the line is known; line 0: not even that."""

    line: int
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return ""
        return f"{self.line}:{self.column}" if self.column else str(self.line)


class SyntaxFault(ValueError):
    """The text is not of its format; `where` says at what place."""

    def __init__(self, where: Place, message: str) -> None:
        super().__init__(message)
        self.where = where
        self.message = message


class Word(str):
    """A bare word of the text format: a name of an enum, true or false."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Field:
    """A name and one value: a Block, str (bytes that are no UTF-8 stay bytes), Word, int, float or bool."""

    name: str
    value: object
    at: Place
    #: Whether it was one of a list's.
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Fields between braces, or a TOML table."""

    fields: tuple[Field, ...]
    at: Place

    def named(self, name: str) -> Iterator[Field]:
        """Every field of that name, in the order they are written."""
        return (one for one in self.fields if one.name == name)

    def blocks(self, name: str) -> Iterator[Block]:
        """The value of every field of that name that is a block."""
        return (one.value for one in self.named(name) if isinstance(one.value, Block))
