"""A configuration file, read whole: every model of it, or one error.

models.config | models.toml  --load-->  ConfigFile(models, warnings)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.models.config_file import text_format, toml_tree
from thriftserve.models.config_file.model_fields import model
from thriftserve.models.config_file.reading import Reader
from thriftserve.models.config_file.toml_tree import LIST
from thriftserve.models.config_file.tree import Block, Place, SyntaxFault
from thriftserve.models.repository import ModelConfig

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
        top = (toml_tree if toml else text_format).parse(text)
    except SyntaxFault as fault:
        raise reader.fault(fault.where, fault.message) from fault
    return _config_file(reader, top, directory)


def _config_file(reader: Reader, top: Block, directory: Path) -> ConfigFile:
    for custom in top.named(CUSTOM):
        raise reader.fault(custom.at, f"{CUSTOM} is not supported: list the models in {LIST} {{ config {{ … }} }}")
    reader.known(top, (LIST,), "the file")
    listed = reader.block(top, LIST)
    if listed is None:
        raise reader.fault(Place(1, 1), f"there is no {LIST}: write {LIST} {{ config {{ name: … base_path: … }} }}")
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


def _ignored(reader: Reader, listed: Block) -> list[str]:
    return [
        reader.fault(field.at, "logging_config has no effect here and is ignored").message
        for block in listed.blocks("config")
        for field in block.named("logging_config")
    ]
