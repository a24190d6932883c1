"""The configuration: the models that the settings ask for, the first plan, and what holds until another can be used.

--model … | --model-config-file FILE  --read_models-->  ModelConfigs  --Configuration.adopt-->  configured.json
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.controller.sources import MirrorClient, local_base_path, mirror_cache
from thriftserve.errors import ConfigError, ModelLoadError
from thriftserve.models import devices, process_layout
from thriftserve.remote.mirror import has_any
from thriftserve.repository import config_file
from thriftserve.repository.labels import Labels
from thriftserve.repository.plan import Plan, PlannedModel, config_from_json, config_to_json
from thriftserve.repository.state_store import StateDir, StateWriter
from thriftserve.repository.version_states import VersionStatus
from thriftserve.repository.versions import ModelConfig, parse_model_flags
from thriftserve.repository.watcher import Watcher
from thriftserve.settings import ServeSettings
from thriftserve_idl.ttypes import ModelState


def read_models(settings: ServeSettings) -> tuple[ModelConfig, ...]:
    """Return the models to serve, at least one.

    Raises:
        ConfigError: there is none, or one can't be read, or it asks for what the server type or machine does not have.
    """
    models = _read_file(settings) if settings.model_config_file else parse_model_flags(settings.model)
    if settings.batching_parameters_file:
        models = _with_batching(models, Path(settings.batching_parameters_file).expanduser())
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


def _with_batching(models: Iterable[ModelConfig], path: Path) -> tuple[ModelConfig, ...]:
    batching, ignored = config_file.load_batching_parameters(path)
    for warning in ignored:
        log.warning("%s", warning)
    return tuple(replace(model, batching=model.batching or batching) for model in models)


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


_POLL_S = 1.0
#: A server whose URLs do not answer for so long starts with the versions that it mirrored in an earlier run.
_MIRROR_TIMEOUT_S = 20.0
#: Without a version from an earlier run, the start fails after so many syncs that landed none.
_MAX_SYNCS = 3

log = logging.getLogger(__name__)


def write_first_plan(
    settings: ServeSettings, configured: Sequence[ModelConfig], state: StateDir
) -> tuple[Plan, Watcher]:
    """Write the plan that the first workers load: of the configuration, and of operators' overrides of an earlier run.

    It waits for versions behind URLs.

    Returns:
        The plan, and the watcher that has polled the base paths once.

    Raises:
        ModelLoadError: a model has no version that could be loaded; the message names it and the remedy.
        ConfigError: the state directory can't be written.
    """
    state.prepare()
    save_configuration(state, configured, file_stamp(settings))
    overrides = OperatorOverrides(state, configured)
    overrides.drop_missing()
    configs = overrides.configs(configured)
    cache = mirror_cache(settings, state)
    mirror_problems = _mirror_all([config for config in configs if config.remote], cache)
    watcher = Watcher(configs, partial(local_base_path, cache))
    polled = watcher.poll(settled=True).models
    for config in configs:
        if config in configured and not polled[config.name].wanted:
            problems = mirror_problems.get(config.source) or polled[config.name].problems
            raise ModelLoadError(f"model {config.name!r}: {'; '.join(problems)}")
    wanted = ((config, overrides.versions(config.name, polled[config.name].wanted)) for config in configs)
    plan = Plan(1, tuple(PlannedModel.of(config, versions) for config, versions in wanted if versions), first=True)
    state.write("plan", plan.to_json())
    labels = Labels(state.labels_file).configure({config.name: config.labels for config in configs})
    # A worker answers only once it has loaded all of them: whoever can read this state finds it true.
    states = {
        model.config.name: [VersionStatus(version.version, ModelState.AVAILABLE) for version in model.versions]
        for model in plan.models
    }
    StateWriter(state).write(states, labels)
    return plan, watcher


def _mirror_all(configs: Sequence[ModelConfig], cache: Path) -> dict[str, tuple[str, ...]]:
    """Wait until the versions behind URLs have landed or will not; return the problems by URL."""
    if not configs:
        return {}
    began = time.monotonic()
    mirrors = MirrorClient(cache)
    mirrors.configure(configs, _POLL_S, (), began)
    log.info("waiting for versions from %s", ", ".join(sorted({config.source for config in configs})))
    try:
        while not all(_is_settled(mirrors, config, cache, time.monotonic() - began) for config in configs):
            if not mirrors.alive:
                raise ConfigError(f"mirror_dir: versions behind URLs can't be copied to {cache}: see the log")
            mirrors.wait_for_report(_POLL_S)
        return {config.source: mirrors.report(config.source).problems for config in configs}
    finally:
        mirrors.close()


def _is_settled(mirrors: MirrorClient, config: ModelConfig, cache: Path, waited_s: float) -> bool:
    report = mirrors.report(config.source)
    if has_any(local_base_path(cache, config), config.policy):
        return report.settled or waited_s > _MIRROR_TIMEOUT_S
    return report.settled and report.syncs >= _MAX_SYNCS


_FILE = "configured"
