"""How names, shapes and types stand in messages that people read.

names | shape | DataType --> a few words, bounded in length

What a caller sent is quoted and cut: a message never grows with the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from thriftserve_idl.ttypes import DataType

#: Names listed before "and more"; characters of one name before it is cut.
MOST_NAMES = 20
MOST_CHARACTERS = 100


def quoted(name: str) -> str:
    """One name in quotes, cut when it is long."""
    return repr(name) if len(name) <= MOST_CHARACTERS else repr(name[:MOST_CHARACTERS]) + "…"


def listed(names: Iterable[str]) -> str:
    """Names in quotes and in order, with commas: `'a', 'b'`; "nothing" for none."""
    ordered = sorted(names)
    text = ", ".join(quoted(name) for name in islice(ordered, MOST_NAMES))
    if len(ordered) > MOST_NAMES:
        return f"{text} and {len(ordered) - MOST_NAMES} more"
    return text or "nothing"


def shaped(shape: Sequence[int | None] | None) -> str:
    """A shape as `[?, 224, 224, 3]`: `?` where any size will do, "any shape" for an unknown rank."""
    if shape is None:
        return "any shape"
    sizes = ["?" if size is None else str(size) for size in islice(shape, MOST_NAMES)]
    if len(shape) > MOST_NAMES:
        sizes.append("…")
    return f"[{', '.join(sizes)}]"


def typed(dtype: int | None) -> str:
    """An element type by its name; the bare number where the contract has no such type."""
    if dtype is None:
        return "no dtype"
    try:
        return DataType(dtype).name
    except ValueError:
        return f"unknown dtype {dtype}"
