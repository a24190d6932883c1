"""The configuration file: every model of it, or one error.

models.config | models.toml  --load-->  ConfigFile(models, warnings)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thriftserve.errors import ConfigError
from thriftserve.repository import image_settings, model_settings
from thriftserve.repository.config_tables import (
    ConfigFault,
    ConfigTables,
    KeyPath,
    Position,
    parse_batching_parameters,
    parse_text,
    parse_toml,
)
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import BatchingSettings, RunSettings
from thriftserve.repository.settings_table import Check, build
from thriftserve.repository.versions import (
    NAME_RULE,
    PYTHON_PREFIX,
    All,
    Latest,
    ModelConfig,
    Specific,
    VersionPolicy,
    is_name,
    is_python,
    is_python_file,
    is_url,
    python_source,
)
from thriftserve_proto import model_server_config_pb2

TENSORFLOW, PYTHON = "tensorflow", "python"
_DEVICES = re.compile(r"cpu|auto|gpu:[0-9]+( *, *gpu:[0-9]+)*")
#: TensorFlow Serving's max_batch_size, if its file names none.
_BATCH_SIZE = 1000
_INSTEAD = {"num_batch_threads": ": workers and runs_per_worker follow from the cores"}
#: Keys that take one value or a list of several.
_ONE_OR_MORE = ("scale", "offset", "background")

S = TypeVar("S")


@dataclass(frozen=True)
class ConfigFile:
    """The content of a configuration file."""

    #: In the order of the file; empty if it lists none.
    models: tuple[ModelConfig, ...]
    #: What it says that has no effect here.
    warnings: tuple[str, ...] = ()


def load(path: Path) -> ConfigFile:
    """Read a file: TOML if its name ends in .toml, else protobuf's text form of ModelServerConfig.

    Raises:
        ConfigError: The file can't be read, or says something that will not do. The message has file, line and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text: {error}; write it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}; give a readable model_config_file") from error
    return loads(text, str(path), toml=path.suffix == ".toml", directory=path.parent)


