"""Where models come from: a flag, a base path, the versions below it.

    "digits=/models/digits"  --parse_model_flag-->  ModelConfig  --newest_version-->  /models/digits/3

The layout is TensorFlow Serving's: each directory with a number for a name is a version (any signed 64-bit number,
`00123` is 123) with a SavedModel in it; everything else in a base path is left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thriftserve.errors import ConfigError, ModelLoadError
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import BatchingSettings, RunSettings

#: Versions travel as a signed 64-bit number.
MIN_VERSION = -(2**63)
MAX_VERSION = 2**63 - 1
SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
PYTHON_PREFIX = "python:"
#: The only version of a Python model.
PYTHON_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
NAME_RULE = "must be 1 to 128 letters, digits, '_', '-' or '.', and begin with a letter, digit or '_'"
_PYTHON_FILE = re.compile(r"[^?]+\.py(:[^:?/]*)?(\?.*)?", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:::.+)?://")


@dataclass(frozen=True)
class Latest:
    """Serve the versions with the highest numbers."""

    num_versions: int = 1

    def among(self, numbers: Iterable[int]) -> list[int]:
        """Return the versions to serve, highest first."""
        return sorted(set(numbers), reverse=True)[: self.num_versions]

    def may_serve(self, version: int) -> bool:
        """Return whether that version could ever be served."""
        return True


@dataclass(frozen=True)
class All:
    """Serve every version."""

    def among(self, numbers: Iterable[int]) -> list[int]:
        """Return the versions to serve, highest first."""
        return sorted(set(numbers), reverse=True)

    def may_serve(self, version: int) -> bool:
        """Return whether that version could ever be served."""
        return True


@dataclass(frozen=True)
class Specific:
    """Serve these versions and no others."""

    versions: tuple[int, ...]

    def among(self, numbers: Iterable[int]) -> list[int]:
        """Return the versions to serve, highest first."""
        return sorted(set(numbers) & set(self.versions), reverse=True)

    def may_serve(self, version: int) -> bool:
        """Return whether that version could ever be served."""
        return version in self.versions


VersionPolicy = Latest | All | Specific
#: The policy of a model that names none.
NEWEST = Latest()


def policy_to_json(policy: VersionPolicy) -> dict[str, Any]:
    """Return a policy as JSON can hold it."""
    if isinstance(policy, Latest):
        return {"latest": policy.num_versions}
    return {"specific": list(policy.versions)} if isinstance(policy, Specific) else {"all": None}


def policy_from_json(content: Mapping[str, Any]) -> VersionPolicy:
    """Return the policy that `policy_to_json` wrote."""
    ((kind, value),) = content.items()
    if kind == "latest":
        return Latest(value)
    return Specific(tuple(value)) if kind == "specific" else All()


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve: its name, where it comes from and how it is to be served.

    What is None is left to the model's own files (model.toml, image.toml), then to the server's settings.
    """

    name: str
    #: "tensorflow" or "python".
    platform: str
    #: An absolute base path, a URL of one, or "package.module:Class" or "/path/file.py:Class" with options after a "?".
    source: str
    policy: VersionPolicy = NEWEST
    #: Versions by the labels ("stable", …) that the configuration gives them.
    labels: Mapping[str, int] = field(default_factory=dict, hash=False)
    batching: BatchingSettings | None = None
    session: RunSettings | None = None
    image: ImageSettings | None = None
    #: As the setting of that name: "cpu", "gpu:0,gpu:1".
    devices: str | None = None
    #: Whether each signature is run once before the first client.
    warmup: bool | None = None

    @property
    def remote(self) -> bool:
        """Whether the base path is a URL."""
        return self.platform != "python" and is_url(self.source)


@dataclass(frozen=True)
class VersionDir:
    """One version of a model on disk."""

    version: int
    path: Path


def parse_model_flags(flags: Iterable[str]) -> tuple[ModelConfig, ...]:
    """Return the models of all `--model` flags.

    Raises:
        ConfigError: A flag can't be read, or two have the same name.
    """
    configs: dict[str, ModelConfig] = {}
    for flag in flags:
        config = parse_model_flag(flag)
        if config.name in configs:
            raise ConfigError(f"model {config.name!r} is given twice: each name can be served from one place only")
        configs[config.name] = config
    return tuple(configs.values())


