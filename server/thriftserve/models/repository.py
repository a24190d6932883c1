"""Where models come from: a flag, a base path, the newest version below it.

    "digits=/models/digits"  --parse_model_flag-->  ModelConfig  --newest_version-->  /models/digits/3

The layout is TensorFlow Serving's: each directory with a number for a name is a version (`00123` is
123) with a SavedModel in it; everything else in a base path is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thriftserve.errors import ConfigError, ModelLoadError

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
PYTHON_PREFIX = "python:"
#: Versions travel as a signed 64-bit number.
MAX_VERSION = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve: its name and where it comes from."""

    name: str
    #: "tensorflow" or "python".
    platform: str
    #: An absolute base path, or "package.module:Class" with options after a "?".
    source: str


@dataclass(frozen=True)
class VersionDir:
    """One version of a model on disk."""

    version: int
    path: Path


def parse_model_flags(flags: Iterable[str]) -> tuple[ModelConfig, ...]:
    """Reads every `--model` flag.

    Raises:
        ConfigError: a flag can't be read, or two have the same name.
    """
    configs: dict[str, ModelConfig] = {}
    for flag in flags:
        config = parse_model_flag(flag)
        if config.name in configs:
            raise ConfigError(f"model {config.name!r} is given twice: each name can be served from one place only")
        configs[config.name] = config
    return tuple(configs.values())


def parse_model_flag(flag: str) -> ModelConfig:
    """Reads `NAME=BASE_PATH` or `NAME=python:package.module:Class`; relative paths are made absolute.

    Raises:
        ConfigError: the flag can't be read.
    """
    name, separator, source = flag.partition("=")
    name, source = name.strip(), source.strip()
    if not (name and separator and source):
        raise ConfigError(f"model is {flag!r}: write NAME=BASE_PATH or NAME=python:package.module:Class")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"model is {flag!r}: the name {name!r} must be 1 to 128 letters, digits, '_', '-' or '.', "
            "and begin with a letter, digit or '_'"
        )
    if source.startswith(PYTHON_PREFIX):
        return ModelConfig(name, "python", source.removeprefix(PYTHON_PREFIX))
    return ModelConfig(name, "tensorflow", str(Path(source).expanduser().absolute()))


def newest_version(base_path: Path) -> VersionDir:
    """The version with the highest number below a base path.

    Raises:
        ModelLoadError: the base path is not there, or has no version; the message has the remedy.
    """
    found = versions(base_path)
    if not found:
        raise ModelLoadError(_why_none(base_path))
    newest = found[-1]
    twins = [one.path.name for one in found if one.version == newest.version]
    if len(twins) > 1:
        raise ModelLoadError(f"{base_path}: {' and '.join(twins)} are both version {newest.version}: remove one")
    return newest


def versions(base_path: Path) -> list[VersionDir]:
    """Every version below a base path, oldest first.

    Raises:
        ModelLoadError: the base path can't be read.
    """
    try:
        entries = sorted(base_path.iterdir())
    except FileNotFoundError:
        raise ModelLoadError(f"{base_path}: there is no such directory") from None
    except NotADirectoryError:
        raise ModelLoadError(f"{base_path}: is a file; a base path is a directory of version directories") from None
    except OSError as error:
        raise ModelLoadError(f"{base_path}: can't be read: {error.strerror}") from error
    numbered = [VersionDir(int(entry.name), entry) for entry in entries if _is_version(entry)]
    return sorted(numbered, key=lambda one: one.version)


def _is_version(entry: Path) -> bool:
    # Not str.isdigit: it takes digits of other scripts, and superscripts that int() refuses. Nineteen digits
    # beyond the leading zeros are enough for every version; longer ones would cost int() time.
    found = re.fullmatch(r"0*([0-9]{1,19})", entry.name)
    return found is not None and int(found[1]) <= MAX_VERSION and entry.is_dir()


def _why_none(base_path: Path) -> str:
    if any((base_path / name).exists() for name in SAVED_MODEL_FILES):
        return (
            f"{base_path}: this is a version itself, not a directory of versions: move it to "
            f"{base_path / '1'}, or give {base_path.parent} if {base_path.name!r} should be a number"
        )
    return f"{base_path}: has no version: put the SavedModel into a directory with a number, like {base_path / '1'}"
