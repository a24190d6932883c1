"""The file of a run, whatever was measured: JSON that names its format, and one line for each of what there are many.

dataclass  --write-->  FILE.json  --reading-->  its data, or NotARun with the file's name and what is wrong
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NotARun(Exception):
    """A file holds no run of the format that is wanted."""


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


def format_of(path: Path, known: Sequence[str]) -> str:
    """Which of the known formats a file has.

    Raises:
        NotARun: none of them.
        OSError: it can't be read.
    """
    try:
        name = str(json.loads(path.read_text(encoding="utf-8"))["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotARun(f"{path}: no results of thriftserve-bench ({type(error).__name__}: {error})") from error
    if name not in known:
        raise NotARun(f"{path}: format {name!r}, this command reads {', '.join(map(repr, known))}")
    return name
