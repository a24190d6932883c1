"""Which models are to be served, by the settings.

--model … | --model-config-file FILE  --models_of-->  ModelConfigs
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.models import config_file
from thriftserve.models.repository import ModelConfig, parse_model_flags
from thriftserve.settings import ServeSettings

log = logging.getLogger(__name__)


def models_of(settings: ServeSettings) -> tuple[ModelConfig, ...]:
    """The models to serve, at least one.

    Raises:
        ConfigError: there is none, or one can't be read or is not to be had.
    """
    models = _from_file(settings) if settings.model_config_file else parse_model_flags(settings.model)
    if not models:
        raise ConfigError(
            "no model to serve: give one or more as --model NAME=BASE_PATH, for example --model digits=/models/digits"
        )
    return models


def _from_file(settings: ServeSettings) -> tuple[ModelConfig, ...]:
    if settings.model:
        raise ConfigError("both model and model_config_file are set: list every model in one of them")
    path = Path(settings.model_config_file or "").expanduser().absolute()
    found = config_file.load(path)
    for warning in found.warnings:
        log.warning("%s", warning)
    if not found.models:
        raise ConfigError(f"{path}: lists no model: add a config {{ name: … base_path: … }}")
    return found.models


def file_stamp(settings: ServeSettings) -> tuple[int, int, int] | None:
    """What tells that the configuration file has changed; None where there is none to be seen."""
    try:
        found = os.stat(Path(settings.model_config_file or "").expanduser())
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
