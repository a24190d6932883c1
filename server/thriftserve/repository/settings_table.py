"""A table of settings, checked key by key and made into a dataclass.

    {"max_batch_size": 32}  --build-->  BatchingSettings(max_batch_size=32)
    {"max_batch_size": 0}   --build-->  "max_batch_size = 0: give a whole number from 1 to 1000000"

The tables come from model.toml, from image.toml, and from the blocks of the same names in the configuration file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from thriftserve.errors import ModelLoadError

S = TypeVar("S")


class Check(NamedTuple):
    """What a key takes."""

    #: Whether a value will do; lists are TOML's.
    accepts: Callable[[Any], bool]
    #: What to say of a value that will not do: "give …".
    remedy: str


def read_toml(path: Path, example: str) -> dict[str, Any] | None:
    """Return the content of a TOML file, or None if there is no such file.

    Args:
        path: of the file.
        example: a line that such a file may have, for the message.

    Raises:
        ModelLoadError: The file can't be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: can't be read: {error}; make it a readable UTF-8 file") from error
    return parse_toml(path, text, example)


def parse_toml(path: Path, text: str, example: str) -> dict[str, Any]:
    """Return the content of a TOML text; `path` and `example` are for the message.

    Raises:
        ModelLoadError: The text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelLoadError(f"{path}: not valid TOML: {error}; write lines like {example}") from error


def build(
    kind: Callable[..., S],
    table: Mapping[str, Any],
    checks: Mapping[str, Check],
    fail: Callable[[str, str], Exception],
    prefix: str = "",
) -> S:
    """Make a settings object of a table; lists become tuples.

    Args:
        kind: a dataclass with a field for each key of `checks`.
        table: values by key.
        checks: what each key takes.
        fail: makes the error to raise, from the key at fault and the message.
        prefix: what messages put before the key.
    """
    for key, value in table.items():
        if key not in checks:
            raise fail(key, f"unknown key {prefix}{key} = {value!r}: use one of {', '.join(checks)}")
        if not checks[key].accepts(value):
            raise fail(key, f"{prefix}{key} = {value!r}: {checks[key].remedy}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def is_integer(value: Any, low: int, high: int) -> bool:
    """Return whether a value is an integer from `low` to `high`; TOML's booleans are none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def one_of(choices: tuple[str, ...]) -> Check:
    """Return the check of a key that takes one of some words."""
    return Check(lambda value: value in choices, f"give one of {', '.join(choices)}")


def whole_number(high: int) -> Check:
    """Return the check of a key that takes an integer from 1 to `high`."""
    return Check(lambda value: is_integer(value, 1, high), f"give a whole number from 1 to {high}")