def load_batching_parameters(path: Path) -> tuple[BatchingSettings, tuple[str, ...]]:
    """Read TensorFlow Serving's BatchingParameters in text form, and what they say that has no effect here.

    Raises:
        ConfigError: The file can't be read, or says something that will not do. The message has file, line and remedy.
    """
    try:
        values = parse_batching_parameters(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: can't be read: {why}; give a readable batching_parameters_file") from error
    except ConfigFault as error:
        at = f":{error.position}" if error.position.line else ""
        raise ConfigError(f"{path}{at}: {error.message}") from error
    table: dict[str, Any] = {key: values.pop(key) for key in tuple(values) if key in model_settings.BATCHING_CHECKS}
    # What TensorFlow Serving has for a number that is not set.
    table.setdefault("max_batch_size", max(table.get("allowed_batch_sizes", [_BATCH_SIZE])))
    if "batch_timeout_micros" in values:
        table["batch_timeout_ms"] = values.pop("batch_timeout_micros") / 1000
    if "max_enqueued_batches" in values:
        table["max_enqueued"] = values.pop("max_enqueued_batches") * table["max_batch_size"]

    def fail(key: str, message: str) -> ConfigError:
        return ConfigError(f"{path}: {message}")

    settings = build(BatchingSettings, table, model_settings.BATCHING_CHECKS, fail)
    ignored = tuple(f"{path}: {key} has no effect here and is ignored{_INSTEAD.get(key, '')}" for key in values)
    return settings, ignored


def loads(text: str, source: str, *, toml: bool = False, directory: Path = Path()) -> ConfigFile:
    """Read a configuration's text.

    Args:
        text: the content of the file.
        source: its name, for messages.
        toml: whether it is TOML.
        directory: of the file, for the remedy of a relative base path.

    Raises:
        ConfigError: As for `load`.
    """

    def fault(position: Position, message: str) -> ConfigError:
        return ConfigError(f"{':'.join(part for part in (source, str(position)) if part)}: {message}")

    try:
        tables = (parse_toml if toml else parse_text)(text)
        models = _read_models(tables, directory)
    except ConfigFault as error:
        raise fault(error.position, error.message) from error
    ignored = (fault(at, "logging_config has no effect here and is ignored").message for at in tables.ignored)
    return ConfigFile(models, tuple(ignored))


def _read_models(tables: ConfigTables, directory: Path) -> tuple[ModelConfig, ...]:
    models: dict[str, ModelConfig] = {}
    lines: dict[str, int] = {}
    for number, table in enumerate(tables.models):
        model = _ModelTable(table, (number,), tables.find).read(directory)
        position = tables.find((number,))
        if model.name in models:
            why = f"model {model.name!r} is in the file already, at line {lines[model.name]}: each name once"
            raise ConfigFault(position, why)
        models[model.name] = model
        lines[model.name] = position.line
    return tuple(models.values())


class _ModelTable:
    """One model's table."""

    def __init__(self, table: Mapping[str, Any], path: KeyPath, find: Callable[[KeyPath], Position]) -> None:
        self._table = table
        self._path = path
        self._find = find

    def read(self, directory: Path) -> ModelConfig:
        """Return the model; `directory` is the file's own.

        Raises:
            ConfigFault: A value will not do.
        """
        name = self._name()
        platform = self._platform(name)
        policy = self._policy()
        return ModelConfig(
            name,
            platform,
            self._source(name, platform, directory),
            policy,
            self._labels(name, policy),
            self._settings("batching", BatchingSettings, model_settings.BATCHING_CHECKS),
            self._session(),
            self._image(),
            self._devices(),
            self._table.get("warmup"),
        )

    def _fault(self, message: str, *path: str | int) -> ConfigFault:
        return ConfigFault(self._find((*self._path, *path)), message)

    def _name(self) -> str:
        name: str = self._table.get("name", "")
        if not name:
            raise self._fault("the model has no name: write name: '…'")
        if not is_name(name):
            raise self._fault(f"the name {name!r} {NAME_RULE}", "name")
        return name

    def _platform(self, name: str) -> str:
        platform: str = self._table.get("model_platform") or ""
        if platform not in ("", TENSORFLOW, PYTHON):
            why = f"model {name!r}: model_platform is {platform!r}: write {TENSORFLOW!r} or {PYTHON!r}"
            raise self._fault(why, "model_platform")
        kind = self._table.get("model_type")
        if kind == model_server_config_pb2.OTHER:
            raise self._fault(f"model_type = OTHER: write model_platform: {TENSORFLOW!r} instead", "model_type")
        if kind == model_server_config_pb2.TENSORFLOW and platform == PYTHON:
            why = f"model_type TENSORFLOW and model_platform {PYTHON!r}: leave model_type out"
            raise self._fault(why, "model_type")
        return platform or TENSORFLOW

    def _source(self, name: str, platform: str, directory: Path) -> str:
        source: str = self._table.get("base_path", "")
        if not source:
            raise self._fault(f"model {name!r} has no base_path: write base_path: '/…'")
        if platform != PYTHON and is_python(source):
            why = f"base_path = {source!r} names a class: write model_platform: {PYTHON!r} too"
            raise self._fault(why, "base_path")
        if platform == PYTHON:
            source = source.removeprefix(PYTHON_PREFIX)
        if platform == PYTHON and not is_python_file(source):
            return source
        if is_url(source):
            return source.rstrip("/")
        if not Path(source).is_absolute():
            absolute = str(directory.absolute() / source)
            why = f"base_path = {source!r} is relative: write it from the root, like {absolute!r}"
            raise self._fault(why, "base_path")
        return python_source(source) if platform == PYTHON else str(Path(source))

    def _policy(self) -> VersionPolicy:
        policy = self._table.get("model_version_policy", {})
        if len(policy) > 1:
            why = f"model_version_policy has {' and '.join(policy)}: give one of them, once"
            raise self._fault(why, "model_version_policy")
        if "all" in policy:
            return All()
        if "specific" in policy:
            versions = policy["specific"].get("versions")
            if not versions:
                why = "specific names no versions: write versions: 42, once for each"
                raise self._fault(why, "model_version_policy", "specific")
            return Specific(tuple(sorted(set(versions))))
        # 0 is what the form has for a number that is not set, and TensorFlow Serving takes it as 1.
        return Latest(max(1, policy.get("latest", {}).get("num_versions", 1)))

    def _labels(self, name: str, policy: VersionPolicy) -> dict[str, int]:
        labels: dict[str, int] = {}
        for number, entry in enumerate(self._table.get("version_labels", ())):
            label, version = entry.get("key"), entry.get("value")
            here = ("version_labels", number)
            if not label or version is None:
                why = "a label has a key and a value: version_labels { key: 'stable' value: 42 }"
                raise self._fault(why, *here)
            if label in labels:
                raise self._fault(f"model {name!r} has the label {label!r} twice: remove one", *here)
            if not policy.may_serve(version):
                raise self._fault(
                    f"model {name!r}: the label {label!r} points at version {version}, which the policy does not "
                    "serve: add it to specific { versions }, or move the label",
                    *here,
                    "value",
                )
            labels[label] = version
        return labels

    def _session(self) -> RunSettings | None:
        """Return the session block with `workers`, the key of it that most want alone, beside it or in it."""
        if "workers" not in self._table:
            return self._settings("session", RunSettings, model_settings.SESSION_CHECKS)
        session = self._table.get("session", {})
        if "workers" in session:
            raise self._fault("workers is given here and in session: give it once", "workers")
        merged = {**session, "workers": self._table["workers"]}

        def fail(key: str, message: str) -> ConfigFault:
            return self._fault(message, *(("session", key) if key in session else (key,)))

        return build(RunSettings, merged, model_settings.SESSION_CHECKS, fail)

    def _image(self) -> ImageSettings | None:
        settings = self._settings("image", ImageSettings, image_settings.CHECKS)
        conflict = image_settings.find_conflict(settings) if settings is not None else None
        if conflict:
            raise self._fault(conflict, "image")
        return settings

    def _devices(self) -> str | None:
        devices: str | None = self._table.get("devices")
        if devices is not None and not _DEVICES.fullmatch(devices):
            raise self._fault(f"devices = {devices!r}: write cpu, auto or a list like gpu:0,gpu:1", "devices")
        return devices

    def _settings(self, block: str, kind: Callable[..., S], checks: Mapping[str, Check]) -> S | None:
        table = self._table.get(block)
        if table is None:
            return None
        values = {key: value[0] if key in _ONE_OR_MORE and len(value) == 1 else value for key, value in table.items()}
        return build(kind, values, checks, lambda key, message: self._fault(message, block, key))
