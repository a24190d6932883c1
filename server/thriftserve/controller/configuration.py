"""Which models are to be served, by the settings; and the configuration that holds, until another one can be used.

--model … | --model-config-file FILE  --models_of-->  ModelConfigs  --Configuration.take-->  configured.json
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.models import devices, process_layout
from thriftserve.repository import config_file
from thriftserve.repository.plan import config_from_json, config_to_json
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import ModelConfig, parse_model_flags
from thriftserve.settings import ServeSettings

# How often the keeper looks, and how often it tries.

#: Pauses between two tries do not grow beyond this.
_LONGEST_PAUSE_S = 3600.0


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds, and numbers of tries."""

    #: Between two looks at base paths; 0: only when told.
    repository_s: float = 1.0
    #: Between two looks at the configuration file; 0: only when told.
    configuration_s: float = 0.0
    #: Between two looks behind URLs; 0: only when told.
    mirror_s: float = 10.0
    retries: int = 5
    retry_s: float = 10.0

    @classmethod
    def of(cls, settings: ServeSettings) -> RetryPolicy:
        """As the settings say."""
        return cls(
            settings.file_system_poll_s,
            settings.model_config_poll_s,
            settings.mirror_poll_s,
            settings.max_load_retries,
            settings.load_retry_interval_s,
        )

    @property
    def second_look_s(self) -> float:
        """After a look, how long until the one that shows what has stayed the same."""
        return min(self.repository_s or 1.0, 1.0)

    def pause_s(self, tries: int) -> float:
        """After so many tries, how long until the next; infinite where there is none."""
        if tries > self.retries:
            return float("inf")
        return float(min(self.retry_s * 2 ** (tries - 1), _LONGEST_PAUSE_S))


_FILE = "configured"

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
    devices.choose_devices(settings, models)
    process_layout.check(settings, models)
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


def file_stamp(settings: ServeSettings) -> list[int] | None:
    """What tells that the configuration file has changed; None where there is none to be seen."""
    try:
        found = os.stat(Path(settings.model_config_file or "").expanduser())
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]


class Configuration:
    """What holds now. A keeper that takes over from one that died has the same, whatever the file says by then.

    Args:
        read: reads the settings as they are now.
        settings: as they were at the start.
        state: where it is kept.

    Attributes:
        settings: that hold now.
        models: to be served, by those.
        due_at: when the file is to be looked at next, monotonic seconds.
    """

    def __init__(self, read: Callable[[], ServeSettings], settings: ServeSettings, state: StateDir) -> None:
        self._read = read
        self._state = state
        self.settings = settings
        kept = state.read(_FILE)
        self.models = models_of(settings) if kept is None else tuple(map(config_from_json, kept["models"]))
        self._stamp = file_stamp(settings) if kept is None else kept["stamp"]
        self.due_at = 0.0
        self.looked(time.monotonic())

    def looked(self, now: float) -> bool:
        """The file was looked at now; whether it has changed since it was last read."""
        self.due_at = now + (RetryPolicy.of(self.settings).configuration_s or float("inf"))
        before, self._stamp = self._stamp, file_stamp(self.settings)
        return before != self._stamp

    def read(self) -> tuple[ServeSettings, tuple[ModelConfig, ...]]:
        """Settings and models as they are now; nothing holds of it yet.

        Raises:
            StartError: they can't be used.
        """
        settings = self._read()
        return settings, models_of(settings)

    def take(self, settings: ServeSettings, models: tuple[ModelConfig, ...]) -> None:
        """This holds from now on."""
        self.settings, self.models = settings, models
        keep(self._state, models, self._stamp)


def keep(state: StateDir, models: Iterable[ModelConfig], stamp: list[int] | None) -> None:
    """Writes down what holds; URLs in it may carry passwords."""
    state.write(_FILE, {"models": [config_to_json(one) for one in models], "stamp": stamp}, mode=0o600)
