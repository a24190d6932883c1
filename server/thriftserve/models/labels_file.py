"""The labels that were set while serving, kept for the next start.

{"digits": {"stable": SetLabel(43, configured=42)}}  --write-->  FILE  --read-->  the same
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.files import write_whole

_FORMAT = 1


@dataclass(frozen=True)
class SetLabel:
    """A label that was set while serving."""

    version: int
    #: Where the configuration had it then; None: it did not name it.
    configured: int | None


def read(file: Path) -> dict[str, dict[str, SetLabel]]:
    """The labels in a file, by model and label; none where there is no file.

    Raises:
        ConfigError: the file can't be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT}")
        return {
            str(model): {str(label): _made(one) for label, one in labels.items()}
            for model, labels in content["labels"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file}: the labels of an earlier run can't be read: {error!r}; restore the file, or remove it to go on "
            "with the labels of the configuration"
        ) from error


def _made(one: Mapping[str, object]) -> SetLabel:
    version, configured = one["version"], one["configured"]
    if not isinstance(version, int) or not isinstance(configured, int | None):
        raise TypeError(f"{dict(one)!r} is no label")
    return SetLabel(version, configured)


def write(file: Path, changed: Mapping[str, Mapping[str, SetLabel]]) -> None:
    """Puts a new file in the place of the old one, in one step: whenever the process ends, one of the two is there."""
    content = {
        "format": _FORMAT,
        "labels": {model: {label: asdict(one) for label, one in labels.items()} for model, labels in changed.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(content, indent=1, sort_keys=True), mode=0o600)
