"""A configuration file, read whole: every model of it, or one error.

models.config | models.toml  --load-->  ConfigFile(models, warnings)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from thriftserve.errors import ConfigError
from thriftserve.repository import config_text, config_toml, image_settings, model_settings
from thriftserve.repository.config_text import ConfigBlock, Field, SourcePosition, SyntaxFault, Word
from thriftserve.repository.config_toml import LIST
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import BatchingSettings, RunSettings
from thriftserve.repository.versions import (
    MAX_VERSION,
    MIN_VERSION,
    NAME_RULE,
    PYTHON_PREFIX,
    All,
    Latest,
    ModelConfig,
    Specific,
    VersionPolicy,
    is_name,
    is_url,
)

# What the fields of a model's block mean.

TENSORFLOW, PYTHON = "tensorflow", "python"
FIELDS = (
    "name", "base_path", "model_platform", "model_type", "model_version_policy", "version_labels", "logging_config",
    "batching", "session", "image", "workers", "devices", "warmup",
)  # fmt: skip
POLICIES = ("latest", "all", "specific")
_MOST_UINT32 = 2**32 - 1
_DEVICES = re.compile(r"cpu|auto|gpu:[0-9]+( *, *gpu:[0-9]+)*")
_Settings = TypeVar("_Settings", BatchingSettings, RunSettings, ImageSettings)


def model(reader: Reader, block: ConfigBlock, directory: Path) -> ModelConfig:
    """One model; `directory` is the file's own, for the remedy of a relative path.

    Raises:
        ConfigError: says at what line, what is wrong and what to write.
    """
    reader.known(block, FIELDS, "a model's block")
    name = _name(reader, block)
    platform = _platform(reader, block, name)
    policy = _policy(reader, block)
    return ModelConfig(
        name,
        platform,
        _source(reader, block, name, platform, directory),
        policy,
        _labels(reader, block, name, policy),
        _settings(reader, block, "batching", BatchingSettings, model_settings.complaint, {"allowed_batch_sizes"}),
        _session(reader, block),
        _image(reader, block),
        _devices(reader, block),
        reader.truth(block, "warmup"),
    )


def _name(reader: Reader, block: ConfigBlock) -> str:
    name = reader.text(block, "name")
    if not name:
        raise reader.fault(block.at, "the model has no name: write name: '…'")
    if not is_name(name):
        raise reader.fault(next(block.named("name")).at, f"the name {name!r} {NAME_RULE}")
    return name


def _platform(reader: Reader, block: ConfigBlock, name: str) -> str:
    platform = reader.text(block, "model_platform") or None
    if platform not in (None, TENSORFLOW, PYTHON):
        raise reader.fault(
            next(block.named("model_platform")).at,
            f"model {name!r}: model_platform is {platform!r}: write {TENSORFLOW!r} or {PYTHON!r}",
        )
    kind = reader.one(block, "model_type")
    if kind is not None and kind.value not in ("TENSORFLOW", "MODEL_TYPE_UNSPECIFIED", 0, 1):
        raise reader.fault(kind.at, f"model_type = {shown(kind.value)}: write model_platform: {TENSORFLOW!r} instead")
    if kind is not None and kind.value in ("TENSORFLOW", 1) and platform == PYTHON:
        raise reader.fault(kind.at, f"model_type TENSORFLOW and model_platform {PYTHON!r}: leave model_type out")
    return platform or TENSORFLOW


def _source(reader: Reader, block: ConfigBlock, name: str, platform: str, directory: Path) -> str:
    found = reader.text(block, "base_path")
    if not found:
        raise reader.fault(block.at, f"model {name!r} has no base_path: write base_path: '/…'")
    if platform == PYTHON:
        return found.removeprefix(PYTHON_PREFIX)
    at = next(block.named("base_path")).at
    if found.startswith(PYTHON_PREFIX):
        raise reader.fault(at, f"base_path = {found!r} names a class: write model_platform: {PYTHON!r} too")
    if is_url(found):
        return found.rstrip("/")
    if not Path(found).is_absolute():
        meant = directory.absolute() / found
        raise reader.fault(at, f"base_path = {found!r} is relative: write it from the root, like {str(meant)!r}")
    return str(Path(found))


def _policy(reader: Reader, block: ConfigBlock) -> VersionPolicy:
    given = reader.block(block, "model_version_policy")
    if given is None:
        return Latest()
    reader.known(given, POLICIES, "model_version_policy")
    chosen = reader.only(given.fields, "model_version_policy")
    if chosen is None:
        return Latest()
    inner = reader.as_block(chosen)
    if chosen.name == "all":
        reader.known(inner, (), "all, which has no keys")
        return All()
    if chosen.name == "latest":
        reader.known(inner, ("num_versions",), "latest")
        count = reader.one(inner, "num_versions")
        # 0 is what the format has for a number that is not set, and TensorFlow Serving takes it as 1.
        return Latest(1 if count is None else max(1, reader.number(count, 0, _MOST_UINT32)))
    return _specific(reader, chosen, inner)


def _specific(reader: Reader, chosen: Field, inner: ConfigBlock) -> Specific:
    reader.known(inner, ("versions",), "specific")
    versions = [reader.number(one, MIN_VERSION, MAX_VERSION) for one in inner.named("versions")]
    if not versions:
        raise reader.fault(chosen.at, "specific names no versions: write versions: 42, once for each")
    return Specific(tuple(sorted(set(versions))))


def _labels(reader: Reader, block: ConfigBlock, name: str, policy: VersionPolicy) -> dict[str, int]:
    labels: dict[str, int] = {}
    for field in block.named("version_labels"):
        entry = reader.as_block(field)
        reader.known(entry, ("key", "value"), "version_labels")
        label, version = reader.text(entry, "key"), reader.one(entry, "value")
        if not label or version is None:
            raise reader.fault(field.at, "a label has a key and a value: version_labels { key: 'stable' value: 42 }")
        if label in labels:
            raise reader.fault(field.at, f"model {name!r} has the label {label!r} twice: remove one")
        labels[label] = reader.number(version, MIN_VERSION, MAX_VERSION)
        if not policy.may_serve(labels[label]):
            raise reader.fault(
                version.at,
                f"model {name!r}: the label {label!r} points at version {labels[label]}, which the policy does not "
                "serve: add it to specific { versions }, or move the label",
            )
    return labels


def _session(reader: Reader, block: ConfigBlock) -> RunSettings | None:
    """The session block, and `workers` beside it, which is the key of it that most want."""
    alone = reader.one(block, "workers")
    within = reader.block(block, "session")
    if alone is not None:
        if within is not None and any(within.named("workers")):
            raise reader.fault(alone.at, "workers is given here and in session: give it once")
        added = (*(within.fields if within else ()), alone)
        block = ConfigBlock((Field("session", ConfigBlock(added, alone.at), alone.at),), block.at)
    return _settings(reader, block, "session", RunSettings, model_settings.complaint, ())


def _devices(reader: Reader, block: ConfigBlock) -> str | None:
    devices = reader.text(block, "devices")
    if devices is not None and not _DEVICES.fullmatch(devices):
        at = next(block.named("devices")).at
        raise reader.fault(at, f"devices = {devices!r}: write cpu, auto or a list like gpu:0,gpu:1")
    return devices


def _image(reader: Reader, block: ConfigBlock) -> ImageSettings | None:
    made = _settings(reader, block, "image", ImageSettings, image_settings.complaint, ())
    told = image_settings.disagreement(made) if made is not None else None
    if told:
        raise reader.fault(next(block.named("image")).at, told)
    return made


def _settings(
    reader: Reader,
    block: ConfigBlock,
    name: str,
    kind: type[_Settings],
    complaint: Callable[[str, Any], str | None],
    lists: Collection[str],
) -> _Settings | None:
    """The block of that name as the dataclass `kind`; fields in `lists` are lists however they are written."""
    given = reader.block(block, name)
    if given is None:
        return None
    known = [one.name for one in fields(kind)]
    reader.known(given, known, name)
    return kind(**{key: _setting(reader, list(given.named(key)), complaint, key in lists) for key in _names(given)})


def _names(block: ConfigBlock) -> list[str]:
    return list(dict.fromkeys(field.name for field in block.fields))


def _setting(reader: Reader, given: list[Field], complaint: Callable[[str, Any], str | None], listed: bool) -> Any:
    first = given[0]
    values = [str(value) if isinstance(value, Word) else value for value in map(reader.plain, given)]
    value: Any = values if listed or len(given) > 1 or first.listed else values[0]
    told = complaint(first.name, value)
    if told:
        raise reader.fault(first.at, f"{first.name} = {value!r}: {told}")
    return tuple(value) if isinstance(value, list) else value


# Fields of a Block as values of a type, with one clear message where one is not.

_TRUE, _FALSE = ("true", "True", "t"), ("false", "False", "f")


class Reader:
    """Reads values; `source` is the file's name, for messages."""

    def __init__(self, source: str) -> None:
        self._source = source

    def fault(self, at: SourcePosition, message: str) -> ConfigError:
        """An error that says where."""
        return ConfigError(f"{':'.join(part for part in (self._source, str(at)) if part)}: {message}")

    def known(self, block: ConfigBlock, names: Collection[str], inside: str) -> None:
        """Refuses fields of other names, and says what may have been meant."""
        for field in block.fields:
            if field.name not in names:
                near = difflib.get_close_matches(field.name, names, 1, 0.6)
                meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
                raise self.fault(field.at, f"unknown key {field.name!r} in {inside}: {meant}")

    def one(self, block: ConfigBlock, name: str) -> Field | None:
        """The field of a name that may be there once."""
        found = list(block.named(name))
        if len(found) > 1 or (found and found[0].listed):
            raise self.fault(found[-1].at, f"{name} takes one value: give it once, and no list")
        return found[0] if found else None

    def block(self, block: ConfigBlock, name: str) -> ConfigBlock | None:
        """The block of a name that may be there once."""
        found = self.one(block, name)
        return None if found is None else self.as_block(found)

    def as_block(self, field: Field) -> ConfigBlock:
        """The field's block."""
        if not isinstance(field.value, ConfigBlock):
            raise self.fault(
                field.at, f"{field.name} = {shown(field.value)}: a block is expected: {field.name} {{ … }}"
            )
        return field.value

    def text(self, block: ConfigBlock, name: str) -> str | None:
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

    def truth(self, block: ConfigBlock, name: str) -> bool | None:
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
        if isinstance(field.value, ConfigBlock):
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
    if isinstance(value, ConfigBlock):
        return "{ … }"
    return str(value) if isinstance(value, Word) else repr(value)


