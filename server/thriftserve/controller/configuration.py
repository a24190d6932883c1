"""The configuration: which models the settings ask for, and which configuration holds until another one can be used.

--model … | --model-config-file FILE  --read_models-->  ModelConfigs  --Configuration.adopt-->  configured.json
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.models import devices, process_layout
from thriftserve.repository import config_file
from thriftserve.repository.plan import config_from_json, config_to_json
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import ModelConfig, parse_model_flags
from thriftserve.settings import ServeSettings

_FILE = "configured"

log = logging.getLogger(__name__)


def read_models(settings: ServeSettings) -> tuple[ModelConfig, ...]:
    """Return the models to serve, at least one.

    Raises:
        ConfigError: there is none, or one can't be read, or it asks for what the server type or machine does not have.
    """
    models = _read_file(settings) if settings.model_config_file else parse_model_flags(settings.model)
    if not models:
        raise ConfigError(
            "no model to serve: give one or more as --model NAME=BASE_PATH, for example --model digits=/models/digits"
        )
    devices.choose_devices(settings, models)
    process_layout.check(settings, models)
    return models


def _read_file(settings: ServeSettings) -> tuple[ModelConfig, ...]:
    if settings.model:
        raise ConfigError("both model and model_config_file are set: list every model in one of them")
    path = Path(settings.model_config_file or "").expanduser().absolute()
    content = config_file.load(path)
    for warning in content.warnings:
        log.warning("%s", warning)
    if not content.models:
        raise ConfigError(f"{path}: lists no model: add a config {{ name: … base_path: … }}")
    return content.models


def file_stamp(settings: ServeSettings) -> list[int] | None:
    """Return what changes with the configuration file; None if there is no such file."""
    try:
        status = os.stat(Path(settings.model_config_file or "").expanduser())
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def save_configuration(state: StateDir, models: Iterable[ModelConfig], stamp: list[int] | None) -> None:
    """Write down which models hold, and the stamp of the file that they were read from."""
    content = {"models": [config_to_json(config) for config in models], "stamp": stamp}
    state.write(_FILE, content, mode=0o600)  # URLs may hold passwords and signatures


class Configuration:
    """The configuration that holds. A controller that replaces one that died has the same, also if the file changed.

    Args:
        read: returns the settings as they are now.
        settings: as they were at the start.
        state: where the configuration that holds is kept.

    Attributes:
        settings: those that hold.
        models: those that hold.
        due_at: when to look at the file again, monotonic seconds.
    """

    def __init__(self, read: Callable[[], ServeSettings], settings: ServeSettings, state: StateDir) -> None:
        self._read = read
        self._state = state
        self.settings = settings
        saved = state.read(_FILE)
        self.models = read_models(settings) if saved is None else tuple(map(config_from_json, saved["models"]))
        self._stamp = file_stamp(settings) if saved is None else saved["stamp"]
        self.due_at = self._next_check(time.monotonic())

    def check_file(self, now: float) -> bool:
        """Return whether the file has changed since this was last called, or since the models were read from it."""
        self.due_at = self._next_check(now)
        before, self._stamp = self._stamp, file_stamp(self.settings)
        return before != self._stamp

    def read(self) -> tuple[ServeSettings, tuple[ModelConfig, ...]]:
        """Return settings and models as they are now, without adopting them.

        Raises:
            StartError: they can't be used.
        """
        settings = self._read()
        return settings, read_models(settings)

    def adopt(self, settings: ServeSettings, models: tuple[ModelConfig, ...]) -> None:
        """Have these hold from now on."""
        self.settings, self.models = settings, models
        save_configuration(self._state, models, self._stamp)

    def _next_check(self, now: float) -> float:
        return now + (self.settings.model_config_poll_s or math.inf)