def parse_model_flag(flag: str) -> ModelConfig:
    """Read `NAME=BASE_PATH`, `NAME=FILE.py:CLASS` or `NAME=python:package.module:Class`; paths become absolute.

    Raises:
        ConfigError: The flag can't be read.
    """
    name, separator, source = flag.partition("=")
    name, source = name.strip(), source.strip()
    if not (name and separator and source):
        raise ConfigError(
            f"model is {flag!r}: write NAME=BASE_PATH, NAME=./FILE.py:CLASS or NAME=python:package.module:Class"
        )
    if not is_name(name):
        raise ConfigError(f"model is {flag!r}: the name {name!r} {NAME_RULE}")
    if is_python(source):
        return ModelConfig(name, "python", python_source(source))
    if is_url(source):
        return ModelConfig(name, "tensorflow", source.rstrip("/"))
    return ModelConfig(name, "tensorflow", str(Path(source).expanduser().absolute()))


def is_name(name: str) -> bool:
    """Return whether a model may have that name; `NAME_RULE` says it in words."""
    return _NAME.fullmatch(name) is not None


def is_python(source: str) -> bool:
    """Return whether a source is Python code: `python:package.module:Class`, or `FILE.py:CLASS` or `FILE.py`."""
    return source.startswith(PYTHON_PREFIX) or is_python_file(source)


def is_python_file(source: str) -> bool:
    """Return whether a source is a Python file, like ./greet.py:Greeter?option=value."""
    return _PYTHON_FILE.fullmatch(source) is not None and not is_url(source)


def python_source(source: str) -> str:
    """Return the source of Python code without `python:`, the path of a file absolute."""
    source = source.removeprefix(PYTHON_PREFIX)
    return str(Path(source).expanduser().absolute()) if is_python_file(source) else source


def is_url(source: str) -> bool:
    """Return whether a base path is a URL, like s3://bucket/models/digits."""
    return _URL.match(source) is not None


def newest_version(base_path: Path) -> VersionDir:
    """Return the version with the highest number below a base path.

    Raises:
        ModelLoadError: The base path is missing, or has no version; the message has the remedy.
    """
    present = list_versions(base_path)
    if not present:
        raise ModelLoadError(explain_no_version(base_path))
    fault = find_twins(base_path, present).get(present[-1].version)
    if fault:
        raise ModelLoadError(fault)
    return present[-1]


def list_versions(base_path: Path) -> list[VersionDir]:
    """Return every version below a base path, oldest first.

    Raises:
        ModelLoadError: The base path can't be read.
    """
    try:
        with os.scandir(base_path) as entries:
            numbered = [
                VersionDir(number, base_path / entry.name)
                for entry in entries
                if (number := version_number(entry.name)) is not None and entry.is_dir()
            ]
    except FileNotFoundError:
        raise ModelLoadError(f"{base_path}: there is no such directory") from None
    except NotADirectoryError:
        raise ModelLoadError(f"{base_path}: is a file; a base path is a directory of version directories") from None
    except OSError as error:
        raise ModelLoadError(f"{base_path}: can't be read: {error.strerror}") from error
    return sorted(numbered, key=lambda version: (version.version, version.path.name))


def find_twins(base_path: Path, present: Iterable[VersionDir]) -> dict[int, str]:
    """Return a warning for each version that several directories claim: `1` and `01` can't both be version 1."""
    names: dict[int, list[str]] = {}
    for version in present:
        names.setdefault(version.version, []).append(version.path.name)
    return {
        version: f"{base_path}: {' and '.join(several)} are both version {version}: remove one"
        for version, several in names.items()
        if len(several) > 1
    }


def version_number(name: str) -> int | None:
    """Return the version of a directory of that name, or None if the name is no signed 64-bit number."""
    # Not str.isdigit: it accepts digits of other scripts, and superscripts that int() refuses. Nineteen digits
    # beyond the leading zeros are enough for every version; int() would take long for thousands.
    match = re.fullmatch(r"(-?)0*([0-9]{1,19})", name)
    if match is None:
        return None
    number = int(match[1] + match[2])
    return number if MIN_VERSION <= number <= MAX_VERSION else None


def explain_no_version(base_path: Path) -> str:
    """Return what to say of a base path without a version, with the remedy."""
    if any((base_path / name).exists() for name in SAVED_MODEL_FILES):
        return (
            f"{base_path}: this is a version itself, not a directory of versions: move it to "
            f"{base_path / '1'}, or give {base_path.parent} if {base_path.name!r} should be a number"
        )
    return f"{base_path}: has no version: put the SavedModel into a directory with a number, like {base_path / '1'}"