CUSTOM = "custom_model_config"


@dataclass(frozen=True)
class ConfigFile:
    """What a configuration file asks for."""

    #: In the order of the file; empty where it names none.
    models: tuple[ModelConfig, ...]
    #: What it says that has no effect here.
    warnings: tuple[str, ...] = ()


def load(path: Path) -> ConfigFile:
    """Reads a file: TOML where its name ends in .toml, protobuf's text format of ModelServerConfig otherwise.

    Raises:
        ConfigError: it can't be read, or says something that will not do; the message has file, line and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text: {error}; write it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}; give a readable model_config_file") from error
    return loads(text, str(path), toml=path.suffix == ".toml", directory=path.parent)


def loads(text: str, source: str, *, toml: bool = False, directory: Path = Path()) -> ConfigFile:
    """Reads a configuration's text; `source` names it in messages, `directory` is what a relative path may have meant.

    Raises:
        ConfigError: as for `load`.
    """
    reader = Reader(source)
    try:
        top = (config_toml if toml else config_text).parse(text)
    except SyntaxFault as fault:
        raise reader.fault(fault.where, fault.message) from fault
    return _config_file(reader, top, directory)


def _config_file(reader: Reader, top: ConfigBlock, directory: Path) -> ConfigFile:
    for custom in top.named(CUSTOM):
        raise reader.fault(custom.at, f"{CUSTOM} is not supported: list the models in {LIST} {{ config {{ … }} }}")
    reader.known(top, (LIST,), "the file")
    listed = reader.block(top, LIST)
    if listed is None:
        raise reader.fault(
            SourcePosition(1, 1), f"there is no {LIST}: write {LIST} {{ config {{ name: … base_path: … }} }}"
        )
    reader.known(listed, ("config",), LIST)
    models: list[ModelConfig] = []
    lines: dict[str, int] = {}
    for field in listed.named("config"):
        made = model(reader, reader.as_block(field), directory)
        if made.name in lines:
            raise reader.fault(
                field.at, f"model {made.name!r} is in the file already, at line {lines[made.name]}: each name once"
            )
        lines[made.name] = field.at.line
        models.append(made)
    return ConfigFile(tuple(models), tuple(_ignored(reader, listed)))


def _ignored(reader: Reader, listed: ConfigBlock) -> list[str]:
    return [
        reader.fault(field.at, "logging_config has no effect here and is ignored").message
        for block in listed.blocks("config")
        for field in block.named("logging_config")
    ]
