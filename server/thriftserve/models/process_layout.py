"""How sessions are laid over processes, threads and cores.

    flags | configuration file | model.toml [session] | cores, devices  -->  workers x runs at once x threads

A flag goes first, then the configuration of a model, then the model.toml of its newest version (`thriftserve model
tune` writes it), then a rule. On the CPU every core of a batching server has one run, and two runs share a process:
they share its memory, and the interpreter's lock is free while they run. On GPUs there is a process for each device.
Python models hold the lock while they run, so they get a process for each core.

Every worker serves every model: if several models set one thing, the largest number wins.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from thriftserve.cores import usable_cores
from thriftserve.errors import ConfigError
from thriftserve.models import devices
from thriftserve.repository import model_settings
from thriftserve.repository.model_settings import UNSET, RunSettings
from thriftserve.repository.plan import PlannedModel
from thriftserve.repository.versions import ModelConfig
from thriftserve.settings import ServeSettings
from thriftserve.settings.host import server_type_uses

#: The settings that make up a layout; `RunSettings` has fields of the same names, in this order.
KEYS = ("workers", "runs_per_worker", "intra_op_threads", "inter_op_threads")
#: Runs at once in one process on the CPU.
RUNS_ON_CPU = 2

log = logging.getLogger(__name__)


def lay_out(settings: ServeSettings, models: Sequence[PlannedModel], cores: int | None = None) -> ServeSettings:
    """Return the settings with workers, runs and threads filled in, as far as the server type has them.

    Args:
        settings: as given.
        models: what is served.
        cores: all that may be used; None: what the system gives.

    Raises:
        ModelLoadError: A model.toml can't be read.
    """
    asked = {model.config.name: _run_settings(model) for model in models}
    largest = {key: _largest(settings.server_type, key, asked) for key in KEYS}
    layout: dict[str, Any] = {key: getattr(settings, key) or largest[key] for key in KEYS}
    settings = replace(settings, **layout)
    if settings.server_type != "TBatchingServer":
        return settings
    cores = cores or usable_cores()
    tensorflow = any(model.config.platform == "tensorflow" for model in models)
    on_cpu = settings.devices == devices.CPU
    gpus = 0 if on_cpu else len(set(devices.assign_devices(settings.devices, 256)) - {devices.CPU})
    runs = settings.runs_per_worker or (min(RUNS_ON_CPU, cores) if tensorflow and not gpus else 1)
    workers = settings.workers or gpus or max(1, -(-cores // runs))
    threads = settings.intra_op_threads or max(1, cores // (workers * runs))
    return replace(settings, workers=workers, runs_per_worker=runs, intra_op_threads=threads)


def list_changes(before: ServeSettings, now: ServeSettings) -> list[str]:
    """Return how two layouts differ, in words: a running server keeps the one that it was started with."""
    return [
        f"{name} {getattr(before, name)} -> {getattr(now, name)}"
        for name in KEYS
        if getattr(before, name) != getattr(now, name)
    ]


def check(settings: ServeSettings, configs: Iterable[ModelConfig]) -> None:
    """Check that the server type has a use for the layout that the configuration of each model asks for.

    Raises:
        ConfigError: It has none; the message names the model and the key.
    """
    for config in configs:
        for key in KEYS:
            number = getattr(config.session, key, None)
            if number is not None and not server_type_uses(settings.server_type, key):
                raise ConfigError(
                    f"model {config.name!r}: {key} = {number}: {settings.server_type} has no use for it: leave it out"
                )


def _run_settings(model: PlannedModel) -> RunSettings:
    if model.config.session is not None:
        return model.config.session
    if model.config.platform != "tensorflow":
        return UNSET.session
    return model_settings.load(model.versions[0].path).session


def _largest(server_type: str, key: str, asked: Mapping[str, RunSettings]) -> int | None:
    numbers = {name: number for name, run in asked.items() if (number := getattr(run, key)) is not None}
    words = ", ".join(f"{name} {number}" for name, number in numbers.items())
    if numbers and not server_type_uses(server_type, key):
        log.warning("%s has no use for %s, which a model.toml sets: %s", server_type, key, words)
        return None
    if len(set(numbers.values())) > 1:
        log.warning("models differ in %s (%s): every worker serves every model, with the largest", key, words)
    return max(numbers.values(), default=None)
